"""What the right answer is: a plain search in NumPy for a sample of the entity rows.

It shares nothing with the systems that are measured: no DuckDB, no Feast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval_data import TTL, entities_path, table_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from retrieval_data import Case, View

SAMPLE = 2_000
TOLERANCE = 1e-9  # relative, for the computed features: a sine differs in its last bit
TTL_US = round(TTL.total_seconds() * 1_000_000)


@dataclass(frozen=True)
class Verdict:
    """How an answer compares with the oracle's, over the sampled rows that were asked for."""

    sampled: int
    wrong: int
    in_order: bool


def draw_oracle(case: Case, folder: Path) -> None:
    """Answer a random sample of the case's entity rows, and keep it as `oracle.parquet`."""
    position = np.sort(np.random.default_rng(3).permutation(case.rows)[:SAMPLE])
    rows = _rows_at(entities_path(folder), position)
    columns: dict[str, NDArray[np.float64]] = {}
    for view in case.views:
        columns |= _search(view, table_path(folder, view), rows)
    if case.transforms:
        columns |= _transforms(columns)
    answer = rows.append_column("position", pa.array(position))
    for name in case.columns:
        answer = answer.append_column(name, pa.array(columns[name]))
    pq.write_table(answer, folder / "oracle.parquet")


def compare(case: Case, folder: Path, answer: Iterable[pa.RecordBatch], asked: int) -> Verdict:
    """Compare an answer with the oracle, given that the first `asked` entity rows were asked for.

    A sampled row is wrong unless it is there exactly once with every value right.
    """
    oracle = pq.read_table(folder / "oracle.parquet", filters=pc.field("position") < asked)
    oracle = oracle.take(np.argsort(_key(oracle)))
    keys, positions = _key(oracle), oracle["position"].to_numpy()
    truth = _matrix(oracle, case)
    computed = np.array([name in case.transforms for name in case.columns])
    seen, in_order, start = np.zeros(len(keys), np.int64), True, 0
    good = np.ones(len(keys), bool)
    for batch in answer:
        key = _key(batch)
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        hit = np.flatnonzero(keys[at] == key)
        at = at[hit]
        given, wanted = _matrix(batch.take(pa.array(hit)), case), truth[at]
        error = np.abs(given - wanted) <= np.where(computed, TOLERANCE * (1 + np.abs(wanted)), 0)
        same = error | (np.isnan(given) & np.isnan(wanted))
        np.logical_and.at(good, at, same.all(axis=1))
        np.add.at(seen, at, 1)
        in_order &= bool((positions[at] == start + hit).all())
        start += batch.num_rows
    right = good & (seen == 1)
    return Verdict(len(keys), int((~right).sum()), in_order and bool((seen == 1).all()))


def parts(path: Path) -> list[Path]:
    """Return the files of an answer that was written to Parquet, in order."""
    return sorted(path.rglob("*.parquet")) if path.is_dir() else [path]


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Read an answer that was written to Parquet, batch by batch."""
    for file in parts(path):
        yield from pq.ParquetFile(file).iter_batches(batch_size=1 << 18)


def _rows_at(path: Path, position: NDArray[np.int64]) -> pa.Table:
    start, found = 0, []
    for batch in pq.ParquetFile(path).iter_batches():
        here = position[(position >= start) & (position < start + batch.num_rows)] - start
        found.append(batch.take(pa.array(here)))
        start += batch.num_rows
    return pa.Table.from_batches(found)


def _search(view: View, path: Path, rows: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Look each row's values up among all feature rows of its key, one row at a time."""
    table = _rows_of(view, path, rows)
    key = _packed(table, view)
    event, created = _time(table["event_timestamp"]), _time(table["created_timestamp"])
    order = np.argsort(key, kind="stable")
    key, event, created = key[order], event[order], created[order]
    found = np.full(len(rows), -1)
    at = _time(rows["event_timestamp"])
    for number, (wanted, now) in enumerate(zip(_packed(rows, view), at, strict=True)):
        own = np.arange(*np.searchsorted(key, [wanted, wanted + 1]))
        known = own[(event[own] <= now) & (created[own] <= now) & (event[own] >= now - TTL_US)]
        if len(known):
            found[number] = order[max(known, key=lambda row: (event[row], created[row]))]
    columns = {}
    for name in view.features:
        values = _numbers(table[name])
        columns[name] = np.where(found < 0, np.nan, values[found])
    return columns


def _rows_of(view: View, path: Path, rows: pa.Table) -> pa.Table:
    wanted = np.unique(_packed(rows, view))
    found = [
        batch.filter(pa.array(np.isin(_packed(batch, view), wanted))) for batch in batches(path)
    ]
    return pa.Table.from_batches(found)


def _transforms(columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    angle = 2 * np.pi * columns["week_of_year"] / 52
    markdowns = [np.nan_to_num(columns[f"markdown_{number}"]) for number in range(1, 6)]
    return {
        "temperature_normalized": (columns["temperature"] - 60) / 20,
        "holiday_markdown_interaction": columns["is_holiday"] * np.sum(markdowns, axis=0),
        "seasonal_sine": np.sin(angle),
        "seasonal_cosine": np.cos(angle),
    }


def _matrix(rows: pa.Table | pa.RecordBatch, case: Case) -> NDArray[np.float64]:
    return np.stack([_numbers(rows.column(name)) for name in case.columns], axis=1)


def _numbers(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    """Return numbers or booleans as floats; null is NaN."""
    plain = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    return plain.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)


def _packed(rows: pa.Table | pa.RecordBatch, view: View) -> NDArray[np.int64]:
    keys = [rows.column(name).cast(pa.int64()).to_numpy() for name in view.keys]
    return keys[0] if len(keys) == 1 else keys[0] * 1_000 + keys[1]


def _key(rows: pa.Table | pa.RecordBatch) -> NDArray[np.int64]:
    """Pack store, department and minute into one number that names an entity row."""
    store, dept = (rows.column(name).cast(pa.int64()).to_numpy() for name in ("store", "dept"))
    return ((store * 1_000 + dept) << 26) + _time(rows.column("event_timestamp")) // 60_000_000


def _time(column: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    naive = pa.types.is_timestamp(column.type) and column.type.tz is None
    unit = pa.timestamp("us") if naive else pa.timestamp("us", tz="UTC")
    return column.cast(unit, safe=False).cast(pa.int64()).to_numpy()
