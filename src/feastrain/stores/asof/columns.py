"""Arrow columns made comparable: times as whole numbers, keys of one type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.errors import DataError
from feastrain.stores.asof.index import NEVER

if TYPE_CHECKING:
    from numpy.typing import NDArray

Unit = Literal["us", "ns"]


def unit_of(*columns: pa.ChunkedArray) -> Unit:
    """Return the coarser of microseconds and nanoseconds that holds every time exactly."""
    for column in columns:
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            try:
                column.cast(pa.timestamp("us", column.type.tz))
            except pa.ArrowInvalid:
                return "ns"
    return "us"


def as_times(column: pa.ChunkedArray, unit: Unit, what: str) -> NDArray[np.int64]:
    """Return times as whole units since 1970 UTC, `NEVER` where one is missing.

    A time without a time zone is UTC; a date is its midnight.

    Args:
        column: dates or timestamps, of any resolution and time zone.
        unit: of the result.
        what: names the column in an error.

    Raises:
        DataError: the column holds no times, or one too far away for the unit.
    """
    if not pa.types.is_temporal(column.type) or pa.types.is_time(column.type):
        message = f"{what} is {column.type}, not a timestamp: convert it"
        raise DataError(message)
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    try:
        whole = column.cast(pa.timestamp(unit, getattr(column.type, "tz", None))).cast(pa.int64())
    except pa.ArrowInvalid as error:
        message = f"{what} holds a time that does not fit: {error}"
        raise DataError(message) from error
    return np.asarray(whole.fill_null(NEVER).to_numpy())


def comparable(
    wanted: pa.ChunkedArray, stored: pa.ChunkedArray, what: str
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return join keys of the entity frame and of a source in one type, in which they compare.

    Raises:
        DataError: no cast of the one to the other keeps every value.
    """
    wanted, stored = _decoded(wanted), _decoded(stored)
    unit = unit_of(wanted, stored)
    try:
        wanted, stored = _plain(wanted, unit), _plain(stored, unit)
    except pa.ArrowInvalid as error:
        message = f"{what} holds a value that does not fit: {error}"
        raise DataError(message) from error
    try:
        if pa.types.is_floating(wanted.type) and pa.types.is_integer(stored.type):
            wanted = _without_nans(wanted).cast(stored.type)  # pandas makes floats of null integers
    except pa.ArrowInvalid as error:
        message = f"{what}: the entity frame has fractions where the source has integers ({error})"
        raise DataError(message) from error
    if wanted.type == stored.type:
        return wanted, stored
    if pa.types.is_null(wanted.type):
        return wanted.cast(stored.type), stored
    message = (
        f"{what} is {wanted.type} in the entity frame and {stored.type} in the source: "
        "cast one of them"
    )
    raise DataError(message)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column that is a dictionary."""
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _plain(column: pa.ChunkedArray, unit: Unit) -> pa.ChunkedArray:
    """Return a key column in the one type that stands for all like it; `unit` is that of times."""
    kind = column.type
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp(unit, kind.tz and "UTC"))
    return column


def _without_nans(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_nan(column), None, column)
