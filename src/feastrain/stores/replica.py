"""A feature store on copies: the same definitions, other files, and nobody else's registry."""

from __future__ import annotations

import glob
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds

from feastrain.errors import ProjectError
from feastrain.stores.feature_repo import quiet_offline_store, view_of

# isort: split
from feast import FeatureStore, FileSource
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from feast.repo_config import RepoConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

EARLIEST, LATEST = datetime(1700, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""All time, for offline stores that cannot read a table without bounds (PostgreSQL's)."""


def views_behind(store: FeatureStore, service: str) -> dict[str, Any]:
    """Return every view that a feature service reads, by name, inputs of its views included."""
    views: dict[str, Any] = {}
    wanted = [p.name for p in store.get_feature_service(service).feature_view_projections]
    while wanted:
        name = wanted.pop()
        if name not in views:
            view = view_of(store, name)
            views[name] = view
            wanted += inputs_of(view)
    return views


def inputs_of(view: Any) -> list[str]:
    """Return the views that a view is computed from: those of an on-demand or a derived one."""
    projections = getattr(view, "source_feature_view_projections", None) or {}
    derived = getattr(view, "source_views", None) or []
    return [projection.name for projection in projections.values()] + [v.name for v in derived]


def local_path(store: FeatureStore, source: Any) -> Path | None:
    """Return the path, folder or pattern of a source of Parquet files here; None for any other."""
    if not isinstance(source, FileSource):
        return None
    path: str = source.path.removeprefix("file://")
    if "://" in path or not isinstance(source.file_format, ParquetFormat | None):
        return None
    return Path(store.repo_path or ".") / path


def files_of(path: Path) -> list[Path]:
    """Return the files that a path, a folder or a pattern stands for, links resolved."""
    if path.is_dir():
        return sorted(file.resolve() for file in path.rglob("*") if file.is_file())
    return sorted(Path(file).resolve() for file in glob.glob(str(path)))  # noqa: PTH207 - absolute


def read_source(store: FeatureStore, view: Any) -> pa.Table:
    """Return all rows behind a view, from its files or, where it has none, its offline store."""
    source = view.batch_source
    path = local_path(store, source)
    if path is not None:
        files: Any = str(path) if path.is_dir() else [str(file) for file in files_of(path)]
        partitioning: Any = "hive" if path.is_dir() else None
        return ds.dataset(files, format="parquet", partitioning=partitioning).to_table()
    raw_name = {new: old for old, new in (source.field_mapping or {}).items()}
    with quiet_offline_store():
        job = get_offline_store_from_config(store.config.offline_store)
        table = job.pull_all_from_table_or_query(
            config=store.config,
            data_source=source,
            join_key_columns=[raw_name.get(f.name, f.name) for f in view.entity_columns],
            feature_name_columns=[raw_name.get(f.name, f.name) for f in view.features],
            timestamp_field=source.timestamp_field,
            created_timestamp_column=source.created_timestamp_column or None,
            start_date=EARLIEST,
            end_date=LATEST,
        ).to_arrow()
    return _with_time_zone(table, [source.timestamp_field, source.created_timestamp_column])


def replicate(store: FeatureStore, sources: Mapping[str, Path], scratch: Path) -> FeatureStore:
    """Return a store with the definitions of `store` whose views read the files of `sources`.

    The copies may be rewritten: each retrieval reads them anew. The registry and the online
    store of the replica lie in `scratch`; those of `store` are only read.

    Args:
        store: the feature store, already applied.
        sources: the Parquet file that each view is to read, by the view's name; with the
            columns that the view's own source has. On-demand views among the names are none.
        scratch: an existing folder.

    Raises:
        ProjectError: a view of a kind that cannot be led to a copy.
    """
    views = [view_of(store, name) for name in sources]
    on_files = all(isinstance(view.batch_source, FileSource) for view in views)
    config = RepoConfig(
        project=store.project,
        provider="local",
        registry=str(scratch / "registry.db"),
        online_store={"type": "sqlite", "path": str(scratch / "online.db")},
        offline_store=store.config.offline_store.model_dump() if on_files else {"type": "duckdb"},
        entity_key_serialization_version=store.config.entity_key_serialization_version,
        repo_path=store.repo_path,
    )
    with quiet_offline_store():
        replica = FeatureStore(config=config)
        registry = replica.registry
        for entity in store.list_entities():
            registry.apply_entity(entity, store.project, commit=False)
        for view in views:
            _read_copy(view, sources[view.name])
            registry.apply_feature_view(view, store.project, commit=False)
        for on_demand in store.list_on_demand_feature_views():
            if set(inputs_of(on_demand)) <= sources.keys():
                registry.apply_feature_view(on_demand, store.project, commit=False)
        registry.commit()
    for name, path in sources.items():
        view = copy(registry.get_any_feature_view(name, store.project))
        if view.batch_source.path != str(path):
            message = f"view {name!r} ({type(view).__name__}) cannot be led to a copy of its source"
            raise ProjectError(message)
    return replica


def _read_copy(view: Any, path: Path) -> None:
    """Lead a view to a copy; also what it is pushed or streamed from, whence Feast copies it."""
    source = view.batch_source
    view.batch_source = FileSource(
        name=source.name,
        path=str(path),
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        field_mapping=dict(source.field_mapping or {}),
    )
    stream = getattr(view, "stream_source", None)
    if stream is not None:
        stream.batch_source = view.batch_source


def _with_time_zone(table: pa.Table, names: list[str | None]) -> pa.Table:
    for name in names:
        if name and pa.types.is_timestamp(table[name].type):
            position = table.schema.get_field_index(name)
            stamps = table[name].cast(pa.timestamp("us", tz="UTC"))
            table = table.set_column(position, name, stamps)
    return table
