"""What the online store answers for one view, value by value, and how old its rows are."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import from_feast_to_pyarrow_type

from feastrain.errors import FeastrainError
from feastrain.stores.asked import is_on_demand
from feastrain.stores.asof.views import plan_joins
from feastrain.stores.fallback.keys import EntityKeys
from feastrain.stores.fallback.layout import NEVER, RAW, layout_number
from feastrain.stores.fallback.stored import StoredView, microseconds
from feastrain.stores.feature_repo import online_store_of, quiet_offline_store
from feastrain.stores.materialize import BEGINNING
from feastrain.stores.online import STORE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from feast import FeatureStore
    from numpy.typing import NDArray

    from feastrain.stores.fallback import FallbackOnlineStore

CHUNK_ROWS = 1_000
"""Entities that one call of Feast's API asks for."""
NAT = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Answer:
    """What the online store says of N entities of one view."""

    held: NDArray[np.bool_]
    """[N] whether it has a row, however old."""
    event: NDArray[np.int64]
    """[N] when the row happened, in microseconds since 1970; NEVER where there is none."""
    values: dict[str, pa.Array] = field(default_factory=dict)
    """[N] of each feature, in its declared type; null where nothing is answered."""
    mistyped: dict[str, dict[int, Any]] = field(default_factory=dict)
    """Values of another type than the declared one, by feature and row."""


def online_answer(
    store: FeatureStore, view: Any, features: Sequence[str], keys: pa.Table, as_of: datetime
) -> Answer:
    """Read features of one view as its clients do; our own store is asked as of a time.

    Args:
        store: the feature store, already applied and materialised.
        view: a view, or an on-demand one.
        features: names of its features.
        keys: [N] distinct join keys.
        as_of: when the values are for, where the store minds a view's `ttl`.

    Raises:
        FeastrainError: the store does not answer.
    """
    online = online_store_of(store)
    if online is not None and not is_on_demand(view):
        return _by_column(store, online, view, features, keys, as_of)
    with _whatever_its_age(store):
        parts = [
            _by_feast(store, view, features, keys.slice(start, CHUNK_ROWS))
            for start in range(0, len(keys), CHUNK_ROWS)
        ]
    return _joined(parts, features)


@contextlib.contextmanager
def _whatever_its_age(store: FeatureStore) -> Iterator[None]:
    """Let our own online store answer rows that are past their `ttl` today, as Feast's do."""
    config = store.config.online_store
    if online_store_of(store) is None or not config.enforce_ttl:
        yield
        return
    config.enforce_ttl = False
    try:
        yield
    finally:
        config.enforce_ttl = True


def latest_events(
    store: FeatureStore, view: Any, keys: pa.Table, as_of: datetime
) -> NDArray[np.int64] | None:
    """Return [N] when the latest row of each entity up to a time happened, NEVER without a row.

    A row that was created after that time counts as none, since the offline join passes it over.
    None where the view's rows are not its source's, so that their times are not known.
    """
    if getattr(view, "source_views", None):
        return None
    names = [field.name for field in view.features]
    (join,) = plan_joins([view], [f"{view.name}:{name}" for name in names], full_names=False)
    source = get_offline_store_from_config(store.config.offline_store)
    with quiet_offline_store():
        rows = source.pull_latest_from_table_or_query(
            config=store.config,
            data_source=join.source,
            join_key_columns=list(join.keys),
            feature_name_columns=[join.features[names[0]]],
            timestamp_field=join.event_timestamp,
            created_timestamp_column=join.created_timestamp,
            start_date=BEGINNING,
            end_date=as_of,
        ).to_arrow()
    entities = EntityKeys(view)
    times = _microseconds(rows[join.event_timestamp])
    if join.created_timestamp in rows.column_names:
        created = _microseconds(rows[join.created_timestamp])
        times = np.where(created > microseconds(as_of), NEVER, times)
    found = {ours: rows[theirs].to_pylist() for theirs, ours in join.keys.items()}
    events = dict(zip(entities.of(found or {"": times}), times.tolist(), strict=True))
    asked = entities.of({name: keys[name].to_pylist() for name in keys.column_names})
    return np.array([events.get(key, NEVER) for key in asked], dtype=np.int64)


def past_ttl(view: Any, event: NDArray[np.int64], as_of: datetime) -> NDArray[np.bool_]:
    """Return [N] whether rows of a view are older at a time than its `ttl` allows."""
    ttl = getattr(view, "ttl", None)
    if not ttl:
        return np.zeros(len(event), dtype=bool)
    oldest = microseconds(as_of) - int(ttl.total_seconds() * 1_000_000)
    return np.asarray((event != NEVER) & (event < oldest))


def _by_column(
    store: FeatureStore,
    online: FallbackOnlineStore,
    view: Any,
    features: Sequence[str],
    keys: pa.Table,
    as_of: datetime,
) -> Answer:
    stored, tiers = StoredView(store.config, view), online.tiers(store.config)
    entities = {name: keys[name].to_pylist() for name in keys.column_names}
    packed = tiers.read({stored.table: stored.keys.of(entities)})[stored.table]
    rows = stored.rows(packed, features, None, tiers.layout)
    held, event = rows.found.copy(), np.where(rows.found, rows.event, NEVER)
    rows.found[past_ttl(view, event, as_of)] = False
    declared, mistyped = _kinds(view), {}
    for name in features:
        mistyped[name] = _retyped(name, declared[name], packed, tiers)
    values = {name: rows.arrow(name, _arrow(view, name)) for name in features}
    return Answer(held, event, values, mistyped)


def _retyped(name: str, kind: str, packed: Sequence[bytes | None], tiers: Any) -> dict[int, Any]:
    """Return the rows that were packed when a feature was of another type."""
    numbers = {layout_number(row) for row in packed if row is not None}
    held = {number: dict(tiers.layout(number).fields).get(name, kind) for number in numbers}
    others = {number for number, then in held.items() if then != kind}
    if not others:
        return {}
    return {
        at: f"null: it is held as {held[layout_number(row)]}"
        for at, row in enumerate(packed)
        if row is not None and layout_number(row) in others
    }


def _by_feast(store: FeatureStore, view: Any, features: Sequence[str], keys: pa.Table) -> Answer:
    references = [f"{view.name}:{name}" for name in features]
    entities = {name: keys[name].to_pylist() for name in keys.column_names}
    try:
        answer = store.get_online_features(features=references, entity_rows=entities).proto
    except STORE_ERRORS as error:
        kind, told = store.config.online_store.type, " ".join(str(error).split())
        message = f"the online store ({kind}) does not answer: {told}; see `feastrain doctor`"
        raise FeastrainError(message) from error
    vectors = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
    held = np.zeros(len(keys), dtype=bool)
    event = np.full(len(keys), NEVER)
    values, mistyped, kinds = {}, {}, _kinds(view)
    for name in features:
        vector = vectors[name]
        held = np.array(vector.statuses) != FieldStatus.NOT_FOUND
        if not is_on_demand(view):
            micro = [t.seconds * 1_000_000 + t.nanos // 1000 for t in vector.event_timestamps]
            event = np.where(held, np.array(micro, dtype=np.int64), NEVER)
        values[name], mistyped[name] = _typed(vector.values, kinds[name], _arrow(view, name))
    return Answer(held, event, values, mistyped)


def _typed(values: Any, kind: str, declared: pa.DataType) -> tuple[pa.Array, dict[int, Any]]:
    """Return Feast's values in the declared type, and those of another one by their row."""
    expected = "bytes_val" if kind in RAW else f"{kind.lower()}_val"
    plain: list[Any] = []
    others: dict[int, Any] = {}
    for at, value in enumerate(values):
        held = value.WhichOneof("val")
        if held is None or held == "null_val":
            plain.append(None)
        elif held != expected:
            plain.append(None)
            others[at] = getattr(value, held)
        else:
            one = getattr(value, held)
            plain.append(list(one.val) if hasattr(one, "val") else one)
    if pa.types.is_timestamp(declared):  # Feast keeps seconds
        seconds = [None if one == NAT else one for one in plain]
        return pa.array(seconds, pa.timestamp("s", declared.tz)).cast(declared), others
    return pa.array(plain, type=declared), others


def _joined(parts: Sequence[Answer], features: Sequence[str]) -> Answer:
    starts = np.cumsum([0, *(len(part.held) for part in parts)]).tolist()
    return Answer(
        np.concatenate([part.held for part in parts]),
        np.concatenate([part.event for part in parts]),
        {name: pa.concat_arrays([part.values[name] for part in parts]) for name in features},
        {
            name: {
                start + at: value
                for start, part in zip(starts, parts, strict=False)
                for at, value in part.mistyped[name].items()
            }
            for name in features
        },
    )


def _microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    stamps = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    return np.asarray(stamps.fill_null(NEVER).to_numpy())


def _kinds(view: Any) -> dict[str, str]:
    return {one.name: one.dtype.to_value_type().name for one in view.features}


def _arrow(view: Any, name: str) -> pa.DataType:
    (dtype,) = (one.dtype for one in view.features if one.name == name)
    return from_feast_to_pyarrow_type(dtype)
