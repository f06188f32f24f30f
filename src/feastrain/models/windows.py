"""Rows with their past: what a sequence model reads, gathered by (series, cut-off).

The rows of all cut-offs are laid out once by series and period, with L - 1 empty periods before
each series. A window is then a run of L periods in memory, and a batch of windows one gather of
overlapping runs. Shapes: N rows, B rows of a batch, L look-back periods, O observed numbers,
P = series x (L - 1 + periods) places; the others as in `feastrain.models.encoder`. A number that
is missing is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from feastrain.models.batches import CPU
from feastrain.models.encoder import CLIP, groups_among, known_groups, known_heads

if TYPE_CHECKING:
    from datetime import timedelta

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

        columns, horizon = encoder.columns, encoder.columns.horizon
        unit_N = encoder.unit(rows)
        log_unit = (np.log(unit_N) - encoder.log_unit.mean) / encoder.log_unit.deviation
        static_NF = encoder.values(encoder.static_numbers, rows, unit_N)
        static_NF = np.column_stack([np.clip(log_unit, -CLIP, CLIP), static_NF])
        self._context = context
        self._in_units = sum(number.in_units for number in encoder.observed_numbers)
        self._static_NF = put(static_NF.astype(np.float32))
        self._category_NC = put(encoder.codes(rows, encoder.row_categories))
        self._step_NHS = put(_stepped(encoder, rows, unit_N))
        self._unit_N = put(unit_N.astype(np.float32))
        groups, group_N = known_groups(rows, known, columns)
        self._group_N = put(group_N)
        known_GHK = encoder.values(encoder.known, known).reshape(groups, horizon, -1)
        codes = encoder.codes(known, encoder.known_categories).reshape(groups, horizon, -1)
        self._known_GHK, self._known_category_GHD = put(known_GHK), put(codes)
        # What is known of a past period is what the cut-off before it had as its first step.
        unknown = np.full((1, known_GHK.shape[2]), np.nan, dtype=np.float32)
        self._first_GK = put(np.concatenate([known_GHK[:, 0], unknown]))
        self._first_category_GD = put(np.pad(codes[:, 0], ((0, 1), (0, 0))))
        layout = _Layout.of(encoder, rows, known, past, context=context, frequency=frequency)
        self._start_N = put(layout.place_N - (context - 1))
        self._observed_P = put(layout.observed_PO)
        self._about_P = put(layout.group_P)
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


@dataclass(frozen=True)
class _Layout:
    """Rows by series and period, L - 1 empty places before each series."""

    observed_PO: NDArray[np.float32]
    """Numbers in the label's unit are not yet divided by it."""
    group_P: NDArray[np.int64]
    """Where what is known of the period is found; G where nothing is, -1 where there is no row."""
    place_N: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        rows: pa.Table,
        known: pa.Table,
        past: pa.Table,
        *,
        context: int,
        frequency: timedelta,
    ) -> _Layout:
        needed = [*encoder.columns.entities, "event_timestamp"]
        needed += [number.name for number in encoder.observed_numbers]
        every = pa.concat_tables(
            [table.select(needed) for table in (past, rows)], promote_options="permissive"
        )
        series = _series(every, encoder.columns.entities)
        period = _periods(every, frequency)
        run = context - 1 + int(period.max(initial=0)) + 1
        place = series * run + context - 1 + period
        places = (int(series.max(initial=-1)) + 1) * run
        observed_PO = np.full(
            (max(places, context), len(encoder.observed_numbers)), np.nan, dtype=np.float32
        )
        observed_PO[place] = encoder.values(encoder.observed_numbers, every)
        group_P = np.full(len(observed_PO), -1, dtype=np.int64)
        group_P[place] = _groups_before(encoder, every, known, frequency)
        return cls(observed_PO, group_P, place[len(past) :])


def _series(table: pa.Table, entities: tuple[str, ...]) -> NDArray[np.int64]:
    """Return [N]: the number of each row's series, from 0."""
    frame = table.select(list(entities)).to_pandas()
    numbers: NDArray[np.int64] = frame.groupby(list(entities), sort=False).ngroup().to_numpy()
    return numbers


def _periods(table: pa.Table, frequency: timedelta) -> NDArray[np.int64]:
    """Return [N]: how many periods each row's cut-off is after the first one."""
    stamps = table["event_timestamp"].to_numpy().astype("datetime64[us]").astype(np.int64)
    step = int(np.timedelta64(frequency, "us").astype(np.int64))
    return np.asarray((stamps - stamps.min(initial=np.iinfo(np.int64).max)) // step)


def _groups_before(
    encoder: Encoder, table: pa.Table, known: pa.Table, frequency: timedelta
) -> NDArray[np.int64]:
    """Return [N]: the group of the cut-off one period before each row's; G where there is none."""
    heads = known_heads(known, encoder.columns)
    before = pc.subtract(table["event_timestamp"], pa.scalar(frequency))
    before = before.cast(heads.schema.field("event_timestamp").type)
    wanted = {name: table[name] for name in encoder.columns.known_keys}
    group_N = groups_among(pa.table({**wanted, "event_timestamp": before}), heads)
    return np.where(group_N < 0, len(heads), group_N)


def _stepped(encoder: Encoder, rows: pa.Table, unit_N: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return [N, H, S]: the stepped numbers, scaled, NaN where missing."""
    horizon = encoder.columns.horizon
    step_NHS = np.zeros((len(rows), horizon, len(encoder.stepped)), dtype=np.float32)
    for place, number in enumerate(encoder.stepped):
        names = {f"{number.name}_{step}": number.name for step in range(1, horizon + 1)}
        for step, name in enumerate(names):
            column = rows.select([name]).rename_columns([number.name])
            step_NHS[:, step, place] = encoder.values((number,), column, unit_N)[:, 0]
    return step_NHS
