"""What a retrieval job can be made of, and the rows of one source as they lie in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from feastrain.stores.asof.columns import as_times, unit_of
from feastrain.stores.asof.index import NEVER, AsofIndex, Times
from feastrain.stores.asof.parquet import width_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from numpy.typing import NDArray

    from feastrain.stores.asof.source import SourceTable


class Rows(Protocol):
    """Rows that are made when they are asked for."""

    def table(self) -> pa.Table:
        """Return all rows at once."""

    def batches(self, most_bytes: int) -> Iterator[pa.Table]:
        """Yield the rows in batches of about `most_bytes`, in order."""


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source whose event timestamps lie in a span: all, or the latest of each key."""

    source: SourceTable
    names: list[str]
    """The columns to return."""
    keys: list[str]
    event_timestamp: str
    created_timestamp: str | None = None
    first: datetime | None = None
    last: datetime | None = None
    newest: bool = False
    """Whether only the latest row of each key is kept."""

    def table(self) -> pa.Table:
        """Return all rows at once."""
        return self._rows(self._positions())

    def batches(self, most_bytes: int) -> Iterator[pa.Table]:
        """Yield the rows in batches of about `most_bytes`, in order."""
        width = sum(width_of(self.source.schema.field(name).type) for name in self.names)
        positions = self._positions()
        rows = max(most_bytes // width, 1 << 14)
        for start in range(0, max(len(positions), 1), rows):
            yield self._rows(positions[start : start + rows])

    def _rows(self, positions: NDArray[np.int64]) -> pa.Table:
        columns = self.source.rows_at(self.names, positions)
        table = pa.table(dict(zip(self.names, columns, strict=True)))
        if self.newest and not self.keys:
            dummy = pa.array([DUMMY_ENTITY_VAL] * len(table))
            table = table.append_column(DUMMY_ENTITY_ID, dummy)
        return table

    def _positions(self) -> NDArray[np.int64]:
        created = [self.created_timestamp] if self.newest and self.created_timestamp else []
        keys = self.keys if self.newest else []
        names = [*keys, self.event_timestamp, *created]
        read = self.source.columns(list(dict.fromkeys(names)))
        event = read[self.event_timestamp]
        unit = unit_of(event)
        stamps = [as_times(read[name], unit, f"column {name!r}") for name in names[len(keys) :]]
        wanted = stamps[0] != NEVER
        bound = pa.timestamp(unit, "UTC")
        if self.first is not None:
            wanted &= stamps[0] >= pa.scalar(self.first, bound).value
        if self.last is not None:
            wanted &= stamps[0] <= pa.scalar(self.last, bound).value
        positions = np.flatnonzero(wanted)
        if not self.newest:
            return positions
        chosen = pa.array(positions)
        times = Times(*(stamp[positions] for stamp in stamps))
        index = AsofIndex([read[key].take(chosen) for key in keys], times, lenient=True)
        return np.sort(positions[index.newest()])
