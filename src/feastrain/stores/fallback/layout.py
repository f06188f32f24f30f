"""Rows of a feature view as bytes: packed and unpacked by columns, without protobuf.

A row is a head of fixed width and a tail. The head holds when the value happened, the number of
the write that it came from, when it was created, the layout's number, one bit for each feature
that is null, and a slot for each feature: the number itself, or how many bytes of the tail are
its own. Rows without text are as wide as each other, so N of them side by side are a table that
NumPy reads where it lies.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type

from feastrain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Cells = tuple[Any, NDArray[np.bool_]]
    """Values of one feature, and which of them are null: an array of a fixed type, or a list of
    bytes."""

NEVER = np.iinfo(np.int64).min
"""The time of what was never created."""
HEAD = [("event", "<i8"), ("version", "<i8"), ("created", "<i8"), ("layout", "<u4")]
FIXED = {
    "INT32": ("int32_val", "<i4"),
    "INT64": ("int64_val", "<i8"),
    "FLOAT": ("float_val", "<f4"),
    "DOUBLE": ("double_val", "<f8"),
    "BOOL": ("bool_val", "?"),
    "UNIX_TIMESTAMP": ("unix_timestamp_val", "<i8"),
}
"""Feast's types that a slot holds: their field of Feast's `Value`, and their NumPy type."""
TEXT = {"STRING": "string_val"}
RAW = dict.fromkeys(("BYTES", "PDF_BYTES", "IMAGE_BYTES"), "bytes_val")


@dataclass(frozen=True)
class Rows:
    """N rows of one view, by column; what is not found has no meaning in the other fields."""

    found: NDArray[np.bool_]
    """[N]"""
    event: NDArray[np.int64]
    """[N] microseconds since 1970 in UTC."""
    values: dict[str, NDArray[Any]]
    """[N] of each feature: of its own type, or objects (str, bytes, Feast's `Value`)."""
    null: dict[str, NDArray[np.bool_]]
    """[N] of each feature: whether there is no value."""

    def arrow(self, name: str, kind: pa.DataType, *, whole: bool = False) -> pa.Array:
        """Return one feature as an Arrow array; what is not found is null.

        Args:
            name: of the feature.
            kind: of the array.
            whole: every row was found.
        """
        values, null = self.values[name], self.null[name]
        if not whole:
            null = null | ~self.found
        if pa.types.is_timestamp(kind):  # Feast keeps seconds
            return pa.array(values, type=pa.timestamp("s"), mask=null).cast(kind)
        if values.dtype != object:
            return pa.array(values, type=kind, mask=null if np.count_nonzero(null) else None)
        return pa.array(
            [
                None if missing else _plain(value)
                for value, missing in zip(values, null, strict=True)
            ],
            type=kind,
        )


class Layout:
    """How the rows of a view with these features lie."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        """Lay out `fields`: names of features, each with the name of its Feast type."""
        self.fields = tuple((name, kind) for name, kind in fields)
        self.json = json.dumps(self.fields)
        self.number = zlib.crc32(self.json.encode()) or 1
        self._place = {name: index for index, (name, _) in enumerate(self.fields)}
        self._kinds = dict(self.fields)
        self._variable = [name for name, kind in self.fields if kind not in FIXED]
        slots = [
            (f"{index}", FIXED[kind][1] if kind in FIXED else "<u4")
            for index, (_, kind) in enumerate(self.fields)
        ]
        null = ("null", "u1", (-(-len(self.fields) // 8),))
        self.head = np.dtype([*HEAD, null, *slots])
        # The same bytes, slots of one type side by side as one array: they are read at once.
        alike = groupby(kind for _, kind in slots)
        runs = [(str(run), kind, (len([*of]),)) for run, (kind, of) in enumerate(alike)]
        self._whole = np.dtype([*HEAD, null, *runs])
        self._runs = [name for name, _, _ in runs]

    @classmethod
    def of_json(cls, fields: str) -> Layout:
        """Return the layout that said so of itself in `json`."""
        return cls(json.loads(fields))

    def pack(
        self, cells: Mapping[str, Cells], event: NDArray[np.int64], created: NDArray[np.int64]
    ) -> Packed:
        """Pack N rows; a feature without cells is null in all of them.

        Args:
            cells: values by feature, see `cells_of_values`.
            event: [N] microseconds.
            created: [N] microseconds, or NEVER.
        """
        count = len(event)
        rows = np.zeros(count, dtype=self.head)
        rows["event"], rows["created"], rows["layout"] = event, created, self.number
        null = np.ones((count, len(self.fields)), dtype=bool)
        tails = [cells[name][0] for name in self._variable if name in cells]
        for name, (values, missing) in cells.items():
            place = self._place[name]
            null[:, place] = missing
            if self._kinds[name] in FIXED:
                rows[f"{place}"] = np.where(missing, 0, values)
            else:
                rows[f"{place}"] = [len(value) for value in values]
        rows["null"] = np.packbits(null, axis=1, bitorder="little")
        return Packed(rows, [b"".join(parts) for parts in zip(*tails, strict=True)])

    def unpack(self, rows: Sequence[bytes], features: Sequence[str], now: Layout) -> Rows:
        """Return `features` of N rows that were packed in this layout; all are found.

        A feature that the view got, or changed the type of, since then is null: its type is told
        by the layout of `now`.
        """
        width = self.head.itemsize
        whole = b"".join([row[:width] for row in rows] if self._variable else rows)
        table = np.frombuffer(whole, dtype=self._whole) if rows else np.zeros(0, dtype=self._whole)
        null, none = table["null"], np.zeros(len(rows), dtype=bool)
        whether = None
        if null.tobytes().strip(b"\0"):
            whether = [*np.unpackbits(null, axis=1, bitorder="little").view(bool).T]
        slots = [slot for run in self._runs for slot in table[run].T.copy()]
        found, event, place = ~none, table["event"].copy(), self._place
        if now.number == self.number and not self._variable:
            values = {name: slots[place[name]] for name in features}
            if whether is None:
                return Rows(found, event, values, dict.fromkeys(features, none))
            return Rows(found, event, values, {name: whether[place[name]] for name in features})
        values, missing = {}, {}
        starts = self._starts(slots) if self._variable else {}
        for name in features:
            kind = now._kinds[name]
            if self._kinds.get(name) != kind:
                values[name] = np.zeros(len(rows), dtype=FIXED[kind][1] if kind in FIXED else "O")
                missing[name] = ~none
                continue
            slot = slots[place[name]]
            missing[name] = none if whether is None else whether[place[name]]
            values[name] = slot if name not in starts else self._cut(name, rows, starts[name], slot)
        return Rows(found, event, values, missing)

    def _starts(self, slots: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
        starts = {}
        start = np.full(len(slots[0]), self.head.itemsize, dtype=np.int64)
        for name in self._variable:
            starts[name] = start
            start = start + slots[self._place[name]]
        return starts

    def _cut(
        self, name: str, rows: Sequence[bytes], starts: NDArray[np.int64], sizes: NDArray[Any]
    ) -> NDArray[Any]:
        kind = self._kinds[name]
        spans = zip(rows, starts.tolist(), sizes.tolist(), strict=True)
        parts: list[Any] = [row[start : start + size] for row, start, size in spans]
        if kind in TEXT:
            parts = [part.decode() for part in parts]
        elif kind not in RAW:
            parts = [Value.FromString(part) for part in parts]
        values = np.empty(len(parts), dtype=object)
        values[:] = parts
        return values

    def values_of(self, rows: Rows, name: str) -> list[Value]:
        """Return one feature of some rows as Feast's `Value`s; the empty one is null."""
        kind = self._kinds[name]
        values, null = rows.values[name].tolist(), rows.null[name].tolist()
        field = FIXED[kind][0] if kind in FIXED else TEXT.get(kind) or RAW.get(kind)
        return [
            Value() if missing else Value(**{field: value}) if field else value
            for value, missing in zip(values, null, strict=True)
        ]

    def cells_of_values(self, name: str, values: Sequence[Value]) -> Cells:
        """Return Feast's `Value`s of one feature as cells.

        Raises:
            DataError: a value is not of the feature's type.
        """
        kind = self._kinds[name]
        field = FIXED[kind][0] if kind in FIXED else TEXT.get(kind) or RAW.get(kind)
        holds = [value.WhichOneof("val") for value in values]
        null = np.array([held in {None, "null_val"} for held in holds], dtype=bool)
        wrong = {held for held, missing in zip(holds, null, strict=True) if not missing} - {field}
        if field is None:
            return [
                b"" if missing else value.SerializeToString()
                for value, missing in zip(values, null, strict=True)
            ], null
        if wrong:
            message = f"feature {name!r} is declared {kind} and was given a {min(wrong)}"
            raise DataError(message)
        if kind in FIXED:
            return np.array([getattr(v, field) for v in values], dtype=FIXED[kind][1]), null
        found = [getattr(value, field) for value in values]
        return [value.encode() for value in found] if kind in TEXT else found, null


@dataclass(frozen=True)
class Packed:
    """N rows, to be given the number of their write."""

    heads: NDArray[Any]
    """[N] of the layout's head."""
    tails: list[bytes]
    """[N], or empty where no feature has one."""

    def __len__(self) -> int:
        return len(self.heads)

    def rows(self, version: int) -> list[bytes]:
        """Return the rows of write number `version`."""
        self.heads["version"] = version
        whole, width = self.heads.tobytes(), self.heads.itemsize
        heads = [whole[at : at + width] for at in range(0, len(whole), width)]
        if not self.tails:
            return heads
        return [head + tail for head, tail in zip(heads, self.tails, strict=True)]


def _plain(value: Any) -> Any:
    return feast_value_type_to_python_type(value) if isinstance(value, Value) else value


def layout_number(row: bytes) -> int:
    """Return the number of the layout that a row was packed in."""
    return int.from_bytes(row[24:28], "little")


def scattered(parts: Sequence[tuple[NDArray[np.int64], Rows]], count: int) -> Rows:
    """Put rows that were unpacked apart at their places among `count`."""
    if len(parts) == 1 and len(parts[0][0]) == count:
        return parts[0][1]
    found = np.zeros(count, dtype=bool)
    event = np.full(count, NEVER)
    values: dict[str, NDArray[Any]] = {}
    null: dict[str, NDArray[np.bool_]] = {}
    for at, rows in parts:
        found[at] = True
        event[at] = rows.event
        for name, column in rows.values.items():
            whole = values.get(name)
            if whole is None:
                values[name] = whole = np.zeros(count, dtype=column.dtype)
                null[name] = np.ones(count, dtype=bool)
            whole[at] = column
            null[name][at] = rows.null[name]
    return Rows(found, event, values, null)
