"""The future, changed at random: what a table would be had its later facts come out otherwise."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from numpy.typing import NDArray

Mutation = Literal["scrambled", "absent", "mixed"]
"""*scrambled*: other values; *absent*: no rows; *mixed*: the nearest later rows have other
values or are gone, the farther ones are gone. A late correction, which is later only because
it became known late, keeps its row: a pipeline may wait for it."""

STRANGER = "never seen before"
END_OF_DAY = np.timedelta64(86_399, "s")
TIMELESS = np.datetime64(-(2**62), "us")
NULLS = 0.1
NEAR = 0.25


@dataclass(frozen=True)
class Facts:
    """A table, and what is needed to tell its later facts from its earlier ones. N rows."""

    name: str
    table: pa.Table
    known_N: NDArray[np.datetime64]
    """When each row became known, UTC; TIMELESS where it always was."""
    event_N: NDArray[np.datetime64]
    """The time that each row is about, UTC."""
    keys: frozenset[str] = frozenset()
    """Columns that say what a row is about: they keep their values, as times do."""
    label: str | None = None
    """The column that holds the label, which counts as known no sooner than its period."""
    known_at: tuple[str, ...] = ()
    """The columns that say when a row became known: the latest of them."""

    @property
    def when(self) -> str:
        """Return in words when a row counts as known."""
        return f"known at {' and '.join(self.known_at)}" if self.known_at else "always known"

    def later(self, cutoff: datetime) -> NDArray[np.bool_]:
        """Return which rows became known after the cut-off."""
        return self.known_N > moment(cutoff)

    def columns(self) -> list[str]:
        """Return the columns that a mutation may change."""
        return [f.name for f in self.table.schema if f.name not in self.keys and not _is_time(f)]


def facts(
    name: str,
    table: pa.Table,
    known_at: tuple[str, ...],
    event_at: tuple[str, ...],
    keys: frozenset[str],
    label: str | None,
) -> Facts:
    """Describe a table by the columns that say when a row became known, and what it is about."""
    held = label if label in table.column_names else None
    known_N, event_N = latest(table, known_at), latest(table, event_at)
    return Facts(name, table, known_N, event_N, keys, held, known_at)


def time_columns(table: pa.Table) -> tuple[str, ...]:
    """Return the columns that hold a date or a time."""
    return tuple(field.name for field in table.schema if _is_time(field))


def latest(table: pa.Table, columns: tuple[str, ...]) -> NDArray[np.datetime64]:
    """Return the latest of the moments in `columns` of each row; TIMELESS where all are null."""
    known = np.full(len(table), TIMELESS)
    for column in columns:
        known = np.maximum(known, moments(table[column]))
    return known


def moments(values: pa.ChunkedArray) -> NDArray[np.datetime64]:
    """Return times in UTC; a date is the last second of that day, null is TIMELESS."""
    is_date = pa.types.is_date(values.type)
    naive = values.cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64())
    known: NDArray[np.datetime64] = (
        pc.fill_null(naive, TIMELESS.astype(np.int64)).to_numpy().view("datetime64[us]")
    )
    return np.where(known == TIMELESS, TIMELESS, known + END_OF_DAY) if is_date else known


def moment(time: datetime) -> np.datetime64:
    """Return a time as it compares with `moments`."""
    return np.datetime64(int(time.timestamp() * 1_000_000 + 0.5), "us")


def mutate(
    source: Facts,
    cutoff: datetime,
    mutation: Mutation,
    seed: int,
    columns: frozenset[str] | None = None,
) -> pa.Table:
    """Return the table with what became known after the cut-off changed; the rest as it was.

    Args:
        source: the table.
        cutoff: what was known then stays.
        mutation: how the later facts change.
        seed: decides the changes; equal seeds change equal facts equally.
        columns: change values in these alone; None for all that are neither keys nor times.
    """
    later_N = source.later(cutoff)
    table, rng = source.table, _generator(source.name, seed)
    chosen = [c for c in source.columns() if columns is None or c in columns]
    if source.label in chosen:
        label_N = latest(table, time_columns(table)) > moment(cutoff)
        table = _scramble(table, [source.label], label_N & ~later_N, source.name, seed)
    if mutation != "absent":
        table = _scramble(table, chosen, later_N, source.name, seed)
    if mutation == "scrambled" or not later_N.any():
        return table
    gone_N = later_N & (source.event_N > moment(cutoff))
    if mutation == "mixed":
        near_N = source.known_N <= np.quantile(
            source.known_N[later_N].astype(np.int64), NEAR
        ).astype("datetime64[us]")
        gone_N = gone_N & (~near_N | (rng.random(len(later_N)) < NEAR))
    return table.filter(pa.array(~gone_N))


def _scramble(
    table: pa.Table, columns: list[str], where_N: NDArray[np.bool_], name: str, seed: int
) -> pa.Table:
    if not where_N.any():
        return table
    for column in columns:
        rng = _generator(f"{name}.{column}", seed)
        position = table.schema.get_field_index(column)
        values = _other_values(table[column], where_N, rng)
        table = table.set_column(position, pa.field(column, values.type), values)
    return table


def _other_values(values: pa.ChunkedArray, where_N: NDArray[np.bool_], rng: Any) -> Any:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _other_values(values.cast(kind.value_type), where_N, rng)
    maker: Callable[[pa.ChunkedArray, Any], pa.Array] | None = next(
        (make for fits, make in _MAKERS if fits(kind)), None
    )
    if maker is None:
        return _shuffled(values, where_N, rng)
    new = maker(values, rng)
    kept = pa.array(where_N & (rng.random(len(where_N)) >= NULLS))
    nulls = pa.array(where_N)
    return pc.if_else(kept, new, pc.if_else(nulls, pa.scalar(None, kind), values))


def _other_floats(values: pa.ChunkedArray, rng: Any) -> pa.Array:
    new = _scale(values) * 10.0 ** rng.uniform(-2, 3, len(values))
    return pa.array(new * rng.choice([-1.0, 1.0], len(values))).cast(values.type, safe=False)


def _other_integers(values: pa.ChunkedArray, rng: Any) -> pa.Array:
    signed = pa.types.is_signed_integer(values.type)
    top = 2.0 ** (values.type.bit_width - signed) / 2 - 1
    new = _scale(values) * 10.0 ** rng.uniform(-2, 3, len(values)) + rng.integers(1, 9, len(values))
    new = np.minimum(new, top) * (rng.choice([-1, 1], len(values)) if signed else 1)
    return pa.array(np.floor(new)).cast(values.type, safe=False)


def _other_flags(values: pa.ChunkedArray, rng: Any) -> pa.Array:
    drawn = pa.array(rng.random(len(values)) < 0.5)
    return pc.coalesce(pc.invert(values), drawn).combine_chunks()


def _other_texts(values: pa.ChunkedArray, rng: Any) -> pa.Array:
    domain = pc.unique(values).drop_null().to_pylist()
    texts = np.array([*domain, STRANGER], dtype=object)
    drawn = rng.integers(0, len(texts), len(values))
    drawn[rng.random(len(values)) < NEAR] = len(texts) - 1
    old = values.to_numpy(zero_copy_only=False)
    same = texts[drawn] == old
    drawn[same] = (drawn[same] + 1) % len(texts)
    return pa.array(texts[drawn], values.type)


def _shuffled(values: pa.ChunkedArray, where_N: NDArray[np.bool_], rng: Any) -> pa.ChunkedArray:
    order = np.arange(len(values))
    order[where_N] = rng.permutation(order[where_N])
    nulls = where_N & ((order == np.arange(len(values))) | (rng.random(len(values)) < NULLS))
    return values.take(pa.array(order, mask=nulls))


def _scale(values: pa.ChunkedArray) -> float:
    """Return a usual magnitude of the values."""
    numbers = np.abs(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    return float(np.median(numbers)) if len(numbers) else 1.0


_MAKERS: tuple[tuple[Callable[[Any], bool], Callable[[pa.ChunkedArray, Any], pa.Array]], ...] = (
    (pa.types.is_floating, _other_floats),
    (pa.types.is_integer, _other_integers),
    (pa.types.is_boolean, _other_flags),
    (pa.types.is_string, _other_texts),
    (pa.types.is_large_string, _other_texts),
)


def _is_time(field: pa.Field) -> bool:
    return bool(pa.types.is_date(field.type) or pa.types.is_timestamp(field.type))


def _generator(name: str, seed: int) -> Any:
    """Return a generator of its own for each table and column, whatever else is drawn."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
