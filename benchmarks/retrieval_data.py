"""The data of the retrieval benchmark: drawn by seed, in bounded memory, kept for reuse.

A case is a shuffled entity frame (store, dept, cut-off) and the feature tables that are joined to
it. Cut-offs are the same weeks for every series; feature rows are offset from them by hours, so
that no join by equality answers. Some series begin late and some stop early, and one feature row
in a hundred is corrected days later under the same event timestamp.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feastrain.artifacts import fingerprint, is_published, publishing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

TTL = timedelta(days=365)
WEEKS = 127  # cut-offs of a series; the shorter series have one less
EPOCH = datetime(2010, 2, 5, tzinfo=UTC)
TIMESTAMP = pa.timestamp("us", tz="UTC")
MINUTE, DAY = 60_000_000, 86_400_000_000  # in microseconds
DEPTS = 99
BLOCK = 2_000  # series in a row group
CHUNK = 1 << 20  # entity rows in a row group
COMPRESSION = {"compression": "zstd", "compression_level": 1}

EXTERNALS = (
    "temperature",
    "fuel_price",
    *(f"markdown_{number}" for number in range(1, 6)),
    "cpi",
    "unemployment",
    "is_holiday",
    "week_of_year",
    "store_size",
)
TRANSFORMS = (
    "temperature_normalized",
    "holiday_markdown_interaction",
    "seasonal_sine",
    "seasonal_cosine",
)


@dataclass(frozen=True)
class View:
    """One feature view: its name, its keys, its stored features."""

    name: str
    keys: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One size of the benchmark: 21 stored features and 4 computed ones, or 50 stored (`wide`)."""

    name: str
    rows: int
    series: int  # (store, dept) pairs
    wide: bool = False

    @property
    def stores(self) -> int:
        """Number of stores: 45 for the 3,331 series of Kaggle's table, at least 12."""
        return max(12, round(self.series * 45 / 3_331))

    @property
    def views(self) -> tuple[View, ...]:
        """The feature views, the one keyed by the series first."""
        sales = 30 if self.wide else 9
        views = [
            View("sales_history", ("store", "dept"), tuple(f"sales_{n}" for n in range(sales))),
            View("store_external", ("store",), EXTERNALS),
        ]
        if self.wide:
            views.append(View("dept_trend", ("dept",), tuple(f"trend_{n}" for n in range(8))))
        return tuple(views)

    @property
    def transforms(self) -> tuple[str, ...]:
        """The features computed on demand from `store_external`."""
        return () if self.wide else TRANSFORMS

    @property
    def columns(self) -> tuple[str, ...]:
        """Every feature that a retrieval returns."""
        stored = [feature for view in self.views for feature in view.features]
        return (*stored, *self.transforms)

    @property
    def references(self) -> list[str]:
        """Every feature as Feast refers to it."""
        stored = [f"{view.name}:{name}" for view in self.views for name in view.features]
        return [*stored, *(f"transforms:{name}" for name in self.transforms)]


CASES = {
    case.name: case
    for case in (
        Case("421k", 421_570, 3_331),
        Case("4m", 4_215_700, 33_310),
        Case("42m", 42_157_000, 333_100, wide=True),
    )
}


def cache_folder() -> Path:
    """Return where benchmark data is kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "feastrain" / "bench"


def case_folder(case: Case, finish: Callable[[Case, Path], None]) -> Path:
    """Return the folder with the case's tables, drawn now unless an earlier run did.

    `finish` adds to the folder what is derived from the tables.
    """
    sources = [Path(__file__), Path(finish.__code__.co_filename)]
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources]
    folder = cache_folder() / f"retrieval-{case.name}-{fingerprint(asdict(case), code)}"
    if not is_published(folder):
        print(f"{case.name}: drawing {case.rows:,} entity rows and their features in {folder}")
        with publishing(folder, {"case": asdict(case)}) as scratch:
            _draw(case, scratch)
            finish(case, scratch)
    return folder


def table_path(folder: Path, view: View) -> Path:
    """Return where a view's feature rows are."""
    return folder / f"{view.name}.parquet"


def entities_path(folder: Path) -> Path:
    """Return where the entity rows are."""
    return folder / "entities.parquet"


def _draw(case: Case, folder: Path) -> None:
    store, dept = _pairs(case)
    _write(entities_path(folder), _entity_rows(case, store, dept))
    keys = {
        ("store", "dept"): {"store": store, "dept": dept},
        ("store",): {"store": np.arange(1, case.stores + 1)},
        ("dept",): {"dept": np.arange(1, DEPTS + 1)},
    }
    for number, view in enumerate(case.views):
        _write(table_path(folder, view), _feature_rows(view, keys[view.keys], number))


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, **COMPRESSION) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _pairs(case: Case) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the series, with (1, 11) and (11, 1): one string when joined without a delimiter."""
    grid = np.random.default_rng(0).permutation(case.stores * DEPTS)
    confusable = np.array([0 * DEPTS + 10, 10 * DEPTS + 0])
    grid = np.concatenate([confusable, grid[~np.isin(grid, confusable)]])[: case.series]
    return grid // DEPTS + 1, grid % DEPTS + 1


def _entity_rows(
    case: Case, store: NDArray[np.int64], dept: NDArray[np.int64]
) -> Iterator[pa.Table]:
    longer = case.rows - case.series * (WEEKS - 1)  # the first series have one week more
    order = np.random.default_rng(1).permutation(case.rows)
    for start in range(0, case.rows, CHUNK):
        row = order[start : start + CHUNK]
        later = row - longer * WEEKS
        series = np.where(later < 0, row // WEEKS, longer + later // (WEEKS - 1))
        week = np.where(later < 0, row % WEEKS, later % (WEEKS - 1))
        columns = {"store": pa.array(store[series]), "dept": pa.array(dept[series])}
        yield pa.table({**columns, "event_timestamp": _timestamps(_microseconds(week))})


def _feature_rows(
    view: View, keys: dict[str, NDArray[np.int64]], number: int
) -> Iterator[pa.Table]:
    count = len(next(iter(keys.values())))
    for start in range(0, count, BLOCK):
        rng = np.random.default_rng([2, number, start])
        block = {name: values[start : start + BLOCK] for name, values in keys.items()}
        yield _block(view, block, rng)


def _block(view: View, keys: dict[str, NDArray[np.int64]], rng: np.random.Generator) -> pa.Table:
    """Draw the rows of some keys, in no order: one a week, and corrections of one in a hundred."""
    count = len(next(iter(keys.values())))
    key = np.repeat(np.arange(count), WEEKS + 1)
    week = np.tile(np.arange(WEEKS + 1), count)
    fate = rng.random(count)[key]  # 3 in 100 begin late, 3 in 100 stop so early that rows expire
    alive = ~((fate < 0.03) & (week < 20)) & ~((fate > 0.97) & (week > 50))
    key, week = key[alive], week[alive]
    event = _microseconds(week) - rng.integers(60, 6_000, len(week)) * MINUTE
    created = event.copy()
    corrected = np.flatnonzero(rng.random(len(event)) < 0.01)
    late = created[corrected] + rng.integers(1, 10, len(corrected)) * DAY
    key = np.concatenate([key, key[corrected]])
    event, created = np.concatenate([event, event[corrected]]), np.concatenate([created, late])
    order = rng.permutation(len(key))
    columns = {name: pa.array(values[key[order]]) for name, values in keys.items()}
    columns["event_timestamp"] = _timestamps(event[order])
    columns["created_timestamp"] = _timestamps(created[order])
    for feature in view.features:
        columns[feature] = _values(feature, len(key), rng)
    return pa.table(columns)


def _values(feature: str, count: int, rng: np.random.Generator) -> pa.Array:
    if feature == "is_holiday":
        return pa.array(rng.random(count) < 0.07)
    if feature == "week_of_year":
        return pa.array(rng.integers(1, 53, count))
    if feature == "store_size":
        return pa.array(rng.integers(30_000, 220_000, count))
    absent = rng.random(count) < 0.3 if feature.startswith("markdown") else None
    sixteenths = rng.integers(0, 1 << 16, count, dtype=np.uint16)  # exact in binary
    return pa.array(sixteenths / 16.0 - 1_024.0, mask=absent)


def _microseconds(week: NDArray[np.int64]) -> NDArray[np.int64]:
    return int(EPOCH.timestamp()) * 1_000_000 + week * 7 * DAY


def _timestamps(microseconds: NDArray[np.int64]) -> pa.Array:
    return pa.array(microseconds).cast(TIMESTAMP)
