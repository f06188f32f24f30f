"""Two columns that should be one, compared value by value; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.stores.fallback.layout import NEVER

if TYPE_CHECKING:
    from numpy.typing import NDArray

Cause = Literal[
    "missing", "stale", "ahead", "expired", "type", "rounding", "transform", "corrected"
]
CAUSES: dict[Cause, str] = {
    "missing": "the online store has no row of the entity",
    "stale": "the online row is older than the offline one",
    "ahead": "the online row is later than the offline one, or came to be known after the cut-off",
    "expired": "the online row is past the view's ttl, and is answered all the same",
    "type": "the value is of another type than the declared one",
    "rounding": "the numbers differ by less than their declared types can hold",
    "transform": "the transform gives another value for the same inputs",
    "corrected": "the same row has another value: its source was changed afterwards",
}
"""Why a value differs, and what that means; the first that fits is told."""
EQUAL = -1
CODES: dict[Cause, int] = {cause: code for code, cause in enumerate(CAUSES)}
CLOSE = 1e-6
"""Relative difference of two numbers that are one, but for the digits that single precision has."""
SECOND = 1_000_000


@dataclass(frozen=True)
class Pair:
    """One feature of N entities, as each store answers it."""

    online: pa.Array
    """[N] in the declared type."""
    offline: pa.Array
    """[N] in the type of its source."""
    mistyped: NDArray[np.bool_]
    """[N] whether the online value is of another type, and `online` lacks it."""


@dataclass(frozen=True)
class Ages:
    """How old the rows of N entities are, in microseconds since 1970; NEVER without a row."""

    held: NDArray[np.bool_]
    """[N] whether the online store has a row."""
    online: NDArray[np.int64]
    offline: NDArray[np.int64] | None
    """[N], or None where it cannot be told."""
    expired: NDArray[np.bool_]
    """[N] whether the online row is past the view's `ttl`."""


def causes_of(pair: Pair, ages: Ages, *, computed: bool = False) -> NDArray[np.int8]:
    """Return [N] the code of why each value differs; EQUAL where it does not.

    Times are compared to the second: some stores keep no more.

    Args:
        pair: the values.
        ages: the rows that they come from.
        computed: whether the view has a transform.
    """
    differs, close = differences(pair.online, pair.offline)
    differs |= pair.mistyped
    no = np.zeros(len(differs), dtype=bool)
    stale = ahead = no
    if ages.offline is not None:
        stale = ages.offline // SECOND > ages.online // SECOND
        ahead = ages.offline // SECOND < ages.online // SECOND
    other_kind = kind_of(pair.online.type) != kind_of(pair.offline.type)
    fits: dict[Cause, NDArray[np.bool_]] = {
        "missing": ~ages.held,
        "stale": stale,
        "ahead": ahead,
        "expired": ages.expired,
        "type": pair.mistyped | (other_kind & ~close & pair_valid(pair)),
        "rounding": close,
        "transform": ~no if computed else no,
        "corrected": ~no,
    }
    codes = np.select([fits[cause] for cause in CAUSES], list(CODES.values()), EQUAL)
    return np.where(differs, codes, EQUAL).astype(np.int8)


def differences(online: pa.Array, offline: pa.Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return [N] whether two columns differ, and whether it is by their last digits alone.

    A null is a NaN; whole numbers and others are compared as numbers.
    """
    ours, theirs = kind_of(online.type), kind_of(offline.type)
    null = _null(online), _null(offline)
    both = ~null[0] & ~null[1]
    close = np.zeros(len(online), dtype=bool)
    if {ours, theirs} == {"whole", "real"} or ours == theirs == "real":
        a, b = (_plain(column, pa.float64(), 0.0) for column in (online, offline))
        apart = a != b
        with np.errstate(invalid="ignore"):  # infinities
            close = both & apart & (np.abs(a - b) <= CLOSE * np.maximum(np.abs(a), np.abs(b)))
    elif ours != theirs:
        apart = np.ones(len(online), dtype=bool)
    elif ours == "time":
        first, second = _microseconds(online), _microseconds(offline)
        apart = first != second
        close = both & apart & (first // SECOND == second // SECOND)
    elif ours == "other":
        pairs = zip(online.to_pylist(), offline.to_pylist(), strict=True)
        apart = np.array([a != b for a, b in pairs], dtype=bool)
    else:
        apart = ~np.asarray(pc.equal(_alike(online), _alike(offline)).fill_null(False))  # noqa: FBT003 - of Arrow
    return (null[0] != null[1]) | (both & apart), close


def kind_of(held: pa.DataType) -> str:
    """Return what values of an Arrow type are, however wide."""
    types = pa.types
    if types.is_dictionary(held):
        return kind_of(held.value_type)
    named = {
        "whole": types.is_integer(held),
        "real": types.is_floating(held) or types.is_decimal(held),
        "truth": types.is_boolean(held),
        "text": types.is_string(held) or types.is_large_string(held),
        "bytes": types.is_binary(held) or types.is_large_binary(held),
        "time": types.is_timestamp(held) or types.is_date(held),
    }
    return next((kind for kind, fits in named.items() if fits), "other")


def pair_valid(pair: Pair) -> NDArray[np.bool_]:
    """Return [N] whether both stores answer a value."""
    return ~_null(pair.online) & ~_null(pair.offline)


def distance(pair: Pair) -> NDArray[np.float64]:
    """Return [N] how far two numbers are apart, relative to the larger; infinite for any other."""
    if not {kind_of(pair.online.type), kind_of(pair.offline.type)} <= {"whole", "real"}:
        return np.full(len(pair.online), np.inf)
    a, b = (_plain(column, pa.float64(), 0.0) for column in (pair.online, pair.offline))
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    return np.where(pair_valid(pair), apart, np.inf)


def no_ages(held: NDArray[np.bool_]) -> Ages:
    """Return the ages of rows whose times nobody knows: those of an on-demand view."""
    never = np.full(len(held), NEVER)
    return Ages(held, never, None, np.zeros(len(held), dtype=bool))


def _null(column: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.is_null(column, nan_is_null=True))


def _plain(column: pa.Array, kind: pa.DataType, zero: float) -> NDArray[np.float64]:
    return np.asarray(column.cast(kind, safe=False).fill_null(zero))


def _alike(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    wide = {"whole": pa.int64(), "text": pa.large_string(), "bytes": pa.large_binary()}
    kind = wide.get(kind_of(column.type))
    return column.cast(kind, safe=False) if kind is not None else column


def _microseconds(column: pa.Array) -> NDArray[np.int64]:
    zone = getattr(column.type, "tz", None)
    times = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return np.asarray(times.fill_null(NEVER))
