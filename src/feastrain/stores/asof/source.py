"""The seam between the search and where rows lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Positions: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
Sink: TypeAlias = Callable[[str, pa.ChunkedArray], None]
WriteMode = Literal["append", "create", "replace"]
"""What happens to the rows that a table has already."""


class SourceTable(Protocol):
    """The rows of one data source, numbered from 0."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def schema(self) -> pa.Schema:
        """Every column that could be read."""

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of every row."""

    def rows_at(
        self, names: Sequence[str], positions: Positions, sink: Sink | None = None
    ) -> list[pa.ChunkedArray]:
        """Return some columns of the rows at `positions`; null where a position is -1.

        A `sink` is given each column instead, from several threads and in any order, so that
        they need not all be in memory.
        """

    def rows_read_for(self, positions: Positions) -> int:
        """Return how many rows are read to return those at `positions`."""


@dataclass(frozen=True)
class Window:
    """The rows of a source that can matter, roughly: what lies outside need not be read."""

    column: str
    """Of the event timestamps."""
    first: datetime | None
    """Earliest event timestamp; None for any."""
    last: datetime
    keys: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Least and greatest value of a join key, by its column."""

    def overlaps(self, schema: pa.Schema) -> ds.Expression:
        """Return what is true of every row that can matter, in the types of the columns."""
        bounds = dict(self.keys)
        if self.column in schema.names and pa.types.is_temporal(schema.field(self.column).type):
            bounds[self.column] = (self.first, self.last)
        near = ds.scalar(True)  # noqa: FBT003 - the value itself
        for column, (least, greatest) in bounds.items():
            kind = schema.field(column).type if column in schema.names else None
            for value, above in ((least, True), (greatest, False)):
                bound = None if kind is None else _scalar(value, kind)
                if bound is not None:
                    near &= ds.field(column) >= bound if above else ds.field(column) <= bound
        return near


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar | None:
    """Return a bound in the type of its column, None where that cannot hold it."""
    if isinstance(value, datetime) and pa.types.is_temporal(kind):
        instant = pa.scalar(value, pa.timestamp("us", "UTC"))
        return instant.cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(kind, safe=False)
    comparable = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    if value is None or not any(like(kind) for like in comparable):
        return None
    try:
        return pa.scalar(value).cast(kind)
    except pa.ArrowInvalid:
        return None
