"""Entity keys as bytes: Feast's own serialisation (version 3), from columns."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import ValueType

from feastrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from feast import FeatureView

_WHOLE = {"INT64": "<IIq", "INT32": "<IIi", "UNIX_TIMESTAMP": "<IIq"}
_TEXT = {"STRING", "BYTES"}


def entity_keys(view: FeatureView, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """Return the key of each of N entities, byte for byte as Feast serialises it.

    Args:
        view: the feature view, whose join keys and their types count.
        columns: [N] values by join key; more columns than those of the view are passed over.

    Raises:
        UsageError: a join key has no column, or a value of another type.
    """
    kinds = {field.name: field.dtype.to_value_type().name for field in view.entity_columns}
    if not kinds or list(kinds) == [DUMMY_ENTITY_ID]:
        count = len(next(iter(columns.values()), ()))
        kinds, columns = {DUMMY_ENTITY_ID: "STRING"}, {DUMMY_ENTITY_ID: [DUMMY_ENTITY_VAL] * count}
    names = sorted(kinds)
    missing = [name for name in names if name not in columns]
    if missing:
        message = f"view {view.name!r} is keyed by {', '.join(names)}; {missing[0]!r} is not given"
        raise UsageError(message)
    prefix = serialize_entity_key_prefix(names, 3)
    parts = [_serialised(name, kinds[name], columns[name]) for name in names]
    if len(parts) == 1:
        return [prefix + part for part in parts[0]]
    return [prefix + b"".join(part) for part in zip(*parts, strict=True)]


def _serialised(name: str, kind: str, values: Sequence[Any]) -> list[bytes]:
    try:
        number = ValueType.Enum.Value(kind)
        if kind in _WHOLE:
            pack = struct.Struct(_WHOLE[kind]).pack
            size = struct.calcsize(_WHOLE[kind]) - 8
            return [pack(number, size, value) for value in values]
        if kind in _TEXT:
            pack = struct.Struct("<II").pack
            text = [v.encode() if kind == "STRING" else v for v in values]
            return [pack(number, len(value)) + value for value in text]
    except (struct.error, AttributeError, TypeError) as error:
        message = f"join key {name!r} is declared {kind} and was given something else: {error}"
        raise UsageError(message) from error
    message = f"join key {name!r} is declared {kind}, which Feast cannot serialise"
    raise UsageError(message)
