"""A Feast offline store: point-in-time joins over Parquet and PostgreSQL, Arrow in, Arrow out.

    offline_store:
      type: feastrain.stores.asof.AsofOfflineStore

One line in any `feature_store.yaml`. Every entity row comes back, in order; a value is never read
before it was created.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalMetadata
from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.utils import compute_non_entity_date_range
from pydantic import PositiveFloat

from feastrain.errors import UsageError
from feastrain.stores.asof.frame import EntityFrame, read_frame
from feastrain.stores.asof.job import AsofRetrievalJob
from feastrain.stores.asof.on_demand import OnDemand
from feastrain.stores.asof.parquet import ParquetTable, filesystem_of
from feastrain.stores.asof.retrieval import PointInTimeRows
from feastrain.stores.asof.rows import SourceRows
from feastrain.stores.asof.source import SourceTable, Window, WriteMode
from feastrain.stores.asof.statement import asof_statement
from feastrain.stores.asof.views import ViewJoin, plan_joins
from feastrain.stores.asof.writing import append_parquet, write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd
    from feast import FeatureView
    from feast.data_source import DataSource
    from feast.feature_logging import LoggingConfig, LoggingSource
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig


class AsofOfflineStoreConfig(PostgreSQLConfig):  # type: ignore[misc]
    """Configuration of the store.

    The keys of Feast's own PostgreSQL store say where PostgreSQL sources are; without a host
    all sources are Parquet.
    """

    type: Literal["feastrain.stores.asof.AsofOfflineStore"] = (
        "feastrain.stores.asof.AsofOfflineStore"
    )

    ignore_created_timestamp: bool = False
    """Read a value as of its event timestamp even where it was created later, as Feast's own
    stores do; created timestamps then only break ties."""

    statement_seconds: PositiveFloat = 600.0
    """How long PostgreSQL works on one query at most; it is waited for a second longer."""

    retry_seconds: PositiveFloat = 60.0
    """How long a query is asked again where PostgreSQL went away: longer than a fail-over."""

    host: str | None = None
    database: str | None = None
    user: str | None = None
    password: str | None = None


class AsofOfflineStore(OfflineStore):  # type: ignore[misc]
    """Point-in-time joins over Parquet and PostgreSQL sources."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(  # noqa: PLR0913, PLR0917 - Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002
        *,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> AsofRetrievalJob:
        """Join features to entity rows as of each row's time.

        Without an entity frame, the rows are the keys and event timestamps that the views have
        from `start_date` to `end_date`.

        Raises:
            UsageError: the entity frame lacks a key or a time, or names collide.
            DataError: columns do not compare, or a source lacks one.
        """
        joins = plan_joins(feature_views, feature_refs, full_names=full_feature_names)
        if entity_df is None:
            span = compute_non_entity_date_range(feature_views, start_date, end_date)
            frame = _frame_of_sources(config, joins, *span)
        else:
            frame = read_frame(entity_df, _query(config))
        lenient = config.offline_store.ignore_created_timestamp and not filter_by_created_timestamp
        views = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        rows = PointInTimeRows(
            frame,
            joins,
            OnDemand(views, feature_refs, full_names=full_feature_names),
            partial(_open, config),
            lenient=lenient,
        )
        first, last = frame.span() or (None, None)
        return AsofRetrievalJob(
            rows,
            repo=str(config.repo_path),
            write_table=partial(_write_table, config),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=frame.keys,
                min_event_timestamp=first,
                max_event_timestamp=last,
            ),
            full_feature_names=full_feature_names,
            statement=partial(
                asof_statement,
                joins,
                frame.table.column_names,
                frame.timestamp,
                entities=entity_df if isinstance(entity_df, str) else None,
                repo=str(config.repo_path),
                lenient=lenient,
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(  # noqa: PLR0913, PLR0917 - Feast's signature
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> AsofRetrievalJob:
        """Return the latest row of every key with an event timestamp in the span, inclusive."""
        columns = (join_key_columns, feature_name_columns, timestamp_field)
        span = (start_date, end_date)
        return _pull(config, data_source, columns, created_timestamp_column, span, newest=True)

    @staticmethod
    def pull_all_from_table_or_query(  # noqa: PLR0913, PLR0917 - Feast's signature
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> AsofRetrievalJob:
        """Return every row with an event timestamp in the span, inclusive."""
        columns = (join_key_columns, feature_name_columns, timestamp_field)
        span = (start_date, end_date)
        return _pull(config, data_source, columns, created_timestamp_column, span, newest=False)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,  # noqa: ARG004 - Feast's signature
        logging_config: LoggingConfig,
        registry: BaseRegistry,  # noqa: ARG004 - Feast's signature
    ) -> None:
        """Add served features to a log: a Parquet file more in its folder."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            message = f"features are logged to files, not to {type(destination).__name__}"
            raise UsageError(message)
        table = data if isinstance(data, pa.Table) else pq.read_table(data)
        source_of_log = destination.to_data_source()
        location = FileSource.get_uri_for_file_path(config.repo_path, destination.path)
        filesystem, path = filesystem_of(source_of_log, location)
        if destination.partition_by:
            pq.write_to_dataset(
                table, path, partition_cols=destination.partition_by, filesystem=filesystem
            )
        else:
            write_parquet([table], filesystem, f"{path}/{uuid.uuid4().hex}.parquet")

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Add rows to the batch source of a view."""
        source = feature_view.batch_source
        if source is None:
            message = f"view {feature_view.name!r} has no batch source to write to"
            raise UsageError(message)
        if isinstance(source, FileSource):
            location = FileSource.get_uri_for_file_path(config.repo_path, source.path)
            append_parquet(table, *filesystem_of(source, location))
        else:
            _write_table(config, source, table, "append")
        if progress is not None:
            progress(len(table))


def _open(
    config: RepoConfig, source: DataSource, columns: list[str], window: Window | None
) -> SourceTable:
    """Open a source for the columns and the times that are wanted."""
    if isinstance(source, FileSource):
        return ParquetTable(source, str(config.repo_path), window)
    from feastrain.stores.asof.postgres import PostgresTable

    return PostgresTable(source, config.offline_store, columns, window)


def _query(config: RepoConfig) -> Callable[[str], pa.Table] | None:
    """Return what runs the SQL of an entity frame: PostgreSQL where there is one."""
    if not config.offline_store.host:
        return None
    from feastrain.stores.asof.postgres import fetch

    return partial(fetch, config.offline_store)


def _write_table(
    config: RepoConfig, destination: DataSource, table: pa.Table, mode: WriteMode
) -> None:
    from feastrain.stores.asof.postgres import write

    write(config.offline_store, destination, table, mode)


def _pull(
    config: RepoConfig,
    source: DataSource,
    columns: tuple[list[str], list[str], str],
    created: str | None,
    span: tuple[datetime | None, datetime | None],
    *,
    newest: bool,
) -> AsofRetrievalJob:
    keys, features, event_timestamp = columns
    first, last = (_utc(moment) for moment in span)
    names = list(
        dict.fromkeys([*keys, *features, event_timestamp, *([created] if created else [])])
    )
    window = Window(event_timestamp, first, last) if last is not None else None
    table = _open(config, source, names if features else [], window)
    if not features:  # Feast's way to ask for every column
        names = list(table.schema.names)
    rows = SourceRows(table, names, keys, event_timestamp, created, first, last, newest=newest)
    return AsofRetrievalJob(
        rows, repo=str(config.repo_path), write_table=partial(_write_table, config)
    )


def _frame_of_sources(
    config: RepoConfig, joins: list[ViewJoin], first: datetime, last: datetime
) -> EntityFrame:
    """Return every key and event timestamp of a span, of the views that have all the keys."""
    keys = list(dict.fromkeys(key for join in joins for key in join.keys.values()))
    whole = [join for join in joins if set(join.keys.values()) == set(keys)]
    if not whole:
        message = "no view has all the join keys of the others: give an entity frame"
        raise UsageError(message)
    parts = []
    for join in whole:
        stored = {ours: theirs for theirs, ours in join.keys.items()}
        names = [*join.keys, join.event_timestamp]
        source = _open(config, join.source, names, Window(join.event_timestamp, first, last))
        read = SourceRows(
            source, names, [*join.keys], join.event_timestamp, first=first, last=last
        ).table()
        times = read[join.event_timestamp].cast(pa.timestamp("us", "UTC"))
        parts.append(
            pa.table({**{key: read[stored[key]] for key in keys}, "event_timestamp": times})
        )
    rows = pa.concat_tables(parts, promote_options="permissive")
    order = [(name, "ascending") for name in ("event_timestamp", *keys)]
    return EntityFrame(
        rows.group_by(rows.column_names).aggregate([]).sort_by(order), "event_timestamp"
    )


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)
