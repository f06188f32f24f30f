"""The point-in-time join: what it answers is what plain Python says, for any rows and facts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feastrain.errors import DataError, FeastrainError
from feastrain.stores.asof.columns import as_times, comparable, unit_of
from feastrain.stores.asof.frame import read_frame
from feastrain.stores.asof.index import CACHED, NEVER, AsofIndex, Times

if TYPE_CHECKING:
    from collections.abc import Sequence

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
Key = tuple[int | None, str | None]


@dataclass(frozen=True)
class Fact:
    """One row of a source: hours since the start, or None."""

    key: Key
    event: int | None
    created: int | None


@dataclass(frozen=True)
class Asked:
    """One entity row."""

    key: Key
    at: int | None


def oracle(facts: Sequence[Fact], row: Asked, ttl: int | None, *, lenient: bool) -> int | None:
    """Say in plain Python which fact a row reads: its position, or None."""
    best = None
    for place, fact in enumerate(facts):
        if None in (fact.event, row.at, *row.key) or fact.key != row.key or fact.event > row.at:
            continue
        if not lenient and (fact.created is None or fact.created > row.at):
            continue
        order = (fact.event, -1 if fact.created is None else fact.created, place)
        best = order if best is None else max(best, order)
    if best is None or (ttl is not None and row.at - best[0] > ttl):
        return None
    return best[2]


# Few keys and times, so that most examples hold ties, corrections and nulls.
hours = st.sampled_from([0, 1, 2, 3, 4, 5, None])
keys = st.sampled_from([(1, "11"), (1, "11"), (1, "11"), (11, "1"), (None, "1"), (11, None)])
facts = st.lists(st.builds(Fact, keys, hours, hours), max_size=30)
asked = st.lists(st.builds(Asked, keys, st.integers(-2, 8) | st.none()), max_size=30)


def stamps(values: Sequence[int | None], kind: pa.DataType) -> pa.Array:
    """Hours since the start as timestamps."""
    moments = [None if value is None else START + value * HOUR for value in values]
    return pa.array(moments, pa.timestamp("us", "UTC")).cast(pa.timestamp("us")).cast(kind)


KINDS = st.sampled_from([pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms")])


def columns_of(rows: Sequence[Fact | Asked], swap: bool) -> dict[str, pa.Array]:
    """The key columns of facts or rows."""
    return {
        "number": pa.array([row.key[0] for row in rows], pa.int32() if swap else pa.int64()),
        "name": pa.array([row.key[1] for row in rows], pa.string() if swap else pa.large_string()),
    }


@given(facts, asked, st.none() | st.integers(1, 6), st.booleans(), KINDS, KINDS)
@settings(max_examples=300, deadline=None)
def test_the_search_finds_what_plain_python_finds(
    facts: list[Fact],
    asked: list[Asked],
    ttl: int | None,
    lenient: bool,
    stored: pa.DataType,
    wanted: pa.DataType,
) -> None:
    """For any keys, times, ties, late creations and nulls, in any row order."""
    times = [pa.chunked_array([stamps([f.event for f in facts], stored)])]
    times.append(pa.chunked_array([stamps([f.created for f in facts], stored)]))
    at = pa.chunked_array([stamps([row.at for row in asked], wanted)])
    unit = unit_of(*times, at)
    theirs = [pa.chunked_array([c]) for c in columns_of(facts, swap=True).values()]
    ours = [pa.chunked_array([c]) for c in columns_of(asked, swap=False).values()]
    pairs = [comparable(o, t, "key") for o, t in zip(ours, theirs, strict=True)]
    index = AsofIndex(
        [pair[1] for pair in pairs],
        Times(*(as_times(column, unit, "time") for column in times)),
        lenient=lenient,
    )
    oldest = None if ttl is None else ttl * 3600 * 10**6
    found = index.find([pair[0] for pair in pairs], as_times(at, unit, "time"), oldest)
    expected = [oracle(facts, row, ttl, lenient=lenient) for row in asked]
    assert expected == [None if place < 0 else place for place in found.tolist()]
    last = {oracle(facts, Asked(fact.key, 9), None, lenient=lenient) for fact in facts} - {None}
    assert last == set(index.newest().tolist())
    assert len(last) == len(index.newest())


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_keys_and_times_too_many_for_one_number_are_numbered_anew(data: st.DataObject) -> None:
    """Three columns of sparse keys and microsecond times find what a dictionary finds."""
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    rows = 3000
    keys = rng.integers(0, 2**60, (rows, 3))
    event = rng.integers(-(2**55), 2**55, rows)
    columns = [pa.chunked_array([pa.array(column)]) for column in keys.T]
    index = AsofIndex(columns, Times(event), lenient=False)
    assert list(range(rows)) == index.find(columns, event).tolist()
    assert [-1] * rows == index.find(columns, event - 1).tolist()
    other = [*columns[:2], pa.chunked_array([pa.array(np.roll(keys[:, 2], 1))])]
    assert [-1] * rows == index.find(other, event).tolist()


@given(
    st.lists(st.integers(-3, 3) | st.integers(-(2**61), 2**61), max_size=20),
    st.lists(st.integers(-(2**61), 2**61), max_size=5),
    st.sampled_from([0, CACHED]),
)
def test_times_of_any_size_are_searched(event: list[int], at: list[int], cached: int) -> None:
    """Too large to stand beside a place, or in a large source; of one time the last row counts."""
    asked = np.array([*event, *at], dtype=np.int64)
    index = AsofIndex([], Times(np.array(event, dtype=np.int64)), lenient=False)
    known = sorted((moment, place) for place, moment in enumerate(event))
    expected = [max([p for p in known if p[0] <= moment], default=(0, -1))[1] for moment in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feastrain.stores.asof.index.CACHED", cached)
        assert expected == index.find([], asked).tolist()


def test_no_key_is_like_one_of_a_source_whose_keys_are_all_null(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor where its key tuples are numbered anew."""
    monkeypatch.setattr("feastrain.stores.asof.index.CODES", 0)
    columns = [
        pa.chunked_array([pa.array(values, pa.int64())]) for values in ([1, None], [None, 2])
    ]
    index = AsofIndex(columns, Times(np.zeros(2, dtype=np.int64)), lenient=False)
    codes = index._keys.of([columns[0].fill_null(1), columns[1].fill_null(2)], 2)
    assert [-1, -1] == codes.tolist()
    whole = [pa.chunked_array([pa.array(values)]) for values in ([1, 1, 5], [1, 2, 1])]
    index = AsofIndex(whole, Times(np.zeros(3, dtype=np.int64)), lenient=False)
    asked = [pa.chunked_array([pa.array(values)]) for values in ([5, 5, 1, 9], [1, 2, 2, None])]
    assert [2, -1, 1, -1] == index.find(asked, np.zeros(4, dtype=np.int64)).tolist()


@given(st.lists(st.integers(-(10**18), 10**18), max_size=5), st.sampled_from(["us", "ns"]))
def test_a_frame_tells_its_first_and_last_time(times: list[int], unit: str) -> None:
    """In UTC, a nanosecond cut to its microsecond; null times count for nothing."""
    if unit == "us":
        times = [time // 1000 for time in times]
    kind = pa.timestamp(unit, "Asia/Kolkata")
    frame = read_frame(pa.table({"at": pa.array([None, *times, None], kind)}))
    epoch, cut = datetime(1970, 1, 1, tzinfo=UTC), 1 if unit == "us" else 1000
    expected = [epoch + timedelta(microseconds=time // cut) for time in sorted(times)]
    assert frame.span() == ((expected[0], expected[-1]) if times else None)


def test_a_frame_is_read_as_it_is_given() -> None:
    """No index of pandas is a column, texts of any zone are instants, and a store runs its SQL."""
    texts = ["2024-01-01T02:00:00+02:00", "2023-12-31T19:00:00-05:00"]
    given = pd.DataFrame({"shop": [1, 2], "event_timestamp": texts}, index=["a", "b"])
    frame = read_frame(given)
    assert ["shop", "event_timestamp"] == frame.table.column_names
    assert pa.timestamp("ns", "UTC") == frame.times.type
    assert [START, START] == frame.times.to_pylist()
    asked: list[str] = []

    def query(statement: str) -> pa.Table:
        asked.append(statement)
        return frame.table

    assert read_frame("SELECT 1", query).table.equals(frame.table)
    assert ["SELECT 1"] == asked


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame({"shop": [1, "a"]}), r"has a column of mixed types: \S+( \S+)+$"),
        ("SELECT\n nonsense", 'SQL fails: Binder Error: Referenced column "nonsense"'),
        (pa.table({"shop": [1], "item": [2]}), "of a timestamp type; it has shop, item$"),
        (pa.table({}), "it has no column$"),
    ],
)
def test_what_is_no_entity_frame_is_refused(given: Any, message: str) -> None:
    """In one line."""
    with pytest.raises(FeastrainError, match=message) as refused:
        read_frame(given)
    assert "\n" not in str(refused.value)


def test_nanoseconds_are_not_rounded() -> None:
    """A fact one nanosecond after the row is not read, and one at the row's time is."""
    kind = pa.timestamp("ns")
    event = pa.chunked_array([pa.array([1001, 2001], kind)])
    at = pa.chunked_array([pa.array([1000, 1001, 2000, 2001], kind)])
    unit = unit_of(event, at)
    index = AsofIndex([], Times(as_times(event, unit, "event")), lenient=False)
    assert [-1, 0, 0, 1] == index.find([], as_times(at, unit, "at")).tolist()


def test_time_zones_are_one_instant() -> None:
    """A time in New York is the same as in UTC, and one without a zone is UTC."""
    instant = pa.chunked_array([pa.array([START], pa.timestamp("us", "UTC"))])
    expected = as_times(instant, "us", "time").tolist()
    for kind in (pa.timestamp("s", "America/New_York"), pa.timestamp("ns", "Asia/Kolkata")):
        assert expected == as_times(instant.cast(kind), "us", "time").tolist()
    assert expected == as_times(pc.local_timestamp(instant), "us", "time").tolist()
    assert [expected[0], NEVER] == as_times(
        pa.chunked_array([pa.array([START.date(), None])]), "us", "time"
    ).tolist()


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (pa.array([1.5]), pa.array([1]), "fractions"),
        (pa.array(["1"]), pa.array([1]), "cast one of them"),
        (pa.array([True]), pa.array(["1"]), "cast one of them"),
        (pa.array([2**63], pa.uint64()), pa.array([1]), "holds a value that does not fit"),
    ],
)
def test_keys_that_do_not_compare_are_refused(
    ours: pa.Array, theirs: pa.Array, message: str
) -> None:
    """A key is never matched by the text of another type."""
    with pytest.raises(DataError, match=f"key.*{message}"):
        comparable(pa.chunked_array([ours]), pa.chunked_array([theirs]), "key")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (pa.array([1001], pa.timestamp("ns")), pa.array([1], pa.timestamp("us")), [1001, 1000]),
        (pa.array([1000], pa.timestamp("ns")), pa.array([1], pa.timestamp("us")), [1, 1]),
        (
            pa.array([0], pa.timestamp("s", "UTC")),
            pa.array([0], pa.timestamp("ms", "Asia/Kolkata")),
            [0, 0],
        ),
        (pa.array(["a"]).dictionary_encode(), pa.array(["a"], pa.string_view()), ["a", "a"]),
        (pa.array([1], pa.uint8()), pa.array([1], pa.int32()), [1, 1]),
        (pa.array([None]), pa.array(["a"]), [None, "a"]),
        (pa.array([True]), pa.array([True]), [True, True]),
    ],
)
def test_keys_of_like_types_compare_by_value(
    ours: pa.Array, theirs: pa.Array, expected: list[Any]
) -> None:
    """Whatever type each side has; times that differ by a nanosecond are two keys."""
    pair = comparable(pa.chunked_array([ours]), pa.chunked_array([theirs]), "key")
    assert pair[0].type == pair[1].type
    values = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in pair]
    assert expected == [column.to_pylist()[0] for column in values]


def test_integers_that_pandas_made_floats_are_integers() -> None:
    """A null among integer keys makes pandas a column of floats; they match all the same."""
    ours = pa.chunked_array([pa.array([1.0, np.nan, None, 3.0])])
    cast, _ = comparable(ours, pa.chunked_array([pa.array([3], pa.int16())]), "key")
    assert [1, None, None, 3] == cast.to_pylist()
