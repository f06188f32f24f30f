"""The entity frame: what features are asked for, as an Arrow table with one time column."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.errors import DataError, UsageError
from feastrain.stores.asof.columns import as_times, unit_of
from feastrain.stores.asof.index import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from feastrain.stores.asof.columns import Unit

EVENT_TIMESTAMP = "event_timestamp"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class EntityFrame:
    """N entity rows, in the order in which they were given."""

    table: pa.Table
    timestamp: str
    """The column that says as of when each row is asked for."""

    @property
    def times(self) -> pa.ChunkedArray:
        """[N] as of when."""
        return self.table[self.timestamp]

    @property
    def keys(self) -> list[str]:
        """Every column but the time."""
        return [name for name in self.table.column_names if name != self.timestamp]

    def at(self, unit: Unit) -> NDArray[np.int64]:
        """Return the times in whole units since 1970 UTC."""
        return as_times(self.times, unit, f"column {self.timestamp!r} of the entity frame")

    def span(self) -> tuple[datetime, datetime] | None:
        """Return the first and the last time, UTC; None where there is none."""
        unit = unit_of(self.times)
        at = self.at(unit)
        at = at[at != NEVER]
        if not len(at):
            return None
        step = 1000 if unit == "ns" else 1
        first, last = (EPOCH + timedelta(microseconds=int(t) // step) for t in (at.min(), at.max()))
        return first, last


def read_frame(
    given: pd.DataFrame | pa.Table | str, query: Callable[[str], pa.Table] | None = None
) -> EntityFrame:
    """Read an entity frame.

    Args:
        given: a pandas frame, an Arrow table, or a SQL query.
        query: runs SQL; without it DuckDB does, which reads Parquet by
            `SELECT ... FROM read_parquet('PATH')`.

    Raises:
        UsageError: no column, or more than one, can be the event timestamp.
        DataError: a column mixes types, or the query fails.
    """
    if isinstance(given, str):
        table = query(given) if query is not None else _from_sql(given)
    elif isinstance(given, pa.Table):
        table = given
    else:
        table = _from_pandas(given)
    timestamp = _timestamp_of(table)
    if pa.types.is_string(table[timestamp].type) or pa.types.is_large_string(table[timestamp].type):
        place = table.schema.get_field_index(timestamp)
        table = table.set_column(place, timestamp, _parsed(table[timestamp]))
    return EntityFrame(table, timestamp)


def _from_pandas(given: pd.DataFrame) -> pa.Table:
    try:
        return pa.Table.from_pandas(given, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        message = f"the entity frame has a column of mixed types: {' '.join(str(error).split())}"
        raise DataError(message) from error


def _from_sql(statement: str) -> pa.Table:
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        try:
            return connection.sql(statement).to_arrow_table()
        except duckdb.Error as error:
            message = f"the entity frame's SQL fails: {' '.join(str(error).split())}"
            raise DataError(message) from error


def _timestamp_of(table: pa.Table) -> str:
    if EVENT_TIMESTAMP in table.column_names:
        return EVENT_TIMESTAMP
    found = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if len(found) != 1:
        message = (
            f"the entity frame needs a column {EVENT_TIMESTAMP!r}, or exactly one of a timestamp "
            f"type; it has {', '.join(table.column_names) or 'no column'}"
        )
        raise UsageError(message)
    return str(found[0])


def _parsed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        times = pd.to_datetime(texts.to_pandas(), utc=True)
    except ValueError as error:
        message = f"the entity frame holds a text that is no time: {error}"
        raise DataError(message) from error
    return pc.cast(pa.chunked_array([pa.array(times)]), pa.timestamp("ns", "UTC"))
