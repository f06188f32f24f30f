"""What an online store answers, as those that forecast from it read it; imports no Feast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Origin = Literal["primary", "fallback", "mixed", "store"]
"""Which store answered: of one with a fallback either or both, else the one there is."""


@dataclass(frozen=True)
class OnlineRows:
    """The features of N series as of one cut-off, as a snapshot would hold them."""

    rows: pa.Table
    """[N] entities, `event_timestamp` (the cut-off), row features; in the order asked for."""
    known: pa.Table
    """Known keys, `event_timestamp`, `step`, known-ahead features; H rows for each key."""
    as_of: datetime
    """The cut-off: the last period that had closed when the store was materialised."""
    found: NDArray[np.bool_]
    """[N] whether the store knows the series."""
    happened: NDArray[np.int64] | None = None
    """[N] when the oldest of a series' rows that change with time happened, in microseconds since
    1970; None where that is not known."""
    origin: Origin = "store"
    """Where the features came from."""
