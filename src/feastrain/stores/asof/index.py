"""The search: for keys and times, the row of a source that was the latest known one.

A source's N rows become one sorted array of integers, `key * ticks + tick`, where `key` numbers
the distinct key tuples and `tick` the time at which a row was known, in the coarsest unit that
loses nothing. The latest row of a key at a time is then one binary search away.

A row is *known* at the later of its event and created timestamps. Rows are ordered by key, event
timestamp, created timestamp and place in the source; a row counts for nothing once a later one
in that order is known at least as early. Those that are left increase in what they are known at,
too, so the search by known time finds the row that is latest in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

NEVER = np.iinfo(np.int64).min
"""Stands for a missing time."""
LAST = np.iinfo(np.int64).max
"""Comes after every number."""
CODES = 1 << 31
"""Key tuples are numbered anew when their numbers could outgrow this."""
CACHED = 1 << 16
"""A search among more values than this is worth sorting what is sought first."""


class KeyCodes:
    """Numbers the distinct key tuples of a source, in no particular order."""

    def __init__(self, columns: Sequence[pa.ChunkedArray], rows: int) -> None:
        self._values: list[pa.Array] = []
        self._dense: list[Integers | None] = []
        self.codes = np.zeros(rows, dtype=np.int64)
        """[N] the number of each row's key tuple, -1 where a key is null."""
        self.count = 1
        for column in columns:
            number, values = _encoded(column)
            self._values.append(values)
            self.count *= max(len(values), 1)
            self.codes = _combined(self.codes, number, len(values))
            self._dense.append(None)
            if self.count > CODES:
                distinct, self.codes = np.unique(self.codes, return_inverse=True)
                self.codes -= int(len(distinct) > 0 and distinct[0] < 0)
                distinct = distinct[distinct >= 0]
                self._dense[-1] = np.append(distinct, LAST)
                self.count = max(len(distinct), 1)

    def of(self, columns: Sequence[pa.ChunkedArray], rows: int) -> Integers:
        """Return the number of each key tuple, -1 where the source has none like it."""
        codes = np.zeros(rows, dtype=np.int64)
        for column, values, distinct in zip(columns, self._values, self._dense, strict=True):
            number = _with_nulls(pc.index_in(column, value_set=values))
            codes = _combined(codes, number, len(values))
            if distinct is not None:
                place = np.searchsorted(distinct, codes)
                codes = np.where(distinct[place] == codes, place, -1)
        return codes


@dataclass(frozen=True)
class Times:
    """When the rows of a source happened and were created: [N] integers of one unit."""

    event: Integers
    created: Integers | None = None
    """None where the source does not say; `NEVER` where one row does not."""


class AsofIndex:
    """One source, ready to be asked for the latest row of a key at a time."""

    def __init__(self, keys: Sequence[pa.ChunkedArray], times: Times, *, lenient: bool) -> None:
        """Order the rows.

        Args:
            keys: the join key columns of the source, each [N].
            times: when its rows happened, and were created.
            lenient: whether a value may be read before it was created; created timestamps then
                only tell which of two values of one event timestamp is the later.
        """
        self._event = times.event
        self._keys = KeyCodes(keys, len(times.event))
        known, usable = _known(times, lenient=lenient)
        codes, self._keys.codes = self._keys.codes, np.empty(0, dtype=np.int64)
        usable &= codes >= 0
        rows = np.flatnonzero(usable)
        if len(rows) < len(known):
            codes = codes[rows]
        self._scale = _Ticks(known, times.event, rows, self._keys.count)
        self._sought, self._rows = self._order(codes, rows, times, known)

    def __len__(self) -> int:
        """Return how many rows the source has."""
        return len(self._event)

    def find(
        self, keys: Sequence[pa.ChunkedArray], at: Integers, oldest: int | None = None
    ) -> Integers:
        """Return for each of M keys and times the position of its row, or -1 where there is none.

        Args:
            keys: the join key columns, each [M], in the types of the source's.
            at: [M] times in the unit of the source's; `NEVER` finds nothing.
            oldest: how old an event may be at most, in that unit.
        """
        if not len(self._sought):
            return np.full(len(at), -1, dtype=np.int64)
        codes = self._keys.of(keys, len(at))
        found = (codes >= 0) & (at != NEVER)
        lowest = codes * self._scale.count
        place = _last_at_or_below(self._sought, lowest + self._scale.at(at))
        found &= place >= 0
        found &= self._sought[place] >= lowest
        rows = np.where(found, self._rows[place], -1)
        if oldest is not None:
            rows[found & (self._event[rows] < at - oldest)] = -1
        return rows

    def newest(self) -> Integers:
        """Return the position of the latest row of every key tuple."""
        codes = self._sought // self._scale.count
        last = np.ones(len(codes), dtype=bool)
        last[:-1] = codes[1:] != codes[:-1]
        return self._rows[last]

    def _order(
        self, codes: Integers, rows: Integers, times: Times, known: Integers
    ) -> tuple[Integers, Integers]:
        """Return what is searched, ascending, and the row behind each entry."""
        count = self._scale.count
        by_event = np.multiply(codes, count, out=codes)
        by_event += self._scale.at(_chosen(times.event, rows))
        if not (by_event[1:] >= by_event[:-1]).all():
            by_event, order = _sorted(by_event)
            rows = order if len(rows) == len(known) else rows[order]
        tied = by_event[1:] == by_event[:-1]
        if times.created is not None and tied.any():
            _settle_ties(rows, by_event, tied, times.created)
        if known is times.event:
            last = np.ones(len(rows), dtype=bool)
            last[:-1] = ~tied
            return (by_event, rows) if last.all() else (by_event[last], rows[last])
        by_known = by_event - by_event % count
        by_known += self._scale.at(known[rows])
        later = np.append(np.minimum.accumulate(by_known[::-1])[::-1][1:], LAST)
        counts = by_known < later
        return by_known[counts], rows[counts]


class _Ticks:
    """Times as small whole numbers: `(time - first) // unit`, at most `count` of them.

    Where even the coarsest unit makes numbers too large to stand beside the key's, a tick is
    the rank of a time among all those of the source.
    """

    def __init__(self, known: Integers, event: Integers, rows: Integers, keys: int) -> None:
        self._ranked: Integers | None = None
        self._first, self._unit, self.count = 0, 1, 1
        if not len(rows):
            return
        times = [_chosen(event, rows)]
        if known is not event:
            times.append(_chosen(known, rows))
        self._first = int(times[0].min())
        units = [np.gcd.reduce(part - self._first) for part in times]
        self._unit = max(int(np.gcd.reduce(units)), 1)
        self.count = (int(times[-1].max()) - self._first) // self._unit + 1
        if self.count * keys > LAST // 2:
            self._ranked = np.unique(np.concatenate(times))
            self.count = len(self._ranked)

    def at(self, times: Integers) -> Integers:
        """Return the last tick at or before each time, below 0 before the first."""
        if self._ranked is not None:
            return np.asarray(np.searchsorted(self._ranked, times, side="right") - 1)
        ticks = times - self._first
        ticks //= self._unit
        return np.minimum(ticks, self.count - 1, out=ticks)


def _known(times: Times, *, lenient: bool) -> tuple[Integers, NDArray[np.bool_]]:
    """Return when each row counts as known, and which rows can be known at all."""
    usable = times.event != NEVER
    if times.created is None or lenient:
        return times.event, usable
    usable &= times.created != NEVER
    if (times.created <= times.event)[usable].all():
        return times.event, usable
    return np.maximum(times.event, times.created), usable


def _settle_ties(
    rows: Integers, by_event: Integers, tied: NDArray[np.bool_], created: Integers
) -> None:
    """Put rows of one key and event timestamp in the order they were created, in place."""
    members = np.zeros(len(rows), dtype=bool)
    members[1:] = tied
    members[:-1] |= tied
    place = np.flatnonzero(members)
    order = np.lexsort((created[rows[place]], by_event[place]))
    rows[place] = rows[place[order]]


def _last_at_or_below(ascending: Integers, wanted: Integers) -> Integers:
    """Return the position of the last value at or below each wanted one, -1 where none is."""
    if len(ascending) <= CACHED or (wanted[1:] >= wanted[:-1]).all():
        return np.searchsorted(ascending, wanted, side="right") - 1
    sought, order = _sorted(wanted)
    places = np.empty(len(wanted), dtype=np.int64)
    places[order] = np.searchsorted(ascending, sought, side="right") - 1
    return places


def _sorted(values: Integers) -> tuple[Integers, Integers]:
    """Return values in ascending order, and the place each had; equal ones keep their order.

    Where value and place fit one integer, those are sorted: several times faster than argsort.
    """
    bits = len(values).bit_length()
    room = 1 << (62 - bits)
    if len(values) and -room < int(values.min()) and int(values.max()) < room:
        packed = (values << bits) | np.arange(len(values))
        packed.sort()
        return packed >> bits, packed & ((1 << bits) - 1)
    order = np.argsort(values, kind="stable")
    return values[order], order


def _chosen(values: Integers, rows: Integers) -> Integers:
    """Return the values at some rows in ascending order, without a copy where they are all."""
    return values if len(rows) == len(values) else values[rows]


def _combined(codes: Integers, number: Integers, radix: int) -> Integers:
    combined = codes * radix + number
    combined[(codes < 0) | (number < 0)] = -1
    return combined


def _encoded(column: pa.ChunkedArray) -> tuple[Integers, pa.Array]:
    """Return the number of each value, -1 for null, and the values by number."""
    if not len(column):
        return np.empty(0, dtype=np.int64), pa.array([], column.type)
    encoded = column.dictionary_encode().unify_dictionaries()
    numbers = pa.chunked_array([chunk.indices for chunk in encoded.chunks])
    return _with_nulls(numbers), encoded.chunk(0).dictionary


def _with_nulls(indices: pa.ChunkedArray) -> Integers:
    return np.asarray(indices.fill_null(-1).to_numpy(), dtype=np.int64)
