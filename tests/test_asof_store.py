"""The offline store as Feast's users meet it, through `FeatureStore`."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
    ValueType,
)
from feast.data_format import ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import (
    FileLoggingDestination,
    SavedDatasetFileStorage,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from feast_repos import ASOF, START, TIMESTAMP, history, hours, make_store, write
from feastrain.errors import DataError, ProjectError, UsageError
from feastrain.stores.feature_repo import quiet_offline_store

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)
FEATURES = ["sales:units", "sales:price", "weather:warmth"]


def source(path: str, **options: Any) -> FileSource:
    """A Parquet source with both timestamps."""
    columns = {"timestamp_field": "event", "created_timestamp_column": "created"}
    return FileSource(path=path, **columns | options)


def sales_view(path: str, **options: Any) -> FeatureView:
    """Sales by shop and item, good for six hours."""
    return FeatureView(
        **{
            "name": "sales",
            "entities": [shop, item],
            "ttl": timedelta(hours=6),
            "source": source(path),
            "schema": [
                Field(name="shop", dtype=Int64),
                Field(name="item", dtype=String),
                Field(name="units", dtype=Int64),
                Field(name="price", dtype=Float64),
            ],
        }
        | options
    )


def weather_view(path: str, **options: Any) -> FeatureView:
    """Weather by shop, good for ever."""
    return FeatureView(
        **{
            "name": "weather",
            "entities": [shop],
            "ttl": timedelta(0),
            "source": source(path),
            "schema": [Field(name="shop", dtype=Int64), Field(name="warmth", dtype=Float64)],
        }
        | options
    )


SALES = {
    "shop": pa.array([1, 1, 1, 11, None, 1]),
    "item": pa.array(["11", "11", "11", "1", "1", "11"]),
    "units": pa.array([10, 20, 21, 99, 77, 30]),
    "price": pa.array([1.0, 2.0, None, 9.0, 7.0, 3.0]),
    "event": hours(0, 4, 4, 0, 0, 8),
    "created": hours(0, 4, 5, 0, 0, 12),
}
WEATHER = {
    "shop": pa.array([1, 11]),
    "warmth": pa.array([0.5, 0.25]),
    "event": hours(-100, 3),
    "created": hours(-100, 3),
}
ROWS = {
    "shop": pa.array([1, 1, 1, 1, 1, 1, 11, 11, None, 2, 1]),
    "item": pa.array(["11", "11", "11", "11", "11", "11", "1", "11", "1", "1", "11"]),
    "event_timestamp": hours(-1, 0, 4, 5, 10, 12, 6, 6, 6, 6, 4),
    "label": pa.array([float(n) for n in range(11)]),
}
UNITS = [None, 10, 20, 21, 21, 30, 99, None, None, None, 20]
PRICES = [None, 1.0, 2.0, None, None, 3.0, 9.0, None, None, None, 2.0]
WARMTH = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, None, None, 0.5]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two views on small files, an on-demand view on both and on a request, and a service."""
    folder = tmp_path_factory.mktemp("asof")
    sales = sales_view(write(folder / "sales.parquet", SALES, row_group_size=2))
    weather = weather_view(write(folder / "weather.parquet", WEATHER))
    asked = RequestSource(name="asked", schema=[Field(name="discount", dtype=Float64)])

    @on_demand_feature_view(
        sources=[sales, asked], schema=[Field(name="revenue", dtype=Float64)], mode="pandas"
    )
    def money(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"revenue": inputs["units"] * inputs["price"] - inputs["discount"]})

    @on_demand_feature_view(
        sources=[weather], schema=[Field(name="fahrenheit", dtype=Float64)], mode="python"
    )
    def degrees(inputs: dict[str, Any]) -> dict[str, Any]:
        warmth = inputs["warmth"]
        return {"fahrenheit": [None if w is None else 1.8 * w + 32 for w in warmth]}

    service = FeatureService(name="everything", features=[sales, weather, degrees])
    return make_store(folder / "repo", [shop, item, sales, weather, money, degrees, service])


def test_each_row_reads_what_was_known_at_its_time(store: FeatureStore) -> None:
    """Late corrections, ties, expiry, null keys and keys that look alike; every row, in order."""
    actual = history(store, pa.table(ROWS), FEATURES)
    assert [*ROWS, "units", "price", "warmth"] == actual.column_names
    assert pa.table(ROWS).equals(actual.select([*ROWS]))
    assert UNITS == actual["units"].to_pylist()
    assert PRICES == actual["price"].to_pylist()
    assert WARMTH == actual["warmth"].to_pylist()


def test_pandas_arrow_and_sql_frames_are_answered_alike(
    store: FeatureStore, tmp_path: Path
) -> None:
    """The kind of entity frame does not change a value."""
    expected = history(store, pa.table(ROWS), FEATURES)
    frame = pa.table(ROWS).to_pandas()
    path = write(tmp_path / "rows.parquet", ROWS)
    texts = frame.assign(event_timestamp=frame["event_timestamp"].astype(str))
    naive = frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None))
    renamed = frame.rename(columns={"event_timestamp": "moment"})
    queried = f"SELECT * FROM read_parquet('{path}')"
    for entities in (frame, texts, naive, renamed, queried):
        actual = history(store, entities, FEATURES)
        for name in ("units", "price", "warmth", "label"):
            assert expected[name].to_pylist() == actual[name].to_pylist()


def test_a_store_may_read_values_before_they_were_created(
    store: FeatureStore, tmp_path: Path
) -> None:
    """The option reads as Feast's own stores do, unless the caller asks for the strict reading."""
    lenient = make_store(
        tmp_path,
        [shop, item, store.get_feature_view("sales"), store.get_feature_view("weather")],
        {"type": ASOF, "ignore_created_timestamp": True},
    )
    actual = history(lenient, pa.table(ROWS), FEATURES)["units"].to_pylist()
    assert [None, 10, 21, 21, 30, 30, 99, None, None, None, 21] == actual
    strict = history(lenient, pa.table(ROWS), FEATURES, filter_by_created_timestamp=True)
    assert UNITS == strict["units"].to_pylist()


def test_full_feature_names_carry_their_view(store: FeatureStore) -> None:
    """So that a column of the entity frame may have the name of a feature."""
    entities = pa.table(ROWS).append_column("units", pa.array(range(11)))
    actual = history(store, entities, FEATURES, full_feature_names=True)
    assert list(range(11)) == actual["units"].to_pylist()
    assert UNITS == actual["sales__units"].to_pylist()
    with pytest.raises(UsageError, match=r"the entity frame has a column 'units'.*full_feature"):
        history(store, entities, FEATURES)


def test_a_service_is_answered_with_its_on_demand_features(store: FeatureStore) -> None:
    """Computed features stand beside the stored ones."""
    actual = history(store, pa.table(ROWS), store.get_feature_service("everything"))
    expected = [None if w is None else 1.8 * w + 32 for w in WARMTH]
    assert expected == actual["fahrenheit"].to_pylist()


def test_on_demand_views_read_stored_features_and_the_request(store: FeatureStore) -> None:
    """Their inputs come along, with either kind of name."""
    entities = pa.table(ROWS).append_column("discount", pa.array([0.5] * 11))
    expected = [None if None in (u, p) else u * p - 0.5 for u, p in zip(UNITS, PRICES, strict=True)]
    for full, name in ((False, "revenue"), (True, "money__revenue")):
        actual = history(store, entities, ["money:revenue"], full_feature_names=full)
        assert expected == actual[name].to_pylist()
        assert ("sales__units" if full else "units") in actual.column_names


def test_an_empty_frame_has_the_columns_of_a_full_one(store: FeatureStore, tmp_path: Path) -> None:
    """No rows in, no rows out, in memory and in a file."""
    full = history(store, pa.table(ROWS), FEATURES)
    job = store.get_historical_features(entity_df=pa.table(ROWS).slice(0, 0), features=FEATURES)
    assert full.schema == job.to_arrow().schema
    job.to_parquet(tmp_path / "none.parquet")
    assert full.schema.equals(pq.read_table(tmp_path / "none.parquet").schema)


def test_a_streamed_file_holds_the_rows_of_the_table(store: FeatureStore, tmp_path: Path) -> None:
    """In order, batch after batch, with on-demand features, for rows all over the source."""
    rng = np.random.default_rng(0)
    count = 100_000
    entities = pa.table(
        {
            "shop": pa.array(rng.choice([1, 11, 2], count)),
            "item": pa.array(rng.choice(["1", "11"], count)),
            "event_timestamp": pa.array(
                [START + timedelta(minutes=int(m)) for m in rng.integers(-99, 999, count)],
                TIMESTAMP,
            ),
        }
    )
    service = store.get_feature_service("everything")
    with quiet_offline_store():
        job = store.get_historical_features(entity_df=entities, features=service)
        job.to_parquet(tmp_path / "out.parquet", batch_bytes=1 << 20)
        assert job.to_arrow().equals(pq.read_table(tmp_path / "out.parquet"))
    assert ["out.parquet"] == [path.name for path in tmp_path.iterdir()]


def test_entity_rows_in_no_order_are_streamed_over_scratch_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each batch would read nearly whole is read once, and leaves no scratch file."""
    count = 60_000
    columns = {
        "shop": pa.array(np.arange(count)),
        "warmth": pa.array(np.arange(count) / 2),
        "event": pa.array([START] * count, TIMESTAMP),
        "created": pa.array([START] * count, TIMESTAMP),
    }
    path = write(tmp_path / "weather.parquet", columns, row_group_size=1000)
    store = make_store(tmp_path / "repo", [shop, weather_view(path)])
    wanted = np.random.default_rng(0).permutation(count + 9)
    entities = pa.table({"shop": wanted, "moment": pa.array([START] * len(wanted), TIMESTAMP)})
    job = store.get_historical_features(entity_df=entities, features=FEATURES[2:])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    job.to_parquet(tmp_path / "out.parquet", batch_bytes=1 << 16)
    expected = [shop / 2 if shop < count else None for shop in wanted.tolist()]
    assert expected == pq.read_table(tmp_path / "out.parquet")["warmth"].to_pylist()
    assert not list(tmp_path.glob("feastrain-*"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        job.to_parquet(tmp_path / "out.parquet", batch_bytes=1 << 16)


def test_rows_in_the_order_of_their_source_need_no_scratch_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch reads the row groups of its own keys, and the file holds the same rows."""
    count = 60_000
    columns = {
        "shop": pa.array(np.arange(count)),
        "warmth": pa.array(np.arange(count) / 2),
        "event": pa.array([START] * count, TIMESTAMP),
        "created": pa.array([START] * count, TIMESTAMP),
    }
    path = write(tmp_path / "weather.parquet", columns, row_group_size=1000)
    store = make_store(tmp_path / "repo", [shop, weather_view(path)])
    entities = pa.table(columns).select(["shop", "event"]).rename_columns(["shop", "moment"])
    job = store.get_historical_features(entity_df=entities, features=FEATURES[2:])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    job.to_parquet(tmp_path / "out.parquet", batch_bytes=1 << 16)
    assert (
        columns["warmth"].to_pylist()
        == pq.read_table(tmp_path / "out.parquet")["warmth"].to_pylist()
    )


def test_a_time_to_live_counts_nanoseconds(tmp_path: Path) -> None:
    """An event is good for its time to live, and not for a nanosecond more."""
    kind = pa.timestamp("ns", "UTC")
    hour = 3_600 * 10**9
    columns = {"shop": pa.array([1]), "warmth": pa.array([0.5]), "event": pa.array([1], kind)}
    view = weather_view(
        "",
        source=FileSource(path=write(tmp_path / "w.parquet", columns), timestamp_field="event"),
        ttl=timedelta(hours=1),
    )
    store = make_store(tmp_path / "repo", [shop, view])
    at = pa.array([0, 1, hour + 1, hour + 2], kind)
    entities = pa.table({"shop": [1] * 4, "event_timestamp": at})
    assert [None, 0.5, 0.5, None] == history(store, entities, FEATURES[2:])["warmth"].to_pylist()


def test_facts_within_their_time_to_live_are_read_however_old(tmp_path: Path) -> None:
    """Row groups are left out by the oldest event that the first row may still read."""
    columns = {
        "shop": pa.array([1, 2, 3]),
        "warmth": pa.array([0.1, 0.2, 0.3]),
        "event": hours(0, 5, 9),
        "created": hours(0, 5, 9),
    }
    path = write(tmp_path / "w.parquet", columns, row_group_size=1)
    for ttl, expected in ((4, [None, None, 0.3]), (5, [None, 0.2, 0.3]), (0, [0.1, 0.2, 0.3])):
        view = weather_view(path, ttl=timedelta(hours=ttl))
        store = make_store(tmp_path / f"repo{ttl}", [shop, view])
        entities = pa.table({"shop": [1, 2, 3], "event_timestamp": hours(10, 10, 10)})
        assert expected == history(store, entities, FEATURES[2:])["warmth"].to_pylist()


def test_the_statement_yields_the_same_rows(store: FeatureStore) -> None:
    """`to_sql` is a DuckDB statement for the same join, strict and lenient."""
    entities = pa.table(ROWS)
    job = store.get_historical_features(entity_df=entities, features=FEATURES)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("entity_frame", entities)
        actual = connection.sql(job.to_sql()).to_arrow_table()
    assert UNITS == actual["units"].to_pylist()
    assert PRICES == actual["price"].to_pylist()
    assert WARMTH == actual["warmth"].to_pylist()


def test_without_an_entity_frame_the_sources_say_which_rows(store: FeatureStore) -> None:
    """A time range asks for each key and event timestamp that the fullest view has in it."""
    with quiet_offline_store():
        job = store.get_historical_features(
            features=FEATURES, start_date=START, end_date=START + timedelta(hours=5)
        )
    actual = job.to_arrow().select(["shop", "item", "event_timestamp", "units", "warmth"])
    expected = [
        (1, "11", START, 10, 0.5),
        (11, "1", START, 99, None),
        (None, "1", START, None, None),
        (1, "11", START + timedelta(hours=4), 20, 0.5),
    ]
    assert expected == [tuple(row.values()) for row in actual.to_pylist()]


def test_an_aliased_entity_reads_the_view_by_another_column(
    store: FeatureStore, tmp_path: Path
) -> None:
    """One view is joined twice, by two columns of the frame."""
    weather = store.get_feature_view("weather")
    here = weather.with_name("here").with_join_key_map({"shop": "ships_to"})
    there = weather.with_name("there").with_join_key_map({"shop": "ships_from"})
    service = FeatureService(name="both", features=[here, there])
    store = make_store(tmp_path, [shop, item, weather, service])
    entities = pa.table(
        {"ships_to": [1, 11], "ships_from": [11, 7], "event_timestamp": hours(5, 5)}
    )
    actual = history(store, entities, service, full_feature_names=True)
    assert [0.5, 0.25] == actual["here__warmth"].to_pylist()
    assert [0.25, None] == actual["there__warmth"].to_pylist()


def test_mapped_fields_are_read_by_their_stored_names(tmp_path: Path) -> None:
    """Keys, times and features may be called otherwise in the source."""
    columns = {"s": pa.array([1]), "w": pa.array([0.5]), "t": hours(0), "c": hours(1)}
    mapped = FileSource(
        path=write(tmp_path / "w.parquet", columns),
        timestamp_field="event",
        created_timestamp_column="created",
        field_mapping={"s": "shop", "w": "warmth", "t": "event", "c": "created"},
    )
    view = FeatureView(
        name="weather",
        entities=[shop],
        ttl=None,
        source=mapped,
        schema=[Field(name="shop", dtype=Int64), Field(name="warmth", dtype=Float64)],
    )
    store = make_store(tmp_path / "repo", [shop, view])
    entities = pa.table({"shop": [1, 1], "event_timestamp": hours(0, 1)})
    assert [None, 0.5] == history(store, entities, ["weather:warmth"])["warmth"].to_pylist()


def test_a_view_without_entities_is_the_same_for_every_row(tmp_path: Path) -> None:
    """It is joined by time alone."""
    columns = {"rate": pa.array([1.0, 2.0]), "event": hours(0, 2), "created": hours(0, 2)}
    view = FeatureView(
        name="rates",
        entities=[],
        ttl=timedelta(hours=3),
        source=source(write(tmp_path / "r.parquet", columns)),
        schema=[Field(name="rate", dtype=Float64)],
    )
    store = make_store(tmp_path / "repo", [view])
    entities = pa.table({"who": ["a", "b", "c", "d"], "event_timestamp": hours(1, 2, 5, 6)})
    assert [1.0, 2.0, 2.0, None] == history(store, entities, ["rates:rate"])["rate"].to_pylist()


@pytest.mark.parametrize("layout", ["folder", "glob", "hive", "relative", "memory"])
def test_a_source_may_be_many_files(tmp_path: Path, layout: str) -> None:
    """A folder, a glob, hive partitions (one of them a key), a relative path, a URL."""
    repo = tmp_path / "repo"
    table = pa.table({**WEATHER, "event": hours(1, 3), "created": hours(1, 3)})
    if layout == "hive":
        ds.write_dataset(
            table,
            tmp_path / "hive",
            format="parquet",
            partitioning=ds.partitioning(pa.schema([("shop", pa.int64())]), flavor="hive"),
        )
        path = str(tmp_path / "hive")
    elif layout == "memory":
        import fsspec

        with fsspec.open("memory://weather.parquet", "wb") as file:
            pq.write_table(table, file)
        path = "memory://weather.parquet"
    else:
        for number in range(2):
            write(
                (repo if layout == "relative" else tmp_path) / f"parts/{number}.parquet",
                {name: table[name].slice(number, 1) for name in table.column_names},
            )
        path = {
            "folder": str(tmp_path / "parts"),
            "glob": str(tmp_path / "p*/[01].parquet"),
            "relative": "parts",
        }[layout]
    view = weather_view(path, source=source(path, file_format=ParquetFormat()))
    store = make_store(repo, [shop, view])
    entities = pa.table({"shop": [1, 11, 11], "event_timestamp": hours(1, 2, 3)})
    assert [0.5, None, 0.25] == history(store, entities, FEATURES[2:])["warmth"].to_pylist()


def test_row_groups_out_of_time_are_not_read(tmp_path: Path) -> None:
    """Groups older than the oldest row's time to live, or later than the last row, are left out."""
    from feastrain.stores.asof.parquet import ParquetTable
    from feastrain.stores.asof.source import Window

    columns = {"event": hours(*range(100)), "created": hours(*range(100)), "x": range(100)}
    path = write(tmp_path / "x.parquet", columns, row_group_size=10)
    window = Window("event", START + timedelta(hours=25), START + timedelta(hours=41))
    table = ParquetTable(source(path), "", window)
    assert 30 == table.rows
    assert list(range(20, 50)) == table.columns(["x"])["x"].to_pylist()
    (taken,) = table.rows_at(["x"], np.array([25, -1, 3]))
    assert [45, None, 23] == taken.to_pylist()


def test_row_groups_of_other_keys_are_not_read(tmp_path: Path) -> None:
    """A frame of a few shops reads the row groups that can hold them."""
    columns = {
        "shop": pa.array([n // 10 for n in range(100)]),
        "warmth": pa.array([float(n) for n in range(100)]),
        "event": hours(*range(100)),
        "created": hours(*range(100)),
    }
    path = write(tmp_path / "weather.parquet", columns, row_group_size=10)
    store = make_store(tmp_path / "repo", [shop, weather_view(path)])
    entities = pa.table({"shop": [4, None, 5], "event_timestamp": hours(99, 99, 54)})
    job = store.get_historical_features(entity_df=entities, features=FEATURES[2:])
    assert [49.0, None, 54.0] == job.to_arrow()["warmth"].to_pylist()
    (found,) = job._rows._searched
    assert 20 == found.source.rows


def test_a_saved_dataset_keeps_the_label(store: FeatureStore, tmp_path: Path) -> None:
    """Every column of the entity frame is in the file; an old one is not overwritten unasked."""
    path = tmp_path / "saved.parquet"
    storage = SavedDatasetFileStorage(path=str(path))
    job = store.get_historical_features(entity_df=pa.table(ROWS), features=FEATURES)
    with quiet_offline_store():
        dataset = store.create_saved_dataset(job, "saved", storage)
        with pytest.raises(SavedDatasetLocationAlreadyExists):
            store.create_saved_dataset(job, "saved", storage)
        store.create_saved_dataset(job, "saved", storage, allow_overwrite=True)
    assert UNITS == dataset.to_arrow()["units"].to_pylist()
    assert ROWS["label"].to_pylist() == pq.read_table(path)["label"].to_pylist()


@pytest.mark.parametrize("folder", [False, True])
def test_rows_are_added_to_a_source(tmp_path: Path, folder: bool) -> None:
    """To a single file, which is made anew, or as a file more in a folder."""
    path = tmp_path / ("weather" if folder else "weather.parquet")
    write(path / "0.parquet" if folder else path, WEATHER)
    store = make_store(tmp_path / "repo", [shop, weather_view(str(path))])
    more = pd.DataFrame(
        {
            "shop": [2],
            "warmth": [0.75],
            "event": [pd.Timestamp(START)],
            "created": [pd.Timestamp(START)],
        }
    )
    with quiet_offline_store():
        store.write_to_offline_store("weather", more)
    entities = pa.table({"shop": [1, 2], "event_timestamp": hours(0, 0)})
    assert [0.5, 0.75] == history(store, entities, FEATURES[2:])["warmth"].to_pylist()
    assert [] == [p.name for p in tmp_path.rglob(".*")]


def test_materialised_values_are_the_latest(tmp_path: Path) -> None:
    """The online store gets the newest row of each key up to the end."""
    keyed = pa.table(SALES).filter(pc.is_valid(SALES["shop"]))
    path = write(tmp_path / "sales.parquet", dict(zip(SALES, keyed.columns, strict=True)))
    store = make_store(tmp_path / "repo", [shop, item, sales_view(path)])
    with quiet_offline_store():
        store.materialize(START, START + timedelta(hours=5))
        answer = store.get_online_features(
            features=["sales:units"],
            entity_rows=[{"shop": 1, "item": "11"}, {"shop": 11, "item": "1"}],
        ).to_dict()
    assert [21, 99] == answer["units"]


def test_pulled_rows_are_those_of_the_span(store: FeatureStore) -> None:
    """All of them, or the latest of each key; the bounds count."""
    view = store.get_feature_view("sales")
    provider = store._get_provider()
    asked = {
        "config": store.config,
        "data_source": view.batch_source,
        "join_key_columns": ["shop", "item"],
        "feature_name_columns": ["units"],
        "timestamp_field": "event",
        "created_timestamp_column": "created",
        "start_date": START,
        "end_date": START + timedelta(hours=4),
    }
    every = provider.offline_store.pull_all_from_table_or_query(**asked).to_arrow()
    assert [10, 20, 21, 99, 77] == every["units"].to_pylist()
    latest = provider.offline_store.pull_latest_from_table_or_query(**asked).to_arrow()
    assert [21, 99] == latest["units"].to_pylist()
    assert ["shop", "item", "units", "event", "created"] == latest.column_names
    raw = provider.offline_store.pull_all_from_table_or_query(
        **asked | {"feature_name_columns": []}
    ).to_arrow()
    assert [*SALES] == raw.column_names


def test_served_features_are_logged_to_files(store: FeatureStore, tmp_path: Path) -> None:
    """Each batch is a file more, and the log is read back by time."""
    destination = FileLoggingDestination(path=str(tmp_path / "log"))
    service = FeatureService(
        name="logged",
        features=[store.get_feature_view("weather")],
        logging_config=LoggingConfig(destination=destination),
    )
    with quiet_offline_store():
        store.apply([service])
        from feast.feature_logging import FeatureServiceLoggingSource

        logged = FeatureServiceLoggingSource(service, store.project)
        schema = logged.get_schema(store.registry)
        values = dict.fromkeys(schema.names) | {
            "shop": 1,
            "weather__warmth": 0.5,
            "__log_timestamp": START,
        }
        for _ in range(2):
            store.write_logged_features(pa.Table.from_pylist([values], schema), service)
        provider = store._get_provider()
        job = provider.retrieve_feature_service_logs(
            service, START, START, store.config, store.registry
        )
    assert [0.5, 0.5] == job.to_arrow()["weather__warmth"].to_pylist()
    assert 2 == len(list((tmp_path / "log").iterdir()))


def faulty(store: FeatureStore, tmp_path: Path) -> dict[str, tuple[Any, list[str], type, str]]:
    """Entity frames and features that cannot be answered, and what is said."""
    good = pa.table(ROWS)
    return {
        "no key": (good.drop_columns(["item"]), FEATURES, UsageError, "no column 'item'"),
        "no time": (good.drop_columns(["event_timestamp"]), FEATURES, UsageError, "needs a column"),
        "key of another type": (
            good.set_column(0, "shop", pc.cast(good["shop"], pa.string())),
            FEATURES,
            DataError,
            "join key 'shop' of view 'sales' is large_string in the entity frame and int64",
        ),
        "SQL": ("SELECT nonsense", FEATURES, DataError, "the entity frame's SQL fails"),
        "mixed": (
            pd.DataFrame({"shop": [1, "x"], "event_timestamp": [START, START]}),
            FEATURES,
            DataError,
            "mixed types",
        ),
        "no time in a text": (
            pd.DataFrame({"shop": [1], "item": ["1"], "event_timestamp": ["soon"]}),
            FEATURES,
            DataError,
            "no time",
        ),
    }


@pytest.mark.parametrize(
    "fault", ["no key", "no time", "key of another type", "SQL", "mixed", "no time in a text"]
)
def test_a_frame_that_cannot_be_answered_is_refused(
    store: FeatureStore, tmp_path: Path, fault: str
) -> None:
    """In one line that says what is wrong and where."""
    entities, features, error, message = faulty(store, tmp_path)[fault]
    with pytest.raises(error, match=message) as caught:
        history(store, entities, features)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (None, ProjectError, "no such file"),
        ({"shop": [1]}, DataError, "has no column 'event'"),
        ({**WEATHER, "event": [1, 2]}, DataError, "'event' of view 'weather' is int64"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(
    tmp_path: Path, columns: dict[str, Any] | None, error: type, message: str
) -> None:
    """In one line that names the file or the view."""
    path = tmp_path / "weather.parquet"
    if columns:
        write(path, columns)
    store = make_store(tmp_path / "repo", [shop, weather_view(str(path))])
    with pytest.raises(error, match=message):
        history(store, pa.table({"shop": [1], "event_timestamp": hours(1)}), FEATURES[2:])


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """In one line."""
    (tmp_path / "weather.parquet").write_text(json.dumps(["not", "parquet"]))
    store = make_store(tmp_path / "repo", [shop, weather_view(str(tmp_path / "weather.parquet"))])
    with pytest.raises(DataError, match=r"weather\.parquet cannot be read as Parquet"):
        history(store, pa.table({"shop": [1], "event_timestamp": hours(1)}), FEATURES[2:])


def test_nothing_stays_where_a_file_could_not_be_written(
    store: FeatureStore, tmp_path: Path
) -> None:
    """A retrieval that fails half way leaves the old file as it was."""
    out = tmp_path / "out.parquet"
    out.write_text("old")
    entities = pa.table(ROWS).append_column("discount", pa.array(["much"] * 11))
    job = store.get_historical_features(entity_df=entities, features=["money:revenue"])
    with pytest.raises(TypeError), quiet_offline_store():
        job.to_parquet(out)
    assert ["out.parquet"] == [path.name for path in tmp_path.iterdir()]
    assert "old" == out.read_text()


def test_what_was_joined_is_logged(store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    """Rows asked for, rows of each view, and how long it took."""
    with caplog.at_level(logging.INFO, logger="feastrain"):
        history(store, pa.table(ROWS), FEATURES)
    assert "11 entity rows against 6 rows of sales, 2 rows of weather" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_feasts_duckdb_store(tmp_path: Path, seed: int) -> None:
    """And of our own statement: on shuffled rows of many series, no value differs."""
    rng = np.random.default_rng(seed)
    facts = pd.DataFrame(
        {
            "shop": np.repeat(np.arange(1, 21), 60),
            "item": np.tile(np.repeat([str(n) for n in range(6)], 10), 20),
            "event": pd.to_datetime(START)
            + pd.to_timedelta(rng.permutation(100_000)[:1200], unit="s"),
        }
    )
    late = pd.to_timedelta(rng.integers(0, 9000, 1200) * (rng.random(1200) < 0.3), unit="s")
    facts = facts.assign(created=facts["event"] + late, units=range(1200), price=rng.random(1200))
    sales = sales_view(
        write(tmp_path / "s.parquet", facts.sample(frac=1, random_state=seed).to_dict("list")),
        ttl=timedelta(hours=int(rng.integers(1, 30))),
    )
    rows = pd.DataFrame(
        {
            "shop": rng.integers(1, 23, 5000),
            "item": rng.choice([str(n) for n in range(7)], 5000),
            "event_timestamp": pd.to_datetime(START)
            + pd.to_timedelta(rng.integers(-1000, 120_000, 5000), unit="s"),
            "row": range(5000),
        }
    )
    found = {}
    for name, offline in (("asof", {"type": ASOF}), ("duckdb", {"type": "duckdb"})):
        repo = make_store(tmp_path / name, [shop, item, sales], offline)
        table = history(repo, rows, FEATURES[:2], filter_by_created_timestamp=True)
        found[name] = table.to_pandas().sort_values("row")[["units", "price"]].to_numpy(float)
        if name == "asof":
            job = repo.get_historical_features(entity_df=rows, features=FEATURES[:2])
            with duckdb.connect() as connection:
                connection.execute("SET TimeZone = 'UTC'")
                connection.register("entity_frame", pa.Table.from_pandas(rows))
                table = connection.sql(job.to_sql()).to_arrow_table()
            found["statement"] = table.select(["units", "price"]).to_pandas().to_numpy(float)
    assert (~np.isnan(found["asof"])).any()
    np.testing.assert_array_equal(found["duckdb"], found["asof"])
    np.testing.assert_array_equal(found["statement"], found["asof"])
