"""The baseline as a model: quantiles as far from it as labels were from it in the past.

The cheapest model there is, and a steady member of an ensemble: what learnt members get wrong in
a season they have not seen, it gets no worse than last year. Shapes as in
`feastrain.models.encoder`; Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feastrain.artifacts import write_json

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.models.encoder import Encoder, Floats
    from feastrain.recipe import BaselineModel


LEAST_SIZE = 0.2
"""Of the row's unit: below it errors do not shrink with the baseline."""


@dataclass(frozen=True)
class OverBaseline:
    """A stepped feature, and by step how far quantiles lie from it, as a share of its size."""

    about: dict[str, Any]

    looks_back = False

    @classmethod
    def fit(
        cls, model: BaselineModel, encoder: Encoder, rows: pa.Table, labels: tuple[Floats, Floats]
    ) -> OverBaseline:
        """Read off the quantiles of what labels were over the baseline; the median stays at it.

        Args:
            model: the baseline and the quantiles.
            encoder: fitted on the training rows.
            rows: N rows to learn from.
            labels: [N, H] what is left over the baseline, in units of the row, and weights, 0
                where not observed.
        """
        base_NH, unit_N = encoder.base(rows, model.baseline), encoder.unit(rows)
        share_NH = labels[0] * unit_N[:, None] / _size(base_NH, unit_N)
        shares = []
        for share_N, weight_N in zip(share_NH.T, labels[1].T, strict=True):
            seen_M = share_N[weight_N > 0]
            step_Q = np.zeros(len(model.quantiles))
            if len(seen_M):
                step_Q = np.quantile(seen_M, model.quantiles) - np.median(seen_M)
            shares.append(step_Q.tolist())
        return cls(model.model_dump(mode="json") | {"shares": shares})

    def forecast(
        self, encoder: Encoder, rows: pa.Table, known: pa.Table, past: pa.Table | None = None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q] quantiles in the unit of the label, in row order."""
        del known, past
        base_NH = encoder.base(rows, self.about["baseline"])
        share_HQ = np.asarray(self.about["shares"])
        size_NH = _size(base_NH, encoder.unit(rows))
        forecast_NHQ: NDArray[np.float64] = base_NH[:, :, None] + size_NH[:, :, None] * share_HQ
        return forecast_NHQ

    def write(self, directory: Path) -> None:
        """Write the file that `load` reads."""
        write_json(directory / "model.json", self.about)

    @classmethod
    def load(cls, directory: Path, about: dict[str, Any]) -> OverBaseline:
        """Read what `write` wrote: all of it is in `model.json`."""
        del directory
        return cls(about)


def _size(base_NH: NDArray[np.float64], unit_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [N, H] what errors are a share of: the baseline, or a little of the row's unit."""
    return np.maximum(np.abs(base_NH), LEAST_SIZE * unit_N[:, None])
