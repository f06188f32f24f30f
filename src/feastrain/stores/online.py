"""Features of today: read from the online store in the shape a bundle expects."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from feastrain.errors import FeastrainError, ProjectError
from feastrain.stores.asked import Asked, by_view
from feastrain.stores.feature_repo import view_of
from feastrain.stores.online_rows import OnlineRows, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from feast import FeatureStore
    from numpy.typing import NDArray

    from feastrain.recipe import FeatureColumns, Recipe
    from feastrain.stores.fallback.layout import Rows

    Dated = dict[str, tuple[NDArray[np.bool_], NDArray[np.int64]]]


def _store_errors() -> tuple[type[Exception], ...]:
    """Return what a store that is away raises, of the clients that are installed."""
    named = {"redis": "RedisError", "psycopg": "Error", "psycopg_pool": "PoolTimeout"}
    found = [
        getattr(import_module(module), name)
        for module, name in named.items()
        if find_spec(module) is not None
    ]
    return (OSError, sqlite3.Error, *found)


STORE_ERRORS = _store_errors()
REFRESH_SECONDS = 5.0
"""How long a registry is believed, and what is known ahead: what changes is seen within this time.
"""
MOST_AHEAD = 1_000
"""Sets of groups whose known-ahead rows are kept meanwhile."""
TIMESTAMP = pa.timestamp("us", tz="UTC")


class OnlineFeatures:
    """Reads the online store of a feature repo for the features that a bundle was trained on."""

    def __init__(
        self,
        store: FeatureStore,
        columns: FeatureColumns,
        recipe: Recipe,
        *,
        row_features: tuple[str, ...],
        known_features: tuple[str, ...],
        first_period: datetime,
    ) -> None:
        self._store = store
        self._columns = columns
        self._recipe = recipe
        self._row = Asked(store, row_features)
        self._ahead_of = Asked(store, known_features)
        self._first_period = first_period
        self._cutoff: tuple[datetime, float] | None = None
        """The last one told, and until when it is believed."""
        self._ahead: dict[tuple[Any, ...], pa.Table] = {}
        """What is known ahead as of that cut-off, by the groups it was asked of."""
        self._readers = {one: one.reader(store) for one in (self._row, self._ahead_of)}
        self._telling = self._features_keyed_by_series()
        changing = [ref for ref in row_features if ref.split(":", 1)[1] not in columns.static]
        held = dict.fromkeys(one for ref in changing for one in self._row.holds(ref))
        self._changing = tuple(names[-1] for names in by_view(held).values())

    def as_of(self) -> datetime:
        """Return the last cut-off that every view of the service was materialised up to.

        Raises:
            ProjectError: a view was never materialised.
        """
        told = self._cutoff
        if told is None or time.monotonic() >= told[1]:
            # Feast makes a view anew from its registry each time: milliseconds that a read has not.
            self._store.refresh_registry()
            views, frequency = sorted(self._row.views), self._recipe.frequency
            cutoff = last_cutoff(self._store, views, self._first_period, frequency)
            self._ahead = {}
            told = self._cutoff = cutoff, time.monotonic() + REFRESH_SECONDS
        return told[0]

    def read(self, series: pa.Table) -> OnlineRows:
        """Read the features of `series` (entity columns) and of the periods ahead of them."""
        as_of, tally = self.as_of(), Counter[str]()
        stamp = pa.array([as_of] * len(series), type=TIMESTAMP)
        series = series.append_column("event_timestamp", stamp)
        rows, dated = self._online(self._row, series, as_of, tally)
        found = np.zeros(len(series), dtype=bool)
        for name in self._telling:
            found |= dated[name][0]
        known = self._known(series, as_of, tally)
        return OnlineRows(
            rows=rows,
            known=known,
            as_of=as_of,
            found=found,
            happened=self._happened(dated, as_of),
            origin=_origin(tally),
        )

    def _happened(self, dated: Dated, as_of: datetime) -> NDArray[np.int64]:
        """Return [N] when the oldest row of each series happened, among views that change."""
        latest = int(as_of.timestamp() * 1_000_000)
        happened = np.full(len(next(iter(dated.values()))[0]), latest)
        for name in self._changing:
            found, event = dated[name]
            happened = np.where(found & (event > 0), np.minimum(happened, event), happened)
        return happened

    def _known(self, series: pa.Table, as_of: datetime, tally: Counter[str]) -> pa.Table:
        """Return what is known ahead of the groups of `series`; kept as long as the cut-off is."""
        held = self._ahead
        keys = [series[name].to_pylist() for name in self._columns.known_keys]
        groups = tuple(sorted({*zip(*keys, strict=True)})) if keys else ((),)
        known = held.get(groups)
        if known is None:
            known = self._read_known(groups, series, as_of, tally)
            if len(held) < MOST_AHEAD:
                held[groups] = known
        return known

    def _read_known(
        self,
        groups: tuple[tuple[Any, ...], ...],
        series: pa.Table,
        as_of: datetime,
        tally: Counter[str],
    ) -> pa.Table:
        horizon = self._recipe.horizon
        steps = np.tile(np.arange(1, horizon + 1), len(groups))
        columns: dict[str, Any] = {
            name: pa.array([group[place] for group in groups for _ in range(horizon)], kind)
            for place, name in enumerate(self._columns.known_keys)
            for kind in [series.schema.field(name).type]
        }
        columns["event_timestamp"] = pa.array([as_of] * len(steps), type=TIMESTAMP)
        wanted = dict(columns)
        columns["step"] = pa.array(steps)
        if self._ahead_of.references:
            frequency = self._recipe.frequency
            names = [self._recipe.period_name(as_of + int(step) * frequency) for step in steps]
            wanted[str(self._recipe.features.period_key)] = pa.array(names)
            answer, _ = self._online(self._ahead_of, pa.table(wanted), as_of, tally)
            columns |= {name: answer[name] for name in self._columns.known_ahead}
        return pa.table(columns)

    def _online(
        self, asked: Asked, entities: pa.Table, as_of: datetime, tally: Counter[str]
    ) -> tuple[pa.Table, Dated]:
        """Return the entities and features, and of each held one whether and when its row happened.

        Feast's answer is slow to ask for times: they are there for `_changing` alone.
        """
        keys = {
            name: entities[name].to_pylist()
            for name in entities.column_names
            if name != "event_timestamp"
        }
        reader = self._readers[asked]
        if reader is not None:
            held, dated = _by_column(reader.read(keys, as_of, tally), asked)
        else:
            held, dated = self._by_feast(asked, keys, tally)
        return asked.whole(entities, held, [found for found, _ in dated.values()]), dated

    def _by_feast(
        self, asked: Asked, keys: dict[str, list[Any]], tally: Counter[str]
    ) -> tuple[dict[str, pa.Array], Dated]:
        count = len(next(iter(keys.values())))
        tally["store"] += count
        try:
            answer = self._store.get_online_features(features=list(asked.held), entity_rows=keys)
        except STORE_ERRORS as error:
            kind = self._store.config.online_store.type
            told = " ".join(str(error).split())
            message = f"the online store ({kind}) does not answer: {told}; see `feastrain doctor`"
            raise FeastrainError(message) from error
        values = answer.to_dict()
        names = answer.proto.metadata.feature_names.val
        statuses = dict(zip(names, answer.proto.results, strict=True))
        columns, dated = {}, {}
        for reference in asked.held:
            name = reference.split(":", 1)[1]
            columns[name] = pa.array(values[name], type=asked.types[name])
            found = np.array(statuses[name].statuses) != FieldStatus.NOT_FOUND
            event = np.zeros(count, dtype=np.int64)
            if name in self._changing:
                event += [one.seconds * 1_000_000 for one in statuses[name].event_timestamps]
            dated[name] = found, event
        return columns, dated

    def _features_keyed_by_series(self) -> list[str]:
        """Return a feature of each view that is keyed by every entity; of all, if there is none."""
        any_of = {view: names[-1] for view, names in by_view(self._row.held).items()}
        telling = [
            name
            for view, name in any_of.items()
            if {field.name for field in self._row.views[view].entity_columns}
            >= set(self._columns.entities)
        ]
        return telling or [*any_of.values()]


def _by_column(read: list[Rows], asked: Asked) -> tuple[dict[str, pa.Array], Dated]:
    columns, dated = {}, {}
    for rows in read:
        whole = bool(rows.found.all())
        for name in rows.values:
            columns[name] = rows.arrow(name, asked.types[name], whole=whole)
            dated[name] = rows.found, rows.event
    return columns, dated


def last_cutoff(
    store: FeatureStore, views: Sequence[str], first_period: datetime, frequency: timedelta
) -> datetime:
    """Return the last close of a period that every view was materialised up to.

    Raises:
        ProjectError: a view was never materialised.
    """
    ends = []
    for name in views:
        view = view_of(store, name)
        if view.most_recent_end_time is None:
            message = f"view {name!r} is not in the online store; run `feastrain materialize`"
            raise ProjectError(message)
        ends.append(view.most_recent_end_time)
    cutoff: datetime = first_period + (min(ends) - first_period) // frequency * frequency
    return cutoff


def _origin(tally: Counter[str]) -> Origin:
    """Return who answered the keys that were counted."""
    if tally["primary"] and tally["fallback"]:
        return "mixed"
    if tally["primary"]:
        return "primary"
    return "fallback" if tally["fallback"] else "store"
