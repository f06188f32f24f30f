"""The systems that the retrieval benchmark measures; each is opened before its clock starts.

A system is a function that imports what it needs, opens its store over a case's tables, and
returns a function that does one whole retrieval: the entity frame in, every feature out.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from retrieval_data import CASES, entities_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa
    from feast import FeatureStore
    from feast.infra.offline_stores.offline_store import RetrievalJob

    from retrieval_data import Case

    Answer = pa.Table | pd.DataFrame | Path
    Retrieve = Callable[[], Answer]

ASOF = "feastrain.stores.asof"
CHUNK_ROWS, WORKERS = 50_000, 2


class UnavailableError(Exception):
    """The system cannot be measured in this environment."""


@dataclass(frozen=True)
class Place:
    """Where a system finds the case's tables, a folder of its own, and PostgreSQL if it runs."""

    case: Case
    folder: Path
    scratch: Path
    postgres: dict[str, Any] | None = None

    def entity_frame(self, rows: int | None = None) -> pd.DataFrame:
        """Return the first `rows` entity rows, or all."""
        return pq.read_table(entities_path(self.folder)).slice(0, rows).to_pandas()

    @property
    def entities_sql(self) -> str:
        """The entity rows as DuckDB reads them, for frames too large for pandas."""
        return f"read_parquet('{entities_path(self.folder)}')"

    def store(self, offline_store: dict[str, Any], *, in_postgres: bool = False) -> FeatureStore:
        """Open a feature store over the case's tables."""
        from retrieval_repo import open_store

        repo = self.scratch / "repo"
        repo.mkdir(exist_ok=True)
        return open_store(self.case, self.folder, repo, offline_store, in_postgres=in_postgres)


def dask_sample(case: Case) -> int:
    """Return how many entity rows Feast's Dask store is asked for: one in ten."""
    return case.rows // 10


def _feastrain(place: Place) -> Retrieve:
    _require(ASOF)
    store = place.store({"type": f"{ASOF}.AsofOfflineStore"})
    if not place.case.wide:
        frame = place.entity_frame()
        return lambda: _historical(store, place.case, frame).to_arrow()
    query = f"SELECT store, dept, event_timestamp FROM {place.entities_sql}"  # noqa: S608
    return lambda: _to_parquet(_historical(store, place.case, query), place.scratch)


def _feastrain_postgres(place: Place) -> Retrieve:
    _require(ASOF)
    assert place.postgres is not None
    offline_store = {"type": f"{ASOF}.AsofOfflineStore", **place.postgres}
    store, frame = place.store(offline_store, in_postgres=True), place.entity_frame()
    return lambda: _historical(store, place.case, frame).to_arrow()


def _feastrain_ray(place: Place) -> Retrieve:
    """Give each of two Ray workers the entity rows of some stores, to a file of its own.

    As the engine of `feastrain build` does: a worker reads its share of the sources, and no row
    comes back to this process. Workers and their stores are there before the clock starts.
    """
    _require("ray")
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    workers = [ray.remote(_RayWorker).remote(place, number) for number in range(WORKERS)]
    ray.get([worker.ready.remote() for worker in workers])
    folder = place.scratch / "parts"
    folder.mkdir()

    def retrieve() -> Path:
        ray.get([worker.write_part.remote(folder) for worker in workers])
        return folder

    return retrieve


def _limit(place: Place) -> Retrieve:
    import duckdb

    from retrieval_limit import statement

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET temp_directory = '{place.scratch}'")
    if not place.case.wide:
        connection.register("entity_frame", place.entity_frame())
        query = statement(place.case, place.folder, "entity_frame", keep_order=True)
        return lambda: connection.sql(query).to_arrow_table()
    query = statement(place.case, place.folder, place.entities_sql, keep_order=False)
    path = place.scratch / "answer.parquet"

    def copy() -> Path:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
        return path

    return copy


def _feast_duckdb(place: Place) -> Retrieve:
    store, frame = place.store({"type": "duckdb"}), place.entity_frame()
    return lambda: _historical(store, place.case, frame).to_arrow()


def _feast_dask_sample(place: Place) -> Retrieve:
    store, frame = place.store({"type": "dask"}), place.entity_frame(dask_sample(place.case))
    return lambda: _historical(store, place.case, frame).to_arrow()


def _feast_postgres(place: Place) -> Retrieve:
    assert place.postgres is not None
    store = place.store({"type": "postgres", **place.postgres}, in_postgres=True)
    frame = place.entity_frame()
    return lambda: _historical(store, place.case, frame).to_arrow()


def _chunked_parallel(place: Place) -> Retrieve:
    """Retrieve chunks of the entity frame in two processes, whose stores are opened beforehand."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    import pandas as pd

    frame = place.entity_frame()
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(WORKERS + 1)
    pool = ProcessPoolExecutor(WORKERS, context, _open_worker, (place, ready))
    for _ in range(WORKERS):
        pool.submit(int)
    ready.wait()

    def retrieve() -> pd.DataFrame:
        starts = range(0, len(frame), CHUNK_ROWS)
        chunks = [frame.iloc[start : start + CHUNK_ROWS] for start in starts]
        return pd.concat(pool.map(_retrieve_chunk, chunks), ignore_index=True)

    return retrieve


SYSTEMS: dict[str, Callable[[Place], Retrieve]] = {
    "feastrain": _feastrain,
    "limit": _limit,
    "feast-duckdb": _feast_duckdb,
    "feast-dask-sample": _feast_dask_sample,
    "chunked-parallel": _chunked_parallel,
    "feastrain-ray": _feastrain_ray,
    "feastrain-postgres": _feastrain_postgres,
    "feast-postgres": _feast_postgres,
}
QUICK = ("feastrain", "limit", "feast-duckdb")


def systems_of(case: Case) -> tuple[str, ...]:
    """Return the systems that the case measures when none is named."""
    if case.wide:
        return ("feastrain", "limit")
    sampled = case.rows <= CASES["421k"].rows  # a tenth of more is beyond the Dask store's memory
    return tuple(name for name in SYSTEMS if sampled or name != "feast-dask-sample")


def _historical(store: FeatureStore, case: Case, entities: pd.DataFrame | str) -> RetrievalJob:
    return store.get_historical_features(
        entity_df=entities, features=case.references, filter_by_created_timestamp=True
    )


def _to_parquet(job: RetrievalJob, scratch: Path) -> Path:
    """Stream the job's answer to Parquet, where its store offers that; else persist it."""
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    path = scratch / "answer.parquet"
    if hasattr(job, "to_parquet"):
        job.to_parquet(path)
    else:
        job.persist(SavedDatasetFileStorage(str(path)), allow_overwrite=True)
    return path


def _require(module: str) -> None:
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        message = f"{module} is not installed"
        raise UnavailableError(message)


class _RayWorker:
    """Retrieves the rows of a share of the stores, in the order of the entity frame."""

    def __init__(self, place: Place, number: int) -> None:
        from dataclasses import replace

        scratch = place.scratch / f"ray-{number}"
        scratch.mkdir(exist_ok=True)
        self._place, self._number = place, number
        self._store = replace(place, scratch=scratch).store({"type": f"{ASOF}.AsofOfflineStore"})

    def ready(self) -> bool:
        return True

    def write_part(self, folder: Path) -> None:
        case, share = self._place.case, -(-self._place.case.stores // WORKERS)
        first = self._number * share + 1
        query = (
            f"SELECT store, dept, event_timestamp FROM {self._place.entities_sql} "  # noqa: S608
            f"WHERE store BETWEEN {first} AND {first + share - 1}"
        )
        _historical(self._store, case, query).to_parquet(folder / f"{self._number}.parquet")


_worker: dict[str, Any] = {}  # what a process of the pool opened for its chunks


def _open_worker(place: Place, ready: Any) -> None:
    import os
    from dataclasses import replace

    own = place.scratch / f"worker-{os.getpid()}"
    own.mkdir()
    _worker["store"] = replace(place, scratch=own).store({"type": "duckdb"})
    _worker["case"] = place.case
    ready.wait()


def _retrieve_chunk(chunk: pd.DataFrame) -> pd.DataFrame:
    return _historical(_worker["store"], _worker["case"], chunk.copy()).to_df()
