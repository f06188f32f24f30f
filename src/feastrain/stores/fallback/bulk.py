"""Whole views into the online store: from Arrow to packed rows, without a Python object a value."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from feastrain.errors import DataError
from feastrain.stores.asof.job import AsofRetrievalJob
from feastrain.stores.asof.views import plan_joins
from feastrain.stores.fallback.layout import FIXED, NEVER, RAW, TEXT, Layout
from feastrain.stores.fallback.ledger import Chunk
from feastrain.stores.fallback.stored import StoredView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from feast import FeatureStore, FeatureView
    from feast.infra.offline_stores.offline_store import RetrievalJob
    from numpy.typing import NDArray

    from feastrain.stores.asof.views import ViewJoin
    from feastrain.stores.fallback.layout import Cells, Packed
    from feastrain.stores.fallback.tiers import Tiers

    Progress = Callable[[str, int], None]
    """Is told a view's name, and how many of its rows are written."""

CHUNK_ROWS = 20_000
BATCH_BYTES = 64 << 20
"""About how many bytes of a view are held at once."""


def goes_by_column(view: FeatureView) -> bool:
    """Tell whether a view's rows are its source's: no code of the user's comes between."""
    changes = ("feature_transformation", "udf", "aggregations", "source_views")
    return view.batch_source is not None and not any(getattr(view, c, None) for c in changes)


def write_view(
    store: FeatureStore,
    view: FeatureView,
    tiers: Tiers,
    span: tuple[datetime, datetime],
    progress: Progress | None = None,
) -> int:
    """Write the latest row of every entity in a span of time, and return how many there were.

    The rows go in chunks. One that a call which was killed had written is not written again, if
    it would be the same: the durable store has its digest.

    Args:
        store: the feature store.
        view: a view that `goes_by_column`.
        tiers: the online store.
        span: the first and the last event timestamp to read.
        progress: is told of every chunk.

    Raises:
        DataError: a value does not fit its feature's type, or a key is there twice.
        FeastrainError: the durable store does not answer.
    """
    references = [f"{view.name}:{field.name}" for field in view.features]
    (join,) = plan_joins([view], references, full_names=False)
    job = get_offline_store_from_config(store.config.offline_store).pull_latest_from_table_or_query(
        config=store.config,
        data_source=join.source,
        join_key_columns=list(join.keys),
        feature_name_columns=list(join.features.values()),
        timestamp_field=join.event_timestamp,
        created_timestamp_column=join.created_timestamp,
        start_date=span[0],
        end_date=span[1],
    )
    stored = StoredView(store.config, view)
    before = tiers.ledger.chunks(stored.table)
    rows = 0
    for number, table in enumerate(_chunks(job)):
        named = {ours: _list(table[theirs]) for theirs, ours in join.keys.items()}
        # A view without an entity has one row, whose key is made of no column.
        keys = stored.keys.of(named or {"": [None] * len(table)})
        if len(set(keys)) < len(keys):
            message = f"the offline store gave the latest row of an entity of {view.name!r} twice"
            raise DataError(message)
        packed = _packed(stored.layout, join, table)
        chunk = Chunk(number, _digest(keys, packed))
        if before.get(number) != chunk.digest:
            tiers.write(stored.table, stored.layout, keys, packed, chunk)
        rows += len(keys)
        if progress is not None:
            progress(view.name, rows)
    tiers.ledger.forget_chunks(stored.table)
    return rows


def _chunks(job: RetrievalJob) -> Iterator[pa.Table]:
    tables = job.batches(BATCH_BYTES) if isinstance(job, AsofRetrievalJob) else [job.to_arrow()]
    for table in tables:
        for start in range(0, len(table), CHUNK_ROWS):
            yield table.slice(start, CHUNK_ROWS).combine_chunks()


def _list(column: pa.ChunkedArray) -> list[Any]:
    times = pa.types.is_timestamp(column.type)
    return list(_seconds(column).tolist() if times else column.to_pylist())


def _packed(layout: Layout, join: ViewJoin, table: pa.Table) -> Packed:
    cells = {}
    for name, kind in layout.fields:
        try:
            cells[name] = _cells(layout, name, kind, table[join.features[name]])
        except (pa.ArrowInvalid, TypeError, ValueError, AssertionError) as error:
            told = " ".join(str(error).split())
            message = f"feature {join.view}:{name} is declared {kind} and does not fit: {told}"
            raise DataError(message) from error
    event = _microseconds(table[join.event_timestamp])
    created = (
        np.full(len(table), NEVER)
        if join.created_timestamp is None
        else _microseconds(table[join.created_timestamp])
    )
    return layout.pack(cells, event, created)


def _cells(layout: Layout, name: str, kind: str, column: pa.ChunkedArray) -> Cells:
    """Return a column as cells, with the values and nulls that Feast would give it."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not _is_plain(kind, column.type):
        values = column.combine_chunks().to_numpy(zero_copy_only=False)
        protos = python_values_to_proto_values(values, ValueType[kind])
        return layout.cells_of_values(name, protos)
    null = np.asarray(pc.is_null(column, nan_is_null=True))
    if kind == "UNIX_TIMESTAMP":
        return _seconds(column), null
    if kind in FIXED:
        numbers = column.cast(_ARROW[kind]).fill_null(_ARROW_ZERO[kind])
        return numbers.to_numpy(), null
    return [value or b"" for value in column.cast(pa.large_binary()).to_pylist()], null


_ARROW = {
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOL": pa.bool_(),
}
_ARROW_ZERO = {"INT32": 0, "INT64": 0, "FLOAT": 0.0, "DOUBLE": 0.0, "BOOL": False}


def _is_plain(kind: str, held: pa.DataType) -> bool:
    """Tell whether values of an Arrow type are those of Feast's type as they are."""
    types = pa.types
    if kind in {"INT32", "INT64"}:
        return bool(types.is_integer(held))
    if kind in {"FLOAT", "DOUBLE"}:
        return bool(types.is_floating(held))
    if kind == "BOOL":
        return bool(types.is_boolean(held))
    if kind == "UNIX_TIMESTAMP":
        return bool(types.is_timestamp(held))
    if kind in TEXT:
        return bool(types.is_string(held) or types.is_large_string(held))
    return kind in RAW and bool(types.is_binary(held) or types.is_large_binary(held))


def _microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return times as microseconds since 1970; NEVER where there is none."""
    zone = column.type.tz
    times = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return np.asarray(times.fill_null(NEVER).to_numpy())


def _seconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return _microseconds(column) // 1_000_000


def _digest(keys: list[bytes], packed: Packed) -> str:
    digest = hashlib.blake2b(packed.heads.tobytes(), digest_size=16)
    for part in (*keys, *packed.tails):
        digest.update(part)
    return digest.hexdigest()
