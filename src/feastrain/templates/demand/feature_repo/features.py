"""The features of the demand project, as Feast knows them.

Every table comes from `features.sql` or `baseline.py`. The labels are in none of these views.
"""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String

TABLES = Path(__file__).resolve().parent.parent / "data" / "features"
RECENT = timedelta(weeks=2)  # what is older than two weeks is stale, and read as null
UNLIMITED = timedelta(0)
STEPS = range(1, 9)  # the weeks of the horizon

store = Entity(name="store", join_keys=["store"], value_type=ValueType.INT64)
dept = Entity(name="dept", join_keys=["dept"], value_type=ValueType.INT64)
week = Entity(
    name="week",
    join_keys=["week"],
    value_type=ValueType.STRING,
    description="The week that a forecast is about, by its last day: 2012-09-07.",
)


def table(name: str) -> FileSource:
    """Return the feature table `name`, with the times that say when a row was known."""
    return FileSource(
        name=name,
        path=str(TABLES / f"{name}.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


sales_history_features = FeatureView(
    name="sales_history_features",
    description="Sales of one series up to the cut-off, by calendar week.",
    entities=[store, dept],
    ttl=RECENT,
    source=table("sales_history"),
    schema=[
        Field(name="store", dtype=Int64),
        Field(name="dept", dtype=Int64),
        *(Field(name=f"sales_lag_{weeks}", dtype=Float64) for weeks in (1, 2, 4, 8, 52)),
        *(Field(name=f"sales_mean_{weeks}", dtype=Float64) for weeks in (4, 12, 52)),
        *(Field(name=f"sales_std_{weeks}", dtype=Float64) for weeks in (4, 12)),
        Field(name="sales_growth", dtype=Float64),
        *(Field(name=f"sales_last_year_{step}", dtype=Float64) for step in STEPS),
        *(Field(name=f"sales_around_last_year_{step}", dtype=Float64) for step in STEPS),
    ],
)

seasonal_baseline_features = FeatureView(
    name="seasonal_baseline_features",
    description="Last year's weeks, smoothed and grown, and what they have missed lately.",
    entities=[store, dept],
    ttl=RECENT,
    source=table("seasonal_baseline"),
    schema=[
        Field(name="store", dtype=Int64),
        Field(name="dept", dtype=Int64),
        *(Field(name=f"baseline_{step}", dtype=Float64) for step in STEPS),
        *(Field(name=f"smooth_last_year_{step}", dtype=Float64) for step in STEPS),
        *(Field(name=f"baseline_growth_{weeks}", dtype=Float64) for weeks in (6, 13, 26)),
        *(
            Field(name=f"{name}_{weeks}", dtype=Float64)
            for name in ("missed", "missed_dept", "missed_store")
            for weeks in (1, 2, 4, 8)
        ),
    ],
)

store_external_features = FeatureView(
    name="store_external_features",
    description="Weather, prices and the economy around a store in the week that has closed.",
    entities=[store],
    ttl=RECENT,
    source=table("store_external"),
    schema=[
        Field(name="store", dtype=Int64),
        Field(name="temperature", dtype=Float64),
        Field(name="fuel_price", dtype=Float64),
        *(Field(name=f"markdown_{number}", dtype=Float64) for number in range(1, 6)),
        Field(name="cpi", dtype=Float64),
        Field(name="unemployment", dtype=Float64),
        Field(name="is_holiday", dtype=Bool),
        Field(name="week_of_year", dtype=Int64),
    ],
)

store_static_features = FeatureView(
    name="store_static_features",
    description="What does not change about a store.",
    entities=[store],
    ttl=UNLIMITED,
    source=table("store_static"),
    schema=[
        Field(name="store", dtype=Int64),
        Field(name="store_type", dtype=String),
        Field(name="store_size", dtype=Int64),
    ],
)

calendar_features = FeatureView(
    name="calendar_features",
    description="What is known of a week two years before it comes.",
    entities=[week],
    ttl=UNLIMITED,
    source=table("calendar"),
    schema=[
        Field(name="week", dtype=String),
        Field(name="is_holiday", dtype=Bool),
        Field(name="holiday", dtype=String),
        Field(name="week_of_year", dtype=Int64),
        Field(name="month", dtype=Int64),
        Field(name="week_sine", dtype=Float64),
        Field(name="week_cosine", dtype=Float64),
        *(
            Field(name=f"weeks_to_{holiday}", dtype=Int64)
            for holiday in ("super_bowl", "labor_day", "thanksgiving", "christmas", "easter")
        ),
    ],
)

TRANSFORMS = (
    "temperature_normalized",
    "holiday_markdown_interaction",
    "seasonal_sine",
    "seasonal_cosine",
)

computed_features = FeatureView(
    name="computed_features",
    description="The transforms of `feature_transformations`, computed once and stored.",
    entities=[store],
    ttl=RECENT,
    source=table("computed"),
    schema=[
        Field(name="store", dtype=Int64),
        *(Field(name=name, dtype=Float64) for name in TRANSFORMS),
    ],
)


# Pandas mode: it is some six times faster than Python mode over the many rows of a training
# set, and slower only for single online reads, which take the stored `computed_features`.
@on_demand_feature_view(
    sources=[store_external_features],
    schema=[Field(name=name, dtype=Float64) for name in TRANSFORMS],
    mode="pandas",
)
def feature_transformations(inputs: pd.DataFrame) -> pd.DataFrame:
    """Compute the transforms from a store's externals; `features.sql` stores the same."""
    markdowns = [inputs[f"markdown_{number}"].fillna(0.0) for number in range(1, 6)]
    holiday = inputs["is_holiday"].map({True: 1.0, False: 0.0}).astype("float64")
    angle = 2 * np.pi * inputs["week_of_year"].astype("float64") / 52.0
    return pd.DataFrame(
        {
            "temperature_normalized": (inputs["temperature"] - 60.0) / 20.0,
            "holiday_markdown_interaction": holiday * sum(markdowns[1:], markdowns[0]),
            "seasonal_sine": np.sin(angle),
            "seasonal_cosine": np.cos(angle),
        }
    )


def external() -> FeatureView:
    """Return the externals that the services offer.

    The week and its holidays come from the calendar, for the week that is forecast; the same
    names about the week of the cut-off stay out. A function, because Feast would register a
    second view of the same name for a variable.
    """
    return store_external_features[
        [
            "temperature",
            "fuel_price",
            *(f"markdown_{number}" for number in range(1, 6)),
            "cpi",
            "unemployment",
        ]
    ]


demand_forecasting_service = FeatureService(
    name="demand_forecasting_service",
    description="What the model reads: stored features alone, the same offline and online.",
    features=[
        sales_history_features,
        seasonal_baseline_features,
        external(),
        store_static_features,
        calendar_features,
        computed_features,
    ],
)

# Without the calendar: the on-demand view also reads the week of the cut-off, whose names are
# those of the calendar's week.
demand_forecasting_on_demand = FeatureService(
    name="demand_forecasting_on_demand",
    description="The transforms computed on demand, to compare with the stored ones.",
    features=[
        sales_history_features,
        external(),
        store_static_features,
        feature_transformations,
    ],
)
