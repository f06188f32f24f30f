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

_LONG, _SHORT, _HEAD = struct.Struct("<IIq"), struct.Struct("<IIi"), struct.Struct("<II")
_WHOLE = {"INT64": (_LONG, 8), "INT32": (_SHORT, 4), "UNIX_TIMESTAMP": (_LONG, 8)}
"""What packs a key of a type, behind the type's number and the bytes that the key takes."""
_TEXT = {"STRING", "BYTES"}
_NUMBERS = dict(ValueType.Enum.items())


class EntityKeys:
    """The keys of one view's entities, byte for byte as Feast serialises them."""

    def __init__(self, view: FeatureView) -> None:
        """Read the join keys of `view` and their types."""
        self._view = view.name
        kinds = {field.name: field.dtype.to_value_type().name for field in view.entity_columns}
        self._alone = not kinds or list(kinds) == [DUMMY_ENTITY_ID]
        self._kinds = dict(sorted(kinds.items())) or {DUMMY_ENTITY_ID: "STRING"}
        self._prefix = serialize_entity_key_prefix(list(self._kinds), 3)

    @property
    def names(self) -> list[str]:
        """The join keys that the key is made of; none where the view has no entity."""
        return [] if self._alone else list(self._kinds)

    def of(self, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
        """Return the key of each of N entities.

        Args:
            columns: [N] values by join key; those that the view lacks are passed over.

        Raises:
            UsageError: a join key has no column, or a value of another type.
        """
        if self._alone:
            count = len(next(iter(columns.values()), ()))
            columns = {DUMMY_ENTITY_ID: [DUMMY_ENTITY_VAL] * count}
        missing = [name for name in self._kinds if name not in columns]
        if missing:
            message = f"view {self._view!r} is keyed by {missing[0]!r}, which is not given"
            raise UsageError(message)
        parts = [_serialised(name, kind, columns[name]) for name, kind in self._kinds.items()]
        if len(parts) == 1:
            return [self._prefix + part for part in parts[0]]
        return [self._prefix + b"".join(part) for part in zip(*parts, strict=True)]


def _serialised(name: str, kind: str, values: Sequence[Any]) -> list[bytes]:
    try:
        number = _NUMBERS[kind]
        if kind in _WHOLE:
            whole, size = _WHOLE[kind]
            return [whole.pack(number, size, value) for value in values]
        if kind in _TEXT:
            text = [v.encode() if kind == "STRING" else v for v in values]
            return [_HEAD.pack(number, len(value)) + value for value in text]
    except (struct.error, AttributeError, TypeError) as error:
        message = f"join key {name!r} is declared {kind} and was given something else: {error}"
        raise UsageError(message) from error
    message = f"join key {name!r} is declared {kind}, which Feast cannot serialise"
    raise UsageError(message)
