"""Groups of known-ahead rows, and functions that remember a table."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feastrain.models.ahead import Places, Remembered

KEYS = st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 3))


def keys_table(keys: list[tuple[str | None, int]]) -> pa.Table:
    """Return keys as a table of two columns."""
    names, numbers = [key[0] for key in keys], [key[1] for key in keys]
    return pa.table({"name": pa.array(names, pa.string()), "number": pa.array(numbers, pa.int64())})


@given(st.lists(KEYS, unique=True), st.lists(KEYS))
def test_places_are_those_of_equal_keys(
    among: list[tuple[str | None, int]], wanted: list[tuple[str | None, int]]
) -> None:
    """A missing value equals none, as in a join."""
    told = Places(keys_table(among)).of(keys_table(wanted)).tolist()
    assert [among.index(k) if k in among and k[0] is not None else -1 for k in wanted] == told


def test_the_same_table_is_asked_about_once() -> None:
    """An equal one is another; so is one with another argument."""
    asked: list[object] = []
    remembered = Remembered(lambda table, about: asked.append(about) or len(table))
    table, equal = pa.table({"x": [1, 2]}), pa.table({"x": [1, 2]})
    about, other = object(), object()
    answers = [remembered(*given) for given in ((table, about), (table, about), (table, other))]
    assert [2, 2, 2, 2] == [*answers, remembered(equal, other)]
    assert [about, other, other] == asked


def test_what_is_remembered_goes_with_its_table() -> None:
    """Arrays as large as a training set are not held longer than it is."""
    remembered = Remembered(lambda table: np.zeros(len(table)))
    table = pa.table({"x": [1, 2]})
    answer = weakref.ref(remembered(table))
    assert answer() is not None
    del table
    gc.collect()
    assert answer() is None


@pytest.mark.parametrize("keys", [[], [("a", 1)]])
def test_nothing_wanted_is_found_nowhere(keys: list[tuple[str | None, int]]) -> None:
    """Whatever it is looked for in."""
    assert Places(keys_table(keys)).of(keys_table([])).tolist() == []


def test_a_table_that_goes_takes_its_own_answer_alone() -> None:
    """An answer that was made meanwhile, of another table, is still remembered."""
    first, other, outer = ([pa.table({"x": [0] * rows})] for rows in (1, 2, 3))
    asked: list[int] = []

    def make(table: pa.Table) -> int:
        asked.append(len(table))
        if table is outer[0]:
            remembered(other[0])
            first.clear()
            gc.collect()
            remembered(other[0])
        return len(table)

    remembered = Remembered(make)
    remembered(first[0])
    remembered(outer[0])
    assert [1, 3, 2] == asked
