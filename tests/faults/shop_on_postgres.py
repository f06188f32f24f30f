"""A feature store that is in PostgreSQL as a whole: registry, sources and online rows."""

from __future__ import annotations

import time
from bisect import bisect
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Int64, String

from feast_repos import ASOF, START, history
from feastrain.stores.feature_repo import online_store_of, open_store, quiet_offline_store
from feastrain.stores.materialize import materialize
from feastrain.stores.registry import patiently
from online_stores import FALLBACK

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

SILENT_SECONDS = 5.0
"""How long clients wait for a statement: less than by default, so that a test is soon over."""
ROWS = 2_000
FEATURES = ["shelf:units"]
item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)


class Shop:
    """What each kind of client does with the store; each has connections of its own."""

    def __init__(self, folder: Path, keys: dict[str, Any], primary: dict[str, Any] | None) -> None:
        """Describe it; `fill` makes it."""
        self._folder, self._keys = folder, keys
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "project": "shop",
            "provider": "local",
            "registry": _registry(folder, keys),
            "offline_store": {**keys, "type": ASOF, "statement_seconds": SILENT_SECONDS},
            "online_store": {
                "type": FALLBACK,
                "primary": primary,
                "fallback": {"type": "postgres", "statement_seconds": SILENT_SECONDS, **keys},
            },
            "entity_key_serialization_version": 3,
        }
        (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
        self._opened: list[FeatureStore] = []
        self._acknowledged: list[int] = []
        self._when: list[float] = []
        self.stale: list[tuple[int, int]] = []
        self._writing = 0

    def fill(self, connection: Any) -> None:
        """Make the source, the registry and the tables of the online store."""
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("CREATE TABLE stock (item text, units bigint, event timestamptz)")
        connection.execute(
            "INSERT INTO stock SELECT 'i' || n, n, %s::timestamptz FROM generate_series(1, %s) n",
            (START, ROWS),
        )
        source = PostgreSQLSource(name="stock", table="stock", timestamp_field="event")
        schema = [Field(name="item", dtype=String), Field(name="units", dtype=Int64)]
        views = [
            FeatureView(name=name, entities=[item], ttl=timedelta(0), source=source, schema=schema)
            for name in ("shelf", "till")
        ]
        store = self._open()
        with quiet_offline_store():
            store.apply([item, *views])
        self.write(store)

    def close(self) -> None:
        """Let go of all connections; clients that are asked for later have others."""
        while self._opened:
            store = self._opened.pop()
            online = online_store_of(store)
            assert online is not None
            online.close()
            with suppress(AttributeError):
                store.registry.write_engine.dispose()

    def _open(self) -> FeatureStore:
        store = open_store(self._folder)
        self._opened.append(store)
        return store

    def write(self, store: FeatureStore) -> None:
        """Write a row of its own, and the number of the last one, as one request."""
        self._writing += 1
        number = self._writing
        rows = pd.DataFrame(
            {
                "item": [f"w{number}", "last"],
                "units": [number, number],
                "event": [START + timedelta(seconds=number)] * 2,
            }
        )
        store.write_to_online_store("till", rows)
        self._acknowledged.append(number)
        self._when.append(time.monotonic())

    def writer(self) -> Any:
        """Return a client that writes."""
        store = self._open()
        return lambda: self.write(store)

    def reader(self, behind_seconds: float = 0.0) -> Any:
        """Return a client that reads the last number.

        Stale is what is older than was acknowledged before it asked, or so long before.
        """
        store = self._open()
        online = online_store_of(store)
        assert online is not None
        rows = online.reader(store.config, [(store.get_feature_view("till"), ["units"])])

        def read() -> None:
            known = bisect(self._when, time.monotonic() - behind_seconds)
            least = self._acknowledged[known - 1] if known else 0
            (found,) = rows.read({"item": ["last"]})
            seen = int(found.values["units"][0]) if found.found.all() else -1
            if seen < least:
                self.stale.append((least, seen))

        return read

    def trainer(self) -> Any:
        """Return a client that joins features from the source, as `build` does."""
        store = self._open()
        frame = pd.DataFrame({"item": [f"i{n + 1}" for n in range(ROWS)]})
        frame["event_timestamp"] = START + timedelta(hours=1)

        def join() -> None:
            units = history(store, frame, FEATURES)["units"]
            assert units.to_pylist() == list(range(1, ROWS + 1))

        return join

    def materialiser(self) -> Any:
        """Return a client that materialises the source, each time up to a second later."""
        store = self._open()
        done = [0]

        def work() -> None:
            done[0] += 1
            as_of = START + timedelta(hours=1, seconds=done[0])
            materialize(store, ["shelf"], as_of, done[0], self._folder / "stamp.json")

        return work

    def registrar(self) -> Any:
        """Return a client that writes to the registry and reads what it wrote."""
        store = self._open()
        done = [0]

        def work() -> None:
            done[0] += 1
            tagged = Entity(
                name="tagged", join_keys=["tagged"], value_type=ValueType.STRING,
                tags={"n": str(done[0])},
            )  # fmt: skip
            patiently(lambda: store.registry.apply_entity(tagged, store.project))
            assert str(done[0]) == store.registry.get_entity("tagged", store.project).tags["n"]

        return work

    def forget(self) -> None:
        """Begin anew: what was acknowledged so far is not looked for again."""
        self._acknowledged, self._when = self._acknowledged[-1:], self._when[-1:]
        self.stale.clear()

    def lost(self, connection: Any) -> tuple[int, int]:
        """Return how many acknowledged writes are not there, and how many rows are there twice.

        A write that was refused may be there nevertheless: its answer was lost, not the row.
        """
        store = self._open()
        online = online_store_of(store)
        assert online is not None
        rows = online.reader(store.config, [(store.get_feature_view("till"), ["units"])])
        numbers = list(self._acknowledged)
        (found,) = rows.read({"item": [f"w{n}" for n in numbers]})
        kept = found.found & (found.values["units"] == numbers)
        query = "SELECT count(*), count(DISTINCT entity_key) FROM shop_till_packed"
        count, distinct = connection.execute(query).fetchone()
        return int((~kept).sum()), max(count - distinct, count - self._writing - 1)


def _registry(folder: Path, keys: dict[str, Any]) -> dict[str, Any] | str:
    """Return a registry in the same database; in a file where that has a socket for an address."""
    if str(keys["host"]).startswith("/"):
        return str(folder / "registry.db")
    hosts = [f"host={host}:{keys['port']}" for host in str(keys["host"]).split(",")]
    query = "&".join([*hosts, "target_session_attrs=read-write", "connect_timeout=2"])
    login = f"{keys['user']}:{keys['password']}"
    return {
        "registry_type": "sql",
        "path": f"postgresql+psycopg://{login}@/{keys['database']}?{query}",
        "cache_ttl_seconds": 0,
    }
