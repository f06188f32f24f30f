"""Scores of a forecast against what happened, on the rows that were observed.

Shapes: N rows (series, cut-off), H steps, Q quantiles. A label that was not observed is NaN
and counts nowhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """How good one forecast was. Errors are forecast minus label, in the unit of the label."""

    rows: int
    """Labels scored."""
    wmae: float
    """Weighted mean absolute error, sum(w |e|) / sum(w): the score of Kaggle's Walmart
    competition, where holiday weeks weigh 5."""
    mae: float
    """Mean absolute error."""
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
        """Return the scores as plain JSON values."""
        return asdict(self)


def pinball(label: Floats, forecast: Floats, quantile: float) -> Floats:
    """Return the pinball loss max(q (y - f), (q - 1) (y - f)) (Koenker & Bassett 1978)."""
    error = label - forecast
    return np.maximum(quantile * error, (quantile - 1) * error)


def score(
    label_NH: Floats,
    weight_NH: Floats,
    point_NH: Floats,
    quantile_NHQ: Floats | None = None,
    quantiles: tuple[float, ...] = (),
) -> Scores:
    """Score a point forecast, and its quantiles where it has any, on the observed labels."""
    seen = np.isfinite(label_NH)
    label, weight = label_NH[seen], weight_NH[seen]
    error = point_NH[seen] - label
    total = float(np.abs(label).sum())
    coverage = loss = None
    if quantile_NHQ is not None:
        quantile = quantile_NHQ[seen]
        coverage = float(((quantile[:, 0] <= label) & (label <= quantile[:, -1])).mean())
        losses = [pinball(label, quantile[:, i], q).sum() for i, q in enumerate(quantiles)]
        loss = 2 * float(np.mean(losses)) / total
    return Scores(
        rows=int(seen.sum()),
        wmae=float((weight * np.abs(error)).sum() / weight.sum()),
        mae=float(np.abs(error).mean()),
        wape=float(np.abs(error).sum()) / total,
        bias=float(error.sum()) / total,
        coverage=coverage,
        quantile_loss=loss,
    )
