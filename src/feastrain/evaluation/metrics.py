"""Scores of a forecast against what happened, on the labels that were observed.

Shapes: M forecasts (of a row and a step, in any shape of their own), Q quantiles. A label that
was not observed is NaN and counts nowhere.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """How good one forecast was. Errors are forecast minus label, in the unit of the label.

    A score that divides by a sum of zero is NaN.
    """

    rows: int
    """Labels scored."""
    wmae: float
    """Weighted mean absolute error, sum(w |e|) / sum(w): the score of Kaggle's Walmart
    competition, where holiday weeks weigh 5."""
    mae: float
    """Mean absolute error."""
    rmse: float
    """Root of the mean squared error."""
    wape: float
    """Sum of absolute errors over the sum of absolute labels (Kolassa & Schütz 2007)."""
    bias: float
    """Sum of errors over the sum of absolute labels; positive is too much."""
    coverage: float | None
    """Share of labels within the outermost quantiles; None for a point forecast."""
    quantile_loss: float | None
    """Weighted quantile loss: 2 x the mean over quantiles of the summed pinball loss, over
    the summed absolute labels (Salinas et al. 2020, DeepAR, section 4.1)."""

    def to_json(self) -> dict[str, float | int | None]:
        """Return the scores as plain JSON values; NaN is null."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        optional = ("coverage", "quantile_loss")
        told: dict[str, Any] = {
            name: math.nan if value is None and name not in optional else value
            for name, value in content.items()
        }
        return cls(**told)


def pinball(label: Floats, forecast: Floats, quantile: float) -> Floats:
    """Return the pinball loss max(q (y - f), (q - 1) (y - f)) (Koenker & Bassett 1978)."""
    error = label - forecast
    return np.maximum(quantile * error, (quantile - 1) * error)


def score(
    label_M: Floats,
    weight_M: Floats,
    point_M: Floats,
    quantile_MQ: Floats | None = None,
    quantiles: tuple[float, ...] = (),
) -> Scores:
    """Score a point forecast, and its quantiles where it has any, on the observed labels."""
    seen = np.isfinite(label_M)
    label, weight = label_M[seen], weight_M[seen]
    error = point_M[seen] - label
    size, total = len(label), float(np.abs(label).sum())
    coverage = loss = None
    if quantile_MQ is not None:
        quantile = quantile_MQ[seen]
        inside = (quantile[:, 0] <= label) & (label <= quantile[:, -1])
        losses = [pinball(label, quantile[:, i], q).sum() for i, q in enumerate(quantiles)]
        coverage, loss = _over(inside.sum(), size), _over(2 * np.mean(losses), total)
    return Scores(
        rows=size,
        wmae=_over((weight * np.abs(error)).sum(), weight.sum()),
        mae=_over(np.abs(error).sum(), size),
        rmse=math.sqrt(_over(np.square(error).sum(), size)),
        wape=_over(np.abs(error).sum(), total),
        bias=_over(error.sum(), total),
        coverage=coverage,
        quantile_loss=loss,
    )


def reached(label_M: Floats, quantile_MQ: Floats) -> list[float]:
    """Return [Q]: the share of observed labels at or below each quantile (reliability).

    A calibrated forecast reaches each quantile's own level (Gneiting et al. 2007).
    """
    seen = np.isfinite(label_M)
    below_Q = (label_M[seen][:, None] <= quantile_MQ[seen]).sum(axis=0)
    return [_over(below, int(seen.sum())) for below in below_Q]


def _over(total: float, count: float) -> float:
    return float(total) / float(count) if count else math.nan
