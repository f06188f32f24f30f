"""Small Feast repos for tests: definitions applied to a registry in a folder of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from feastrain.stores.feature_repo import open_store, quiet_offline_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from feast import FeatureStore

ASOF = "feastrain.stores.asof.AsofOfflineStore"
START = datetime(2024, 1, 1, tzinfo=UTC)
TIMESTAMP = pa.timestamp("us", tz="UTC")


def hours(*values: float | None) -> pa.Array:
    """Hours since the start as timestamps."""
    return pa.array([None if v is None else START + timedelta(hours=v) for v in values], TIMESTAMP)


def make_store(
    folder: Path, objects: Sequence[Any], offline_store: dict[str, Any] | None = None
) -> FeatureStore:
    """Apply definitions to a new repo in `folder` and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "project": "test",
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "offline_store": offline_store or {"type": ASOF},
        "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    store = open_store(folder)
    with quiet_offline_store():
        store.apply(list(objects))
    return store


def write(path: Path, columns: dict[str, Any], **options: Any) -> str:
    """Write a Parquet file and return its path as Feast takes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def history(
    store: FeatureStore, entities: pd.DataFrame | pa.Table | str, features: Any, **options: Any
) -> pa.Table:
    """Retrieve features as an Arrow table."""
    with quiet_offline_store():
        job = store.get_historical_features(entity_df=entities, features=features, **options)
        table: pa.Table = job.to_arrow()
    return table
