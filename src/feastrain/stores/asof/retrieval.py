"""The point-in-time join: entity rows in, the same rows with their features out."""

from __future__ import annotations

import logging
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.errors import UsageError
from feastrain.stores.asof.columns import as_times, comparable, unit_of
from feastrain.stores.asof.index import AsofIndex, Times
from feastrain.stores.asof.parquet import BLOCK, THREADS, width_of
from feastrain.stores.asof.source import Window
from feastrain.stores.asof.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from feastrain.stores.asof.columns import Unit
    from feastrain.stores.asof.frame import EntityFrame
    from feastrain.stores.asof.on_demand import OnDemand
    from feastrain.stores.asof.source import Positions, SourceTable
    from feastrain.stores.asof.views import ViewJoin

    OpenSource = Callable[[Any, list[str], Window | None], SourceTable]

log = logging.getLogger(__name__)

LEAST_BATCH = 1 << 14


@dataclass(frozen=True)
class _Found:
    """Where the rows of one view were found: [N] positions in its source, -1 for none."""

    join: ViewJoin
    source: SourceTable
    positions: Positions

    def columns(self, start: int, count: int) -> list[Any]:
        """Return the view's features for `count` entity rows from `start` on."""
        at = self.positions[start : start + count]
        return self.source.rows_at(list(self.join.features.values()), at)


@dataclass
class PointInTimeRows:
    """The rows of an entity frame with the features that were known at each row's time.

    Every row is kept, in order. A feature is null where no event of the row's keys lies at or
    before its time, where the latest one is older than the view's `ttl`, or where all were
    created later.
    """

    frame: EntityFrame
    joins: list[ViewJoin]
    on_demand: OnDemand
    open_source: OpenSource
    lenient: bool = False
    """Whether a value may be read before it was created, as Feast's stores do by default."""
    _searched: list[_Found] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        columns = self.frame.table.column_names
        for join in self.joins:
            for key in join.keys.values():
                if key not in columns:
                    message = (
                        f"the entity frame has no column {key!r}, a join key of view "
                        f"{join.view!r}; it has {', '.join(columns)}"
                    )
                    raise UsageError(message)
            for name in join.features:
                if name in columns:
                    message = (
                        f"the entity frame has a column {name!r} and so has view {join.view!r}: "
                        "rename the one, or ask for full_feature_names"
                    )
                    raise UsageError(message)

    def table(self) -> pa.Table:
        """Return all rows at once."""
        return self._rows(0, len(self.frame.table))

    def batches(self, most_bytes: int) -> Iterator[pa.Table]:
        """Yield the rows in batches of about `most_bytes`, in order."""
        widths = [
            *(width_of(column.type) for column in self.frame.table.schema),
            *(
                width_of(found.source.schema.field(name).type)
                for found in self._search()
                for name in found.join.features.values()
            ),
            *(8 for _ in self.on_demand.names),
        ]
        rows = max(most_bytes // sum(widths), LEAST_BATCH)
        with ExitStack() as scratch:
            reads = [self._reader(found, rows, scratch) for found in self._search()]
            for number in range(max(-(-len(self.frame.table) // rows), 1)):
                columns = [column for read in reads for column in read(number)]
                yield self._assembled(self.frame.table.slice(number * rows, rows), columns)

    def _rows(self, start: int, count: int) -> pa.Table:
        columns = [column for found in self._search() for column in found.columns(start, count)]
        return self._assembled(self.frame.table.slice(start, count), columns)

    def _reader(self, found: _Found, rows: int, scratch: ExitStack) -> Callable[[int], list[Any]]:
        """Return what reads a view's features for the n-th batch of so many entity rows.

        Entity rows in no order find rows all over a source, and each batch reads it nearly whole.
        Where that costs more than to write every entity row to scratch disk and read it again,
        the source is read once and its columns wait there.
        """
        entities = len(self.frame.table)
        batches = range(0, entities, rows)
        directly = sum(found.source.rows_read_for(found.positions[s : s + rows]) for s in batches)
        if directly <= found.source.rows + 2 * entities:
            return lambda number: found.columns(number * rows, rows)
        folder = scratch.enter_context(tempfile.TemporaryDirectory(prefix="feastrain-"))
        staging = Staging(Path(folder), rows)
        names = list(found.join.features.values())
        found.source.rows_at(list(dict.fromkeys(names)), found.positions, staging.add)
        return lambda number: [staging.batch(name, number) for name in names]

    def _assembled(self, table: pa.Table, columns: list[Any]) -> pa.Table:
        """Return entity rows with the columns of all views, and what is computed from them."""
        names = [name for found in self._search() for name in found.join.features]
        for name, column in zip(names, columns, strict=True):
            table = table.append_column(name, column)
        return self.on_demand.append_to(table, self.frame.table.column_names)

    def _search(self) -> list[_Found]:
        """Find the row of every view for every entity row, once."""
        if self._searched is None:
            started = time.perf_counter()
            sources = self._open()
            with ThreadPoolExecutor(THREADS) as threads:
                found = threads.map(lambda join: self._find(join, sources[id(join)]), self.joins)
                self._searched = list(found)
            log.info(
                "point-in-time join: %d entity rows against %s in %.2f s",
                len(self.frame.table),
                ", ".join(f"{f.source.rows} rows of {f.join.view}" for f in self._searched),
                time.perf_counter() - started,
            )
        return self._searched

    def _open(self) -> dict[int, SourceTable]:
        """Open each source once, for all the views on it."""
        sharing: dict[str, list[ViewJoin]] = {}
        for join in self.joins:
            sharing.setdefault(_identity(join), []).append(join)
        opened: dict[int, SourceTable] = {}
        for joins in sharing.values():
            wanted = [
                name
                for join in joins
                for name in (*join.key_and_time_columns, *join.features.values())
            ]
            window = self._window(joins)
            source = self.open_source(joins[0].source, list(dict.fromkeys(wanted)), window)
            opened |= {id(join): source for join in joins}
        return opened

    def _window(self, joins: list[ViewJoin]) -> Window | None:
        span = self.frame.span()
        if span is None:
            return None
        first, last = span
        ages = [join.ttl for join in joins]
        oldest = None
        if all(ages) and max(filter(None, ages)) < first - first.min.replace(tzinfo=first.tzinfo):
            oldest = first - max(filter(None, ages))
        until = last + timedelta(microseconds=1)
        return Window(joins[0].event_timestamp, oldest, until, self._key_bounds(joins))

    def _key_bounds(self, joins: list[ViewJoin]) -> dict[str, tuple[Any, Any]]:
        """Return the least and greatest value of every join key that all views on a source have."""
        bounds: dict[str, tuple[Any, Any]] = {}
        for key in set.intersection(*(set(join.keys) for join in joins)):
            wanted = [self.frame.table[join.keys[key]] for join in joins]
            if all(map(_orders, wanted)):
                ends = [pc.min_max(column).as_py() for column in wanted if len(column)]
                least = [end["min"] for end in ends if end["min"] is not None]
                greatest = [end["max"] for end in ends if end["max"] is not None]
                if least:
                    bounds[key] = (min(least), max(greatest))
        return bounds

    def _find(self, join: ViewJoin, source: SourceTable) -> _Found:
        read = source.columns(list(dict.fromkeys(join.key_and_time_columns)))
        created = read[join.created_timestamp] if join.created_timestamp else None
        stamps = [read[join.event_timestamp], *([] if created is None else [created])]
        unit = unit_of(self.frame.times, *stamps)
        times = _times(join, stamps, unit)
        wanted, stored = [], []
        for key, name in join.keys.items():
            what = f"join key {name!r} of view {join.view!r}"
            ours, theirs = comparable(self.frame.table[name], read[key], what)
            wanted.append(ours)
            stored.append(theirs)
        oldest = None
        if join.ttl is not None:
            oldest = join.ttl // timedelta(microseconds=1) * (1000 if unit == "ns" else 1)
        del read, created, stamps
        index = AsofIndex(stored, times, lenient=self.lenient)
        del stored
        return _Found(join, source, self._positions(index, wanted, self.frame.at(unit), oldest))

    def _positions(
        self,
        index: AsofIndex,
        keys: list[pa.ChunkedArray],
        at: NDArray[np.int64],
        oldest: int | None,
    ) -> Positions:
        """Search for every entity row, a block of them for each thread at a time."""
        small = len(index) <= np.iinfo(np.int32).max
        positions: Positions = np.empty(len(at), np.int32) if small else np.empty(len(at), np.int64)

        def fill(start: int) -> None:
            block = slice(start, start + BLOCK)
            parts = [key.slice(start, BLOCK) for key in keys]
            positions[block] = index.find(parts, at[block], oldest)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(fill, range(0, len(at), BLOCK)))
        return positions


def _times(join: ViewJoin, stamps: list[pa.ChunkedArray], unit: Unit) -> Times:
    names = [join.event_timestamp, join.created_timestamp]
    event, *created = (
        as_times(stamp, unit, f"column {name!r} of view {join.view!r}")
        for stamp, name in zip(stamps, names, strict=False)
    )
    return Times(event, created[0] if created else None)


def _orders(column: pa.ChunkedArray) -> bool:
    kind = column.type
    return bool(
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    )


def _identity(join: ViewJoin) -> str:
    """Return what two views have in common when they read the same rows."""
    return f"{join.source.to_proto()}{join.event_timestamp}"
