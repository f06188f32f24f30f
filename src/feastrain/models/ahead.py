"""What is known ahead of target periods: groups of H rows, and the group that each row refers to.

Shapes: N rows, G groups, H steps.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from feastrain.recipe import FeatureColumns

    Whole = NDArray[np.int64]

T = TypeVar("T")


class Remembered(Generic[T]):
    """A function of a table that answers the same as long as it is asked about the same one.

    Tables do not change. An answer that does not hold the table itself is let go of with it.
    """

    def __init__(self, make: Callable[..., T]) -> None:
        self._make = make
        self._last: tuple[weakref.ref[pa.Table], tuple[Any, ...], T] | None = None

    def __call__(self, table: pa.Table, *about: Any) -> T:
        """Return what is made of `table`; `about` is told apart by identity too."""
        last = self._last
        if (
            last is not None
            and last[0]() is table
            and all(one is other for one, other in zip(last[1], about, strict=True))
        ):
            return last[2]
        answer = self._make(table, *about)
        self._last = weakref.ref(table, self._forget), about, answer
        return answer

    def _forget(self, reference: weakref.ref[pa.Table]) -> None:
        if self._last is not None and self._last[0] is reference:
            self._last = None


class Places:
    """Finds values of several columns among distinct ones."""

    def __init__(self, among: pa.Table) -> None:
        """Take [G] the values to find."""
        self._names = among.column_names
        self._count = len(among)
        self._values = [pc.unique(among[name]) for name in self._names]
        # One number for all columns: a join costs milliseconds.
        self._options = [
            pc.SetLookupOptions(value_set=values, skip_nulls=True) for values in self._values
        ]
        code_G, _ = self._codes(among)
        self._order_G = np.argsort(code_G, kind="stable")
        self._code_G = code_G[self._order_G]

    def of(self, wanted: pa.Table) -> Whole:
        """Return [N] the place of each row's values, -1 for none."""
        if not self._count:
            return np.full(len(wanted), -1)
        code_N, absent_N = self._codes(wanted)
        found_N = np.searchsorted(self._code_G, code_N).clip(max=self._count - 1)
        absent_N |= self._code_G[found_N] != code_N
        return np.where(absent_N, -1, self._order_G[found_N])

    def _codes(self, table: pa.Table) -> tuple[Whole, NDArray[np.bool_]]:
        code_N, absent_N = np.zeros(len(table), dtype=np.int64), np.zeros(len(table), dtype=bool)
        for name, values, options in zip(self._names, self._values, self._options, strict=True):
            place_N = places(table[name], options)
            absent_N |= place_N < 0
            code_N = code_N * len(values) + place_N
        return code_N, absent_N


def places(column: pa.ChunkedArray, options: pc.SetLookupOptions) -> Whole:
    """Return [N] the place of each value among those of the options, -1 for none."""
    # By its name: the wrapper that Arrow makes of a function costs more than a few rows do.
    found = pc.call_function("index_in", [column], options)
    if found.null_count:
        found = pc.fill_null(found, -1)
    return np.asarray(found, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Ahead:
    """Known-ahead rows as groups of H, one for each set of keys and cut-off."""

    known: pa.Table
    columns: FeatureColumns

    @cached_property
    def heads(self) -> pa.Table:
        """[G] the keys and cut-off of each group.

        Raises:
            DataError: they are not H rows each.
        """
        known, horizon = self.known, self.columns.horizon
        steps = known["step"].to_numpy()
        if (
            len(known) % horizon
            or (steps != np.tile(np.arange(horizon) + 1, len(known) // horizon)).any()
        ):
            message = f"the known-ahead rows are not {horizon} steps in order for each cut-off"
            raise DataError(message)
        keys = [*self.columns.known_keys, "event_timestamp"]
        return known.select(keys).take(pa.array(np.arange(0, len(known), horizon)))

    @cached_property
    def places(self) -> Places:
        """Where each group is."""
        return Places(self.heads)

    def groups(self, rows: pa.Table) -> Whole:
        """Return [N] the group of each row.

        Raises:
            DataError: a row has no group, or they are not H rows each.
        """
        return self._groups(rows)

    def events(self, event: str) -> NDArray[np.str_]:
        """Return [G, H] a known-ahead text, "" where there is none."""
        if event not in self._events:
            text = self.known[event].cast(pa.string()).fill_null("")
            names = text.to_numpy(zero_copy_only=False).astype(np.str_)
            self._events[event] = names.reshape(-1, self.columns.horizon)
        return self._events[event]

    @cached_property
    def _events(self) -> dict[str, NDArray[np.str_]]:
        return {}

    @cached_property
    def _groups(self) -> Remembered[Whole]:
        return Remembered(self._find_groups)

    def _find_groups(self, rows: pa.Table) -> Whole:
        group_N = self.places.of(rows)
        if missing := int((group_N < 0).sum()):
            message = f"{missing:,} rows have no known-ahead rows for their cut-off"
            raise DataError(message)
        return group_N


ahead_of = Remembered(Ahead)
"""Return the groups of known-ahead rows whose columns have the roles of the second argument."""
