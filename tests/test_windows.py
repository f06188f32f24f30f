"""Windows: the past of a row, gathered, against a look at the table."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feastrain.models import encoder as encoders
from feastrain.models.windows import WindowRows
from tiny_snapshot import COLUMNS, START, tiny_tables

WEEK = timedelta(weeks=1)
ROWS, KNOWN = tiny_tables()
ENCODER = encoders.fit(COLUMNS, ROWS, KNOWN)


def windows(rows: pa.Table, past: pa.Table, context: int = 5) -> WindowRows:
    """Windows of `rows` over the tiny tables' known-ahead rows."""
    return WindowRows(ENCODER, rows, KNOWN, past, context=context, frequency=WEEK)


def at(table: pa.Table, shop: int, week: int) -> dict | None:
    """The row of a shop at a cut-off, if there is one."""
    stamp = pa.scalar(START + week * WEEK, table.schema.field("event_timestamp").type)
    found = table.filter(
        pc.and_(pc.equal(table["shop"], shop), pc.equal(table["event_timestamp"], stamp))
    ).to_pylist()
    return found[0] if found else None


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_window_holds_the_rows_of_the_last_cutoffs(data: st.DataObject) -> None:
    """For series with gaps, every place of a window is its row of the table, or empty."""
    keep = data.draw(st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=60, unique=True))
    past = ROWS.take(pa.array(keep))
    row = data.draw(st.integers(0, len(ROWS) - 1))
    context = data.draw(st.integers(2, 12))
    asked = ROWS.slice(row, 1)
    shop, week = row // 60 + 1, row % 60
    batch = windows(asked, past, context).batch(torch.tensor([0]))
    unit = float(batch.unit_B[0])
    scales = {number.name: number for number in ENCODER.observed_numbers}
    for place in range(context):
        ago = context - 1 - place
        there = asked.to_pylist()[0] if ago == 0 else at(past, shop, week - ago)
        assert float(there is not None) == batch.valid_BL[0, place]
        for column, name in enumerate(scales):
            value = None if there is None else there[name]
            actual = float(batch.past_BLO[0, place, column])
            if value is None:
                assert np.isnan(actual)
            elif scales[name].in_units:
                assert value / unit == pytest.approx(actual, rel=1e-5)
            else:
                expected = (value - scales[name].mean) / scales[name].deviation
                assert expected == pytest.approx(actual, rel=1e-4, abs=1e-5)


def test_what_was_known_of_a_past_period_is_the_first_step_of_the_cutoff_before() -> None:
    """The known-ahead numbers of the past and of the future are one sequence."""
    rows = windows(ROWS, ROWS)
    first, later = rows.batch(torch.tensor([20])), rows.batch(torch.tensor([21]))
    assert torch.equal(first.known_BHK[0, 0], later.past_known_BLK[0, -1])
    assert torch.equal(first.known_category_BHD[0, 0], later.past_category_BLD[0, -1])
    assert torch.equal(first.past_known_BLK[0, 1:], later.past_known_BLK[0, :-1])


def test_the_first_period_of_all_has_no_cutoff_before_it() -> None:
    """Its known-ahead numbers are missing and its categories unknown, and its row counts."""
    batch = windows(ROWS, ROWS).batch(torch.tensor([0]))
    assert [0, 0, 0, 0, 1] == batch.valid_BL[0].tolist()
    assert batch.past_known_BLK[0].isnan().all()
    assert [0] == batch.past_category_BLD.unique().tolist()


def test_later_cutoffs_are_not_read() -> None:
    """A row's window is the same whether the rows after it are there or changed or not."""
    row = ROWS.slice(30, 1)
    batches = [
        windows(row, past).batch(torch.tensor([0]))
        for past in (ROWS, ROWS.slice(0, 30), pa.concat_tables([ROWS.slice(0, 30), ROWS.slice(31)]))
    ]
    for other in batches[1:]:
        for name, value in vars(batches[0]).items():
            assert torch.equal(value.nan_to_num(9), getattr(other, name).nan_to_num(9)), name


def test_no_past_is_a_window_of_the_row_alone() -> None:
    """Without earlier rows only the last place of a window is filled."""
    batch = windows(ROWS.slice(7, 3), ROWS.slice(0, 0)).batch(torch.arange(3))
    assert [1.0, 1.0, 1.0] == batch.valid_BL[:, -1].tolist()
    assert [2, 3] == [int(batch.valid_BL[i].sum()) for i in (1, 2)]
