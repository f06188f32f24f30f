"""The seam between the search and where rows lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa
import pyarrow.dataset as ds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

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

    def rows_at(self, names: Sequence[str], positions: NDArray[np.int64]) -> list[pa.ChunkedArray]:
        """Return some columns of the rows at `positions`; null where a position is -1."""


@dataclass(frozen=True)
class Window:
    """The event timestamps that can matter: from `first` (None for any) to `last`, inclusive."""

    column: str
    first: datetime | None
    last: datetime

    def overlaps(self, schema: pa.Schema) -> ds.Expression | None:
        """Return what is true of every row in the window, in the type of its column."""
        if self.column not in schema.names:
            return None
        kind = schema.field(self.column).type
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            return None
        near = ds.field(self.column) <= _scalar(self.last, kind)
        if self.first is not None:
            near &= ds.field(self.column) >= _scalar(self.first, kind)
        return near


def _scalar(moment: datetime, kind: pa.DataType) -> Any:
    zone = getattr(kind, "tz", None)
    instant = pa.scalar(moment, pa.timestamp("us", "UTC"))
    return instant.cast(pa.timestamp("us", zone)).cast(kind, safe=False)
