"""Where the as-of store's rows come from and go to, and what it refuses to read or write."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.fs as arrow_fs
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import DeltaFormat, ParquetFormat
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.types import Float64, Int64

from feast_repos import START, history, hours, make_store, write
from feastrain.errors import ProjectError, UsageError
from feastrain.stores.asof import AsofOfflineStore
from feastrain.stores.asof.parquet import ParquetTable, filesystem_of
from feastrain.stores.asof.rows import SourceRows
from feastrain.stores.asof.statement import _source
from feastrain.stores.asof.views import plan_joins
from feastrain.stores.asof.writing import write_parquet
from feastrain.stores.feature_repo import quiet_offline_store

if TYPE_CHECKING:
    from pathlib import Path

shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
till = Entity(name="till", join_keys=["till"], value_type=ValueType.INT64)
WEATHER = {"shop": [1, 2], "warmth": [0.5, 0.25], "event": hours(1, 3)}


def view_of(path: str, name: str = "weather", **options: Any) -> FeatureView:
    """Weather by shop, good for ever."""
    return FeatureView(
        **{
            "name": name,
            "entities": [shop],
            "ttl": timedelta(0),
            "source": FileSource(path=path, timestamp_field="event"),
            "schema": [Field(name="shop", dtype=Int64), Field(name="warmth", dtype=Float64)],
        }
        | options
    )


@pytest.fixture
def weather(tmp_path: Path) -> str:
    """Two rows in a file."""
    return write(tmp_path / "weather.parquet", WEATHER)


@pytest.fixture
def store(tmp_path: Path, weather: str) -> FeatureStore:
    """A view on them."""
    return make_store(tmp_path / "repo", [shop, view_of(weather)])


def test_a_url_of_a_file_is_read_as_its_path(weather: str) -> None:
    """`file://` is this machine."""
    filesystem, path = filesystem_of(FileSource(path=weather), f"file://{weather}")
    assert (arrow_fs.LocalFileSystem(), weather) == (filesystem, path)


def test_a_bucket_is_read_where_the_source_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its endpoint, and the path in it without the scheme."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    source = FileSource(path="s3://bucket/w.parquet", s3_endpoint_override="http://127.0.0.1:1")
    filesystem, path = filesystem_of(source, source.path)
    assert ("s3", "bucket/w.parquet") == (filesystem.type_name, path)


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("none-*.parquet", {}, r"none-\*\.parquet: no file matches; correct the source's path"),
        ("empty", {}, "empty holds no Parquet file; correct the source's path"),
        (
            "table",
            {"file_format": DeltaFormat()},
            "source 'rows' is no Parquet: export it, or use its own store",
        ),
    ],
)
def test_a_place_without_parquet_is_refused(
    tmp_path: Path, path: str, source: dict[str, Any], message: str
) -> None:
    """In one line that says what is to be done."""
    (tmp_path / "empty").mkdir()
    described = FileSource(name="rows", path=str(tmp_path / path), **source)
    with pytest.raises(ProjectError, match=message):
        ParquetTable(described, str(tmp_path), None)


def test_no_columns_are_read_as_none(weather: str) -> None:
    """Not even one group of columns."""
    table = ParquetTable(FileSource(path=weather, file_format=ParquetFormat()), "", None)
    assert [] == list(table._batches([], 10))


def test_rows_without_a_bound_are_all_rows(weather: str) -> None:
    """Of a span that is open at both ends, or at one."""
    source = ParquetTable(FileSource(path=weather), "", None)
    names = ["warmth", "event"]
    first = START + timedelta(hours=2)
    for bounds, expected in (
        ({}, [0.5, 0.25]),
        ({"first": first}, [0.25]),
        ({"last": first}, [0.5]),
    ):
        rows = SourceRows(source, names, ["shop"], "event", **bounds)
        assert expected == rows.table()["warmth"].to_pylist()


def test_the_latest_row_of_a_view_without_entities_has_feasts_own_key(weather: str) -> None:
    """Which Feast writes online under."""
    source = ParquetTable(FileSource(path=weather), "", None)
    rows = SourceRows(source, ["warmth"], [], "event", newest=True)
    assert {"warmth": [0.25], "__dummy_id": [""]} == rows.table().to_pydict()


def test_an_object_store_is_written_to_by_the_name_that_is_asked_for() -> None:
    """It shows an object when that is complete: there is nothing to rename."""
    filesystem, path = filesystem_of(FileSource(path="x"), "memory://asof/rows.parquet")
    write_parquet([pa.table({"units": [1, 2]})], filesystem, path)
    with fsspec.open("memory://asof/rows.parquet") as file:
        assert [1, 2] == pq.read_table(file)["units"].to_pylist()


def test_views_that_share_a_feature_are_not_joined(weather: str) -> None:
    """Their columns would have one name; with their views' names they have two."""
    views = [view_of(weather), view_of(weather, "forecast"), view_of(weather, "unused")]
    asked = ["weather:warmth", "forecast:warmth"]
    with pytest.raises(UsageError, match="'weather' and 'forecast' both have a feature 'warmth'"):
        plan_joins(views, asked, full_names=False)
    joins = plan_joins(views, asked, full_names=True)
    assert ["weather", "forecast"] == [join.view for join in joins]


def test_a_view_that_is_only_pushed_to_has_no_history(weather: str) -> None:
    """It says so; it can be neither joined nor written to."""
    view = view_of(weather)
    view.batch_source = None
    with pytest.raises(UsageError, match="'weather' has no batch source, so it has no history"):
        plan_joins([view], ["weather:warmth"], full_names=False)
    with pytest.raises(UsageError, match="'weather' has no batch source to write to"):
        AsofOfflineStore.offline_write_batch(None, view, pa.table(WEATHER), None)


def test_rows_that_are_added_are_counted(store: FeatureStore, weather: str) -> None:
    """To whoever asked to be told."""
    told: list[int] = []
    view = store.get_feature_view("weather")
    AsofOfflineStore.offline_write_batch(store.config, view, pa.table(WEATHER), told.append)
    assert ([2], 4) == (told, pq.read_metadata(weather).num_rows)


def test_sources_that_no_view_has_all_keys_of_need_an_entity_frame(
    tmp_path: Path, weather: str
) -> None:
    """The rows to answer for cannot be told from them."""
    tills = write(tmp_path / "tills.parquet", {"till": [1], "cash": [2.0], "event": hours(1)})
    view = FeatureView(
        name="tills",
        entities=[till],
        ttl=timedelta(0),
        source=FileSource(path=tills, timestamp_field="event"),
        schema=[Field(name="till", dtype=Int64), Field(name="cash", dtype=Float64)],
    )
    store = make_store(tmp_path / "repo", [shop, till, view_of(weather), view])
    span = {"start_date": START, "end_date": START + timedelta(hours=9)}
    with (
        quiet_offline_store(),
        pytest.raises(UsageError, match="no view has all the join keys of the others"),
    ):
        store.get_historical_features(features=["weather:warmth", "tills:cash"], **span).to_df()


def test_a_span_without_a_zone_is_utc(store: FeatureStore) -> None:
    """As Feast has it."""
    naive = {
        "start_date": (START + timedelta(hours=2)).replace(tzinfo=None),
        "end_date": datetime(2100, 1, 1),  # noqa: DTZ001 - that is what is tried
    }
    with quiet_offline_store():
        job = store.get_historical_features(features=["weather:warmth"], **naive)
        assert [0.25] == job.to_arrow()["warmth"].to_pylist()


def test_keys_that_are_all_missing_bound_nothing(store: FeatureStore) -> None:
    """Rows of no entity read no value."""
    rows = {"shop": pa.array([None, None], pa.int64()), "event_timestamp": hours(4, 5)}
    assert [None, None] == history(store, pa.table(rows), ["weather:warmth"])["warmth"].to_pylist()


def test_only_a_join_of_parquet_is_one_statement(store: FeatureStore, weather: str) -> None:
    """Pulled rows are none, and a table of a server is not read by DuckDB."""
    view = store.get_feature_view("weather")
    job = AsofOfflineStore.pull_all_from_table_or_query(
        store.config, view.batch_source, ["shop"], ["warmth"], "event"
    )
    with pytest.raises(UsageError, match="only a point-in-time join of Parquet sources"):
        job.to_sql()
    pushed = PushSource(name="pushed", batch_source=FileSource(path=weather))
    (join,) = plan_joins([view], ["weather:warmth"], full_names=False)
    object.__setattr__(join, "source", pushed)
    with pytest.raises(UsageError, match="'weather' is not on Parquet, so the join is no single"):
        _source(join, "", lenient=False)


def test_a_statement_without_creation_times_asks_for_none(store: FeatureStore) -> None:
    """A row is known when it happens."""
    (join,) = plan_joins([store.get_feature_view("weather")], ["weather:warmth"], full_names=False)
    assert "greatest" not in _source(join, "", lenient=False)


@pytest.mark.parametrize("by", [[], ["shop"]])
def test_a_log_may_be_split_by_a_column(store: FeatureStore, tmp_path: Path, by: list[str]) -> None:
    """Into a folder a value; without one it is a file in the log's folder."""
    destination = FileLoggingDestination(path=str(tmp_path / "log"), partition_by=by)
    AsofOfflineStore.write_logged_features(
        store.config, pa.table(WEATHER), None, LoggingConfig(destination=destination), None
    )
    files = sorted((tmp_path / "log").rglob("*.parquet"))
    assert ({"shop=1", "shop=2"} if by else {"log"}) == {path.parent.name for path in files}


def test_features_are_logged_to_files_alone(store: FeatureStore) -> None:
    """Another destination is another store's."""
    with pytest.raises(UsageError, match="features are logged to files, not to object"):
        AsofOfflineStore.write_logged_features(
            store.config, pa.table(WEATHER), None, Elsewhere(), None
        )


class Elsewhere:
    """A configuration of logging whose destination is no file."""

    destination = object()
