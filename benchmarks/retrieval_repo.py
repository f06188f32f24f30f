"""The feature repo of the retrieval benchmark: the same definitions for every offline store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64

from retrieval_data import TRANSFORMS, TTL, table_path

if TYPE_CHECKING:
    from pathlib import Path

    from feast.data_source import DataSource

    from retrieval_data import Case, View

TYPES = {"is_holiday": Bool, "week_of_year": Int64, "store_size": Int64}
TIMES = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}


def open_store(
    case: Case, folder: Path, repo: Path, offline_store: dict[str, Any], *, in_postgres: bool
) -> FeatureStore:
    """Register the case's views in a registry of their own and open the store over them."""
    config = {
        "project": "retrieval",
        "provider": "local",
        "registry": str(repo / "registry.db"),
        "offline_store": offline_store,
        "online_store": {"type": "sqlite", "path": str(repo / "online_store.db")},
        "entity_key_serialization_version": 3,
    }
    (repo / "feature_store.yaml").write_text(yaml.safe_dump(config))
    FeatureStore(repo_path=str(repo)).apply(_definitions(case, folder, in_postgres=in_postgres))
    return FeatureStore(repo_path=str(repo))


def _definitions(case: Case, folder: Path, *, in_postgres: bool) -> list[Any]:
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.INT64)
        for name in ("store", "dept")
    }
    views = [
        FeatureView(
            name=view.name,
            entities=[entities[key] for key in view.keys],
            ttl=TTL,
            source=_source(view, folder, in_postgres=in_postgres),
            schema=[
                *(Field(name=key, dtype=Int64) for key in view.keys),
                *(Field(name=name, dtype=TYPES.get(name, Float64)) for name in view.features),
            ],
        )
        for view in case.views
    ]
    external = next(view for view in views if view.name == "store_external")
    computed = [_on_demand(external)] if case.transforms else []
    return [*entities.values(), *views, *computed]


def _source(view: View, folder: Path, *, in_postgres: bool) -> DataSource:
    if in_postgres:
        return PostgreSQLSource(name=view.name, table=view.name, **TIMES)
    return FileSource(name=view.name, path=str(table_path(folder, view)), **TIMES)


def _on_demand(external: FeatureView) -> Any:
    @on_demand_feature_view(
        sources=[external],
        schema=[Field(name=name, dtype=Float64) for name in TRANSFORMS],
        mode="pandas",
    )
    def transforms(inputs: pd.DataFrame) -> pd.DataFrame:
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

    return transforms
