"""A Feast online store that does not go down: Redis answers, PostgreSQL (or SQLite) knows.

`layout.py` and `keys.py` say what lies in the stores, `ledger.py` what makes it durable,
`primary.py` what makes it fast, `tiers.py` how the two are one store, `bulk.py` how a whole view
is written. This module is what Feast calls; its `reader` is what serving reads through.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.repo_config import FeastConfigBaseModel

from feastrain.stores.fallback.breaker import BreakerLimits
from feastrain.stores.fallback.config import Fallback, RedisPrimary
from feastrain.stores.fallback.layout import NEVER
from feastrain.stores.fallback.stored import (
    EPOCH,
    ColumnsReader,
    StoredView,
    microseconds,
    table_of,
)
from feastrain.stores.fallback.threads import Done, Threads
from feastrain.stores.fallback.tiers import Tiers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from feast import Entity, FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from feastrain.stores.fallback.ledger import Ledger

    Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


ROWS_A_WRITE = 20_000
"""Rows that one transaction writes."""


class FallbackOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc] # Feast is not typed
    """`online_store: {type: feastrain.stores.fallback.FallbackOnlineStore, ...}`."""

    type: Literal["feastrain.stores.fallback.FallbackOnlineStore"] = (
        "feastrain.stores.fallback.FallbackOnlineStore"
    )

    primary: RedisPrimary | None = None
    """What answers first; without it, the fallback alone does."""

    fallback: Fallback
    """What every write goes to first, and what is read where the primary does not answer."""

    enforce_ttl: bool = True
    """Whether Feast's own reads pass over values older than their view's `ttl` allows now."""


class FallbackOnlineStore(OnlineStore):  # type: ignore[misc] # Feast is not typed
    """Rows packed by view and entity, in a durable store and a primary before it."""

    def __init__(self) -> None:
        self._tiers: tuple[int, Tiers] | None = None
        self._lock = threading.Lock()
        self._threads = Threads()

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Tell Feast's server that both reads and writes may be awaited."""
        return SupportedAsyncMethods(read=True, write=True)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows; of one entity's the latest stays, and of two as late the later written.

        Raises:
            DataError: a value is not of its feature's type.
            FeastrainError: the durable store does not answer.
        """
        stored = StoredView(config, table)
        layout = stored.layout
        for start in range(0, len(data), ROWS_A_WRITE):
            some = data[start : start + ROWS_A_WRITE]
            latest: dict[bytes, Written] = {}
            for row in some:
                key = serialize_entity_key(row[0], entity_key_serialization_version=3)
                if key not in latest or microseconds(latest[key][2]) <= microseconds(row[2]):
                    latest[key] = row
            cells = {
                feature: layout.cells_of_values(feature, [_value(row, feature) for row in rows])
                for rows in [list(latest.values())]
                for feature, _ in layout.fields
            }
            event = np.array([microseconds(row[2]) for row in latest.values()], dtype=np.int64)
            created = np.array(
                [NEVER if row[3] is None else microseconds(row[3]) for row in latest.values()],
                dtype=np.int64,
            )
            packed = layout.pack(cells, event, created)
            self.tiers(config).write(stored.table, layout, list(latest), packed)
            if progress is not None:
                progress(len(some))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read rows of one view: event timestamp and values, or two Nones where there is no row.

        Raises:
            FeastrainError: neither store answers.
        """
        stored, tiers = StoredView(config, table), self.tiers(config)
        layout = stored.layout
        features = requested_features or [name for name, _ in layout.fields]
        keys = [
            serialize_entity_key(key, entity_key_serialization_version=3) for key in entity_keys
        ]
        packed = tiers.read({stored.table: keys})[stored.table]
        at = time.time_ns() // 1000 if config.online_store.enforce_ttl else None
        rows = stored.rows(packed, features, at, tiers.layout)
        columns = [layout.values_of(rows, feature) for feature in features]
        values = list(zip(*columns, strict=True)) or [()] * len(keys)
        return [
            (EPOCH + timedelta(microseconds=event), dict(zip(features, row, strict=True)))
            if found
            else (None, None)
            for found, event, row in zip(
                rows.found.tolist(), rows.event.tolist(), values, strict=True
            )
        ]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read rows as `online_read` does, while the event loop goes on."""
        work = partial(self.online_read, config, table, entity_keys, requested_features)
        return await self._threads.run(work, _most_connections(config))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows as `online_write_batch` does, while the event loop goes on."""
        work = partial(self.online_write_batch, config, table, data, progress)
        await self._threads.run(work, _most_connections(config))

    def reader(
        self, config: RepoConfig, wanted: Sequence[tuple[FeatureView, Sequence[str]]]
    ) -> ColumnsReader:
        """Return what reads some features of some views straight to arrays, again and again.

        Args:
            config: the repo's configuration.
            wanted: views, each with the features asked of it.
        """
        views = [(StoredView(config, view), tuple(features)) for view, features in wanted]
        return ColumnsReader(lambda: self.tiers(config), views)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002 - Feast's signature
        entities_to_keep: Sequence[Entity],  # noqa: ARG002 - Feast's signature
        partial: bool,  # noqa: ARG002, FBT001 - Feast's signature
    ) -> None:
        """Make the tables of views that stay, and drop those of views that go."""
        ledger = self.tiers(config).ledger
        ledger.create([table_of(config, view) for view in tables_to_keep])
        ledger.drop([table_of(config, view) for view in tables_to_delete])

    def teardown(
        self,
        config: RepoConfig,
        tables: Sequence[FeatureView],
        entities: Sequence[Entity],  # noqa: ARG002 - Feast's signature
    ) -> None:
        """Drop the tables of the project's views."""
        ledger = self.tiers(config).ledger
        ledger.create([])
        ledger.drop([table_of(config, view) for view in tables])

    def tiers(self, config: RepoConfig) -> Tiers:
        """Return the stores, connected in this process."""
        with self._lock:
            if self._tiers is None or self._tiers[0] != os.getpid():
                self._tiers = (os.getpid(), _opened(config))
            return self._tiers[1]

    def close(self) -> Done:
        """Let go of all connections; Feast's server awaits this, others need not."""
        self._threads.close()
        if self._tiers is not None and self._tiers[0] == os.getpid():
            self._tiers[1].close()
        self._tiers = None
        return Done()


def _opened(config: RepoConfig) -> Tiers:
    asked = config.online_store
    primary = None
    limits = BreakerLimits()
    if asked.primary is not None:
        from feastrain.stores.fallback.primary import Primary

        primary = Primary(asked.primary)
        limits = BreakerLimits(asked.primary.failures_to_open, asked.primary.open_seconds)
    return Tiers(_ledger(config), primary, limits)


def _ledger(config: RepoConfig) -> Ledger:
    asked = config.online_store.fallback
    if asked.type == "postgres":
        from feastrain.stores.fallback.postgres import PostgresLedger

        return PostgresLedger(asked)
    from feastrain.stores.fallback.sqlite import SqliteLedger

    return SqliteLedger(Path(config.repo_path or ".") / asked.path)


def _most_connections(config: RepoConfig) -> int:
    """Return how many reads can be under way at once."""
    asked = config.online_store
    most: int = getattr(asked.primary or asked.fallback, "max_connections", 0)
    return most or getattr(asked.fallback, "max_conn", 4)


def _value(row: Written, feature: str) -> Value:
    from feast.protos.feast.types.Value_pb2 import Value

    return row[1].get(feature) or Value()
