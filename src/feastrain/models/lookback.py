"""Rows with their past, laid out so that a window of it is a run of places in memory.

The rows of all cut-offs are laid out once by series and period, with L - 1 empty periods before
each series. A window is then a run of L periods, and a batch of windows one gather of overlapping
runs. Shapes: N rows, B rows of a batch, L look-back periods, O observed numbers, P = series x
(L - 1 + periods) places, G groups of known-ahead rows; the others as in `feastrain.models.encoder`.
A number that is missing is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.models.ahead import ahead_of
from feastrain.models.encoder import CLIP

if TYPE_CHECKING:
    from datetime import timedelta

    from numpy.typing import NDArray

    from feastrain.models.encoder import Encoder, Floats, Whole


@dataclass(frozen=True)
class LookBack:
    """N rows and what lies before them."""

    context: int
    """L, how many periods a row looks back on, its own cut-off included."""
    in_units: int
    """How many of the observed numbers, the first ones, are divided by the unit of the row."""
    static_NF: Floats
    category_NC: Whole
    step_NHS: Floats
    unit_N: Floats
    group_N: Whole
    known_GHK: Floats
    known_category_GHD: Whole
    first_GK: Floats
    """Of G + 1 groups: what is known of a past period is what the cut-off before it had as its
    first step; the last group is that of a period of which nothing is known."""
    first_category_GD: Whole
    observed_PO: Floats
    """Numbers in the label's unit are not yet divided by it."""
    about_P: Whole
    """The group that what is known of a period is found in; -1 where there is no row."""
    start_N: Whole
    """The first place of each row's window."""

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        rows: pa.Table,
        known: pa.Table,
        past: pa.Table,
        context: int,
        frequency: timedelta,
    ) -> Self:
        """Lay out rows.

        Args:
            encoder: fitted on training rows.
            rows: entities, `event_timestamp` (the cut-off) and features, to be forecast.
            known: known-ahead features, H rows in step order for each cut-off.
            past: like `rows`, for earlier cut-offs of the same series; what is later is not read.
            context: L, how many periods a row looks back on, its own cut-off included.
            frequency: of the cut-offs.
        """
        horizon, unit_N = encoder.columns.horizon, encoder.unit(rows)
        log_unit = (np.log(unit_N) - encoder.log_unit.mean) / encoder.log_unit.deviation
        static_NF = encoder.values(encoder.static_numbers, rows, unit_N)
        static_NF = np.column_stack([np.clip(log_unit, -CLIP, CLIP), static_NF])
        group_N = ahead_of(known, encoder.columns).groups(rows)
        groups = len(known) // horizon
        known_GHK = encoder.values(encoder.known, known).reshape(groups, horizon, -1)
        codes = encoder.codes(known, encoder.known_categories).reshape(groups, horizon, -1)
        unknown = np.full((1, known_GHK.shape[2]), np.nan, dtype=np.float32)
        layout = _Layout.of(encoder, rows, known, past, context=context, frequency=frequency)
        return cls(
            context=context,
            in_units=sum(number.in_units for number in encoder.observed_numbers),
            static_NF=static_NF.astype(np.float32),
            category_NC=encoder.codes(rows, encoder.row_categories),
            step_NHS=_stepped(encoder, rows, unit_N),
            unit_N=unit_N.astype(np.float32),
            group_N=group_N,
            known_GHK=known_GHK,
            known_category_GHD=codes,
            first_GK=np.concatenate([known_GHK[:, 0], unknown]),
            first_category_GD=np.pad(codes[:, 0], ((0, 1), (0, 0))),
            observed_PO=layout.observed_PO,
            about_P=layout.group_P,
            start_N=layout.place_N - (context - 1),
        )

    def batch(self, index_B: Whole) -> dict[str, NDArray[Any]]:
        """Gather the rows at `index_B`, and the past of each; the shapes are in the names."""
        place_BL = self.start_N[index_B][:, None] + np.arange(self.context)
        past_BLO, group_BL = self.observed_PO[place_BL], self.about_P[place_BL]
        scaled = past_BLO[..., : self.in_units]
        np.clip(scaled / self.unit_N[index_B][:, None, None], -CLIP, CLIP, out=scaled)
        group_B = self.group_N[index_B]
        return {
            "static_BF": self.static_NF[index_B],
            "category_BC": self.category_NC[index_B],
            "past_BLO": past_BLO,
            # -1 is a place without a row, and indexes what is known of no period.
            "past_known_BLK": self.first_GK[group_BL],
            "past_category_BLD": self.first_category_GD[group_BL],
            "valid_BL": (group_BL >= 0).astype(np.float32),
            "step_BHS": self.step_NHS[index_B],
            "known_BHK": self.known_GHK[group_B],
            "known_category_BHD": self.known_category_GHD[group_B],
        }


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
    ahead = ahead_of(known, encoder.columns)
    heads = ahead.heads
    before = pc.subtract(table["event_timestamp"], pa.scalar(frequency))
    before = before.cast(heads.schema.field("event_timestamp").type)
    wanted = {name: table[name] for name in encoder.columns.known_keys}
    group_N = ahead.places.of(pa.table({**wanted, "event_timestamp": before}))
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
