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


@dataclass(frozen=True)
class OverBaseline:
    """A stepped feature, and by step how far quantiles lie from it in units of the row."""

    about: dict[str, Any]

    looks_back = False

    @classmethod
    def fit(cls, model: BaselineModel, labels: tuple[Floats, Floats]) -> OverBaseline:
        """Read off the quantiles of what labels were over the baseline; the median stays at it.

        Args:
            model: the baseline and the quantiles.
            labels: [N, H] what is left over the baseline, in units of the row, and weights, 0
                where not observed.
        """
        offsets = []
        for left_N, weight_N in zip(labels[0].T, labels[1].T, strict=True):
            seen_M = left_N[weight_N > 0]
            step_Q = np.zeros(len(model.quantiles))
            if len(seen_M):
                step_Q = np.quantile(seen_M, model.quantiles) - np.median(seen_M)
            offsets.append(step_Q.tolist())
        return cls(model.model_dump(mode="json") | {"offsets": offsets})

    def forecast(
        self, encoder: Encoder, rows: pa.Table, known: pa.Table, past: pa.Table | None = None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q] quantiles in the unit of the label, in row order."""
        del known, past
        base_NH = encoder.base(rows, self.about["baseline"])
        offset_HQ = np.asarray(self.about["offsets"])
        forecast_NHQ: NDArray[np.float64] = (
            base_NH[:, :, None] + encoder.unit(rows)[:, None, None] * offset_HQ
        )
        return forecast_NHQ

    def write(self, directory: Path) -> None:
        """Write the file that `load` reads."""
        write_json(directory / "model.json", self.about)

    @classmethod
    def load(cls, directory: Path, about: dict[str, Any]) -> OverBaseline:
        """Read what `write` wrote: all of it is in `model.json`."""
        del directory
        return cls(about)
