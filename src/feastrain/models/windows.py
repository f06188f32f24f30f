"""Rows with their past as tensors: what a sequence model reads, gathered by (series, cut-off).

Shapes as in `feastrain.models.lookback`, which lays the rows out. A number that is missing is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from feastrain.models.batches import CPU
from feastrain.models.encoder import CLIP
from feastrain.models.lookback import LookBack

if TYPE_CHECKING:
    from datetime import timedelta

    import pyarrow as pa
    from numpy.typing import NDArray
    from torch import Tensor

    from feastrain.models.encoder import Encoder


@dataclass(frozen=True)
class WindowBatch:
    """What a sequence model reads for B rows."""

    static_BF: Tensor
    category_BC: Tensor
    past_BLO: Tensor
    """Observed numbers as of each of the last L cut-offs, the row's own last."""
    past_known_BLK: Tensor
    """Known-ahead numbers of the same periods, as they were known one period before."""
    past_category_BLD: Tensor
    valid_BL: Tensor
    """1 where the series has a row, else 0."""
    step_BHS: Tensor
    known_BHK: Tensor
    known_category_BHD: Tensor
    unit_B: Tensor


class WindowRows:
    """Rows of a part with their past as tensors on one device, and labels where they have any."""

    def __init__(  # noqa: PLR0913 - tables by role
        self,
        encoder: Encoder,
        rows: pa.Table,
        known: pa.Table,
        past: pa.Table,
        *,
        context: int,
        frequency: timedelta,
        labels: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
        device: torch.device = CPU,
    ) -> None:
        """Lay out the rows.

        Args:
            encoder: fitted on training rows.
            rows: entities, `event_timestamp` (the cut-off) and features, to be forecast.
            known: known-ahead features, H rows in step order for each cut-off.
            past: like `rows`, for earlier cut-offs of the same series; what is later is not read.
            context: L, how many periods a row looks back on, its own cut-off included.
            frequency: of the cut-offs.
            labels: [N, H] labels in units of their row, and their weights.
            device: where the tensors lie.
        """

        def put(array: NDArray[np.generic]) -> Tensor:
            tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
            return tensor.to(device)

        laid_out = LookBack.of(encoder, rows, known, past, context, frequency)
        self._context, self._in_units = context, laid_out.in_units
        self._static_NF, self._category_NC = put(laid_out.static_NF), put(laid_out.category_NC)
        self._step_NHS, self._unit_N = put(laid_out.step_NHS), put(laid_out.unit_N)
        self._group_N, self._start_N = put(laid_out.group_N), put(laid_out.start_N)
        self._known_GHK = put(laid_out.known_GHK)
        self._known_category_GHD = put(laid_out.known_category_GHD)
        self._first_GK = put(laid_out.first_GK)
        self._first_category_GD = put(laid_out.first_category_GD)
        self._observed_P, self._about_P = put(laid_out.observed_PO), put(laid_out.about_P)
        self._labels = tuple(put(array) for array in labels) if labels else ()

    def __len__(self) -> int:
        return len(self._unit_N)

    def batch(self, index_B: Tensor) -> WindowBatch:
        """Gather the rows at `index_B`, and the past of each."""
        start_B, group_B = self._start_N[index_B], self._group_N[index_B]
        unit_B = self._unit_N[index_B]
        past_BLO = self._windows(self._observed_P, start_B)
        scaled = past_BLO[..., : self._in_units]
        scaled.div_(unit_B[:, None, None]).clamp_(-CLIP, CLIP)
        group_BL = self._windows(self._about_P.unsqueeze(1), start_B).squeeze(2)
        # -1 is a place without a row, and indexes what is known of no period.
        valid_BL = (group_BL >= 0).to(torch.float32)
        return WindowBatch(
            static_BF=self._static_NF[index_B],
            category_BC=self._category_NC[index_B],
            past_BLO=past_BLO,
            past_known_BLK=self._first_GK[group_BL],
            past_category_BLD=self._first_category_GD[group_BL],
            valid_BL=valid_BL,
            step_BHS=self._step_NHS[index_B],
            known_BHK=self._known_GHK[group_B],
            known_category_BHD=self._known_category_GHD[group_B],
            unit_B=unit_B,
        )

    def examples(self, index_B: Tensor) -> tuple[WindowBatch, Tensor, Tensor]:
        """Gather the rows at `index_B`, their labels [B, H], in units, and weights [B, H]."""
        label_NH, weight_NH = self._labels
        return self.batch(index_B), label_NH[index_B], weight_NH[index_B]

    def _windows(self, laid_out_PX: Tensor, start_B: Tensor) -> Tensor:
        """Return [B, L, X]: a run of L places from each start."""
        places, width = laid_out_PX.shape
        runs = laid_out_PX.as_strided(
            (places - self._context + 1, self._context * width), (width, 1)
        )
        return runs.index_select(0, start_B).view(len(start_B), self._context, width)
