"""What clients of the online store get, and when the rows behind it happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64

from feast_repos import START, hours, make_store, write
from feastrain.stores.answers import _typed, latest_events
from feastrain.stores.fallback.layout import NEVER
from feastrain.stores.feature_repo import read_definitions
from feastrain.stores.replica import local_path

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
ROWS = {"shop": [1, 1, 2], "warmth": [0.5, 0.25, 1.0], "event": hours(1, 3, 2)}


def store_on(folder: Path, **source: Any) -> FeatureStore:
    """A view of warmth by shop, on rows that were all created late."""
    path = write(folder / "rows.parquet", ROWS | {"created": hours(9, 9, 9)})
    view = FeatureView(
        name="weather",
        entities=[shop],
        ttl=timedelta(0),
        source=FileSource(path=path, timestamp_field="event", **source),
        schema=[Field(name="shop", dtype=Int64), Field(name="warmth", dtype=Float64)],
    )
    return make_store(folder / "repo", [shop, view])


@pytest.mark.parametrize(
    ("source", "hour"), [({}, 3), ({"created_timestamp_column": "created"}, None)]
)
def test_the_latest_row_of_each_entity_is_dated(
    tmp_path: Path, source: dict[str, str], hour: int | None
) -> None:
    """Without a row, or with one that was created only later, it never happened."""
    store = store_on(tmp_path, **source)
    view, until = store.get_feature_view("weather"), START + timedelta(hours=5)
    events = latest_events(store, view, pa.table({"shop": [1, 7]}), until)
    moment = NEVER if hour is None else int((START + timedelta(hours=hour)).timestamp() * 1e6)
    assert events is not None
    assert [moment, NEVER] == events.tolist()


def test_rows_that_a_view_makes_of_others_are_not_dated(tmp_path: Path) -> None:
    """Their times are not their source's."""
    store = store_on(tmp_path)
    view = store.get_feature_view("weather")
    view.source_views = [view]
    assert None is latest_events(store, view, pa.table({"shop": [1]}), START)


def test_times_are_answered_in_the_type_they_are_declared_in() -> None:
    """Feast keeps them in seconds; what is of another type is told apart."""
    at = datetime(2024, 5, 1, tzinfo=UTC)
    values = [
        Value(unix_timestamp_val=int(at.timestamp())),
        Value(unix_timestamp_val=-(2**63)),
        Value(),
        Value(int64_val=7),
    ]
    answer, others = _typed(values, "UNIX_TIMESTAMP", pa.timestamp("us", "UTC"))
    assert ([at, None, None, None], {3: 7}) == (answer.to_pylist(), others)


def test_a_repo_without_files_is_what_its_registry_holds(tmp_path: Path) -> None:
    """As one is that another team applied."""
    store_on(tmp_path)
    found = read_definitions(tmp_path / "repo")
    assert ["weather"] == [view.name for view in found.feature_views]


def test_only_parquet_files_of_this_machine_have_a_path_here(tmp_path: Path) -> None:
    """A bucket has none, and neither has what is no file."""
    store = store_on(tmp_path)
    path = tmp_path / "rows.parquet"
    assert path == local_path(store, FileSource(path=f"file://{path}"))
    assert None is local_path(store, FileSource(path="s3://bucket/rows.parquet"))
    assert None is local_path(store, object())
