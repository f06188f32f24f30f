"""A Feast repo of daily retail: shops and articles, promotions known ahead, sales outside Feast."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

STORE = """
project: grocer
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online_store.db}
entity_key_serialization_version: 3
"""

DEFINITIONS = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Float64, Int64, String

shop = Entity(name="outlet", join_keys=["shop_code"], value_type=ValueType.STRING)
article = Entity(name="article", join_keys=["ean"], value_type=ValueType.INT64)
day = Entity(name="day", join_keys=["day"], value_type=ValueType.STRING)
visitor = Entity(name="visitor", join_keys=["visitor_id"], value_type=ValueType.INT64)


def table(name, created=None):
    return FileSource(
        name=name,
        path=f"data/{name}.parquet",
        timestamp_field="closed_at",
        created_timestamp_column=created,
    )


recent_sales = FeatureView(
    name="recent_sales",
    entities=[shop, article],
    ttl=timedelta(days=3),
    source=table("recent_sales", created="loaded_at"),
    schema=[
        Field(name="units_lag_1", dtype=Float64),
        Field(name="units_lag_2", dtype=Float64),
        Field(name="units_mean_28", dtype=Float64),
        *(Field(name=f"units_week_before_{step}", dtype=Float64) for step in range(1, 8)),
    ],
)
articles = FeatureView(
    name="articles",
    entities=[article],
    ttl=timedelta(days=1),
    source=table("articles"),
    schema=[Field(name="category", dtype=String), Field(name="price", dtype=Float64)],
)
promotions = FeatureView(
    name="promotions",
    entities=[article, day],
    ttl=timedelta(0),
    source=table("promotions"),
    schema=[Field(name="promoted", dtype=Bool), Field(name="weekday", dtype=Int64)],
)
visits = FeatureView(
    name="visits",
    entities=[visitor],
    ttl=timedelta(days=1),
    source=table("visits"),
    schema=[Field(name="minutes", dtype=Float64)],
)
replenishment = FeatureService(
    name="replenishment", features=[recent_sales, articles, promotions, visits]
)
"""

DAYS = 150


def write_retail(root: Path) -> Path:
    """Write the repo: two shops, three articles, 150 days of sales that close at midnight."""
    data = root / "data"
    data.mkdir(parents=True)
    (root / "feature_store.yaml").write_text(STORE)
    (root / "definitions.py").write_text(DEFINITIONS)
    rng = np.random.default_rng(0)
    days = pd.date_range("2026-01-02", periods=DAYS, freq="D", tz="UTC").as_unit("us")
    keys = [(shop, ean) for shop in ("north", "south") for ean in (40, 41, 42)]
    panel = pd.DataFrame(
        [(*key, day) for key in keys for day in days], columns=["shop_code", "ean", "closed_at"]
    )
    level = panel["ean"].map({40: 20.0, 41: 60.0, 42: 150.0})
    week = 1 + 0.4 * np.sin(2 * np.pi * panel["closed_at"].dt.dayofweek / 7)
    units = panel.assign(units=level * week * rng.uniform(0.8, 1.2, len(panel)))
    units.to_parquet(data / "sales.parquet")
    _recent(units).to_parquet(data / "recent_sales.parquet")
    pd.DataFrame(
        {
            "ean": [40, 41, 42],
            "category": ["fruit", "bread", "milk"],
            "price": [2.5, 3.0, 1.2],
            "closed_at": days[0] - pd.Timedelta(days=400),
        }
    ).to_parquet(data / "articles.parquet")
    ahead = pd.date_range(days[0], periods=DAYS + 40, freq="D")
    pd.DataFrame(
        [(ean, str(day.date()), day) for ean in (40, 41, 42) for day in ahead],
        columns=["ean", "day", "at"],
    ).assign(
        promoted=lambda rows: rng.random(len(rows)) < 0.1,
        weekday=lambda rows: rows["at"].dt.dayofweek.astype("int64"),
        closed_at=lambda rows: (rows["at"] - pd.Timedelta(days=35)).dt.as_unit("us"),
    ).drop(columns="at").to_parquet(data / "promotions.parquet")
    visits = {"visitor_id": range(5), "minutes": 1.5, "closed_at": days[0]}
    pd.DataFrame(visits).to_parquet(data / "visits.parquet")
    return root


def _recent(units: pd.DataFrame) -> pd.DataFrame:
    """Return features of the sales up to each day; the last one's row was written at its close."""
    by_series = units.groupby(["shop_code", "ean"])["units"]
    steps = {f"units_week_before_{step}": by_series.shift(7 - step) for step in range(1, 8)}
    return units[["shop_code", "ean", "closed_at"]].assign(
        units_lag_1=units["units"],
        units_lag_2=by_series.shift(1),
        units_mean_28=by_series.transform(lambda values: values.rolling(28, min_periods=1).mean()),
        loaded_at=units["closed_at"],
        **steps,
    )


if __name__ == "__main__":
    write_retail(Path(sys.argv[1]))
