"""Feast's own example as a project: drivers, their hourly statistics, no transform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

STORE = """
project: drivers
provider: local
registry: data/registry.db
offline_store: {type: duckdb}
online_store: {type: sqlite, path: data/online_store.db}
entity_key_serialization_version: 3
"""

# What `feast init` writes, without its request data and its label view.
REPO = """
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64

DATA = Path(__file__).parent / "data"
driver = Entity(name="driver", join_keys=["driver_id"])
driver_stats_source = FileSource(
    name="driver_hourly_stats_source",
    path=str(DATA / "driver_stats.parquet"),
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)
driver_stats_fv = FeatureView(
    name="driver_hourly_stats",
    entities=[driver],
    ttl=timedelta(days=1),
    schema=[
        Field(name="conv_rate", dtype=Float32),
        Field(name="acc_rate", dtype=Float32),
        Field(name="avg_daily_trips", dtype=Int64),
    ],
    source=driver_stats_source,
    tags={"team": "driver_performance"},
)
driver_stats_push_source = PushSource(
    name="driver_stats_push_source", batch_source=driver_stats_source
)
driver_stats_fresh_fv = FeatureView(
    name="driver_hourly_stats_fresh",
    entities=[driver],
    ttl=timedelta(days=1),
    schema=[Field(name="fresh_rate", dtype=Float32)],
    source=PushSource(
        name="fresh_push_source",
        batch_source=FileSource(
            name="fresh",
            path=str(DATA / "driver_stats.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
            field_mapping={"conv_rate": "fresh_rate"},
        ),
    ),
)


@on_demand_feature_view(
    sources=[driver_stats_fv],
    schema=[Field(name="conv_rate_of_accepted", dtype=Float64)],
)
def transformed_conv_rate(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"conv_rate_of_accepted": inputs["conv_rate"] * inputs["acc_rate"]})


driver_activity = FeatureService(
    name="driver_activity", features=[driver_stats_fv, driver_stats_fresh_fv, transformed_conv_rate]
)
"""

RECIPE = """
name: drivers
entities: [driver_id]
frequency: 1h
season: 24
horizon: 3
label: {source: feature_repo/data/trips.parquet, column: trips}
features:
  repo: feature_repo
  service: driver_activity
  roles:
    driver_hourly_stats: observed
    driver_hourly_stats_fresh: observed
    transformed_conv_rate: observed
"""


def write_drivers(root: Path) -> Path:
    """Write the project: five drivers, ten days of hours, one row in ten created hours late."""
    data = root / "feature_repo" / "data"
    data.mkdir(parents=True)
    (root / "recipes").mkdir()
    (root / "feature_repo" / "feature_store.yaml").write_text(STORE)
    (root / "feature_repo" / "definitions.py").write_text(REPO)
    (root / "recipes" / "drivers.yaml").write_text(RECIPE)
    rng = np.random.default_rng(0)
    hours = pd.date_range("2026-01-01", periods=240, freq="h", tz="UTC").as_unit("us")
    rows = pd.DataFrame(
        [(driver, hour) for driver in range(1001, 1006) for hour in hours],
        columns=["driver_id", "event_timestamp"],
    )
    late = pd.to_timedelta(np.where(rng.random(len(rows)) < 0.1, 5, 0), unit="h")
    stats = rows.assign(
        conv_rate=rng.random(len(rows)).astype(np.float32),
        acc_rate=rng.random(len(rows)).astype(np.float32),
        avg_daily_trips=rng.integers(0, 1000, len(rows)),
        created=(rows["event_timestamp"] + late).dt.as_unit("us"),
    )
    stats.to_parquet(data / "driver_stats.parquet")
    rows.assign(trips=rng.normal(100, 20, len(rows))).to_parquet(data / "trips.parquet")
    return root
