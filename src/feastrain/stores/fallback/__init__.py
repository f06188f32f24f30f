"""A Feast online store that does not go down: Redis answers, PostgreSQL (or SQLite) knows.

`layout.py` and `keys.py` say what lies in the stores, `ledger.py` what makes it durable,
`primary.py` what makes it fast, `tiers.py` how the two are one store, `bulk.py` how a whole view
is written. This module is what Feast calls, and `read_columns`, which is what serving calls.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import FeastConfigBaseModel

from feastrain.errors import DataError
from feastrain.stores.fallback.breaker import BreakerLimits
from feastrain.stores.fallback.config import Fallback, RedisPrimary
from feastrain.stores.fallback.keys import entity_keys
from feastrain.stores.fallback.layout import NEVER, Layout, Rows, layout_number, scattered
from feastrain.stores.fallback.tiers import Tiers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from feast import Entity, FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from feastrain.stores.fallback.ledger import Ledger

    Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
        layout, name = layout_of(table), table_of(config, table)
        for start in range(0, len(data), ROWS_A_WRITE):
            some = data[start : start + ROWS_A_WRITE]
            latest: dict[bytes, Written] = {}
            for row in some:
                key = serialize_entity_key(row[0], entity_key_serialization_version=3)
                if key not in latest or _microseconds(latest[key][2]) <= _microseconds(row[2]):
                    latest[key] = row
            cells = {
                feature: layout.cells_of_values(feature, [_value(row, feature) for row in rows])
                for rows in [list(latest.values())]
                for feature, _ in layout.fields
            }
            event = np.array([_microseconds(row[2]) for row in latest.values()], dtype=np.int64)
            created = np.array(
                [NEVER if row[3] is None else _microseconds(row[3]) for row in latest.values()],
                dtype=np.int64,
            )
            packed = layout.pack(cells, event, created)
            self.tiers(config).write(name, layout, list(latest), packed)
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
        layout = layout_of(table)
        features = requested_features or [name for name, _ in layout.fields]
        keys = [serialize_entity_key(key, entity_key_serialization_version=3) for key in entity_keys]
        name = table_of(config, table)
        packed = self.tiers(config).read({name: keys})[name]
        at = time.time_ns() // 1000 if config.online_store.enforce_ttl else None
        rows = self._rows(config, table, packed, features, at)
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

    def read_columns(
        self,
        config: RepoConfig,
        wanted: Sequence[tuple[FeatureView, Sequence[str]]],
        entities: Mapping[str, Sequence[Any]],
        at: datetime | None = None,
    ) -> list[Rows]:
        """Read features of several views of the same N entities, straight to arrays.

        Args:
            config: the repo's configuration.
            wanted: views, each with the features asked of it.
            entities: [N] values by join key.
            at: when the values are for; those older than their view's `ttl` then are not found.
                Without it, any age will do.

        Returns:
            [N] rows for each view.

        Raises:
            UsageError: a join key is missing, or of another type.
            FeastrainError: neither store answers.
        """
        keys = {table_of(config, view): entity_keys(view, entities) for view, _ in wanted}
        packed = self.tiers(config).read(keys)
        moment = None if at is None else _microseconds(at)
        return [
            self._rows(config, view, packed[table_of(config, view)], features, moment)
            for view, features in wanted
        ]

    def update(  # noqa: PLR0913, PLR0917 - Feast's signature
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
        if self._tiers is None or self._tiers[0] != os.getpid():
            self._tiers = (os.getpid(), _opened(config))
        return self._tiers[1]

    def close(self) -> None:
        """Let go of all connections."""
        if self._tiers is not None and self._tiers[0] == os.getpid():
            self._tiers[1].close()
        self._tiers = None

    def _rows(
        self,
        config: RepoConfig,
        view: FeatureView,
        packed: Sequence[bytes | None],
        features: Sequence[str],
        at: int | None,
    ) -> Rows:
        """Unpack rows, without those that are too old at a time in microseconds."""
        now = layout_of(view)
        held = [row for row in packed if row is not None]
        numbers = {layout_number(row) for row in held}
        if len(held) == len(packed) and numbers == {now.number}:
            rows = now.unpack(held, features, now)
        else:
            parts = [(np.zeros(0, dtype=np.int64), now.unpack([], features, now))]
            for number in numbers:
                layout = now if number == now.number else self.tiers(config).layout(number)
                some = [i for i, row in enumerate(packed) if row and layout_number(row) == number]
                these = [row for row in map(packed.__getitem__, some) if row is not None]
                parts.append((np.array(some), layout.unpack(these, features, now)))
            rows = scattered(parts, len(packed))
        if at is not None and view.ttl:
            rows.found[rows.event < at - view.ttl // timedelta(microseconds=1)] = False
        return rows


def layout_of(view: FeatureView) -> Layout:
    """Return how rows of a view are packed."""
    fields = tuple((field.name, field.dtype.to_value_type().name) for field in view.features)
    layout = _LAYOUTS.get(fields)
    if layout is None:
        layout = _LAYOUTS[fields] = Layout(fields)
    return layout


_LAYOUTS: dict[tuple[tuple[str, str], ...], Layout] = {}


def table_of(config: RepoConfig, view: FeatureView) -> str:
    """Return the name of a view's table, and of its keys."""
    versions = config.registry.enable_online_feature_view_versioning
    return f"{compute_table_id(config.project, view, versions)}_packed"


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


def _value(row: Written, feature: str) -> Value:
    from feast.protos.feast.types.Value_pb2 import Value

    return row[1].get(feature) or Value()


def _microseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)
