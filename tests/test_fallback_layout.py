"""Keys and rows as bytes: Feast's own keys, and every value back as it was given."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from feast.types import Bool, Bytes, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from feastrain.errors import DataError, UsageError
from feastrain.stores.fallback.keys import EntityKeys
from feastrain.stores.fallback.layout import NEVER, Layout, layout_number, scattered

if TYPE_CHECKING:
    from collections.abc import Mapping

INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
HELD: Mapping[str, tuple[str, st.SearchStrategy[Any]]] = {
    "INT32": ("int32_val", INT32),
    "INT64": ("int64_val", INT64),
    "FLOAT": ("float_val", st.floats(width=32, allow_nan=False)),
    "DOUBLE": ("double_val", st.floats(allow_nan=False)),
    "BOOL": ("bool_val", st.booleans()),
    "UNIX_TIMESTAMP": ("unix_timestamp_val", INT64),
    "STRING": ("string_val", st.text(max_size=5)),
    "BYTES": ("bytes_val", st.binary(max_size=5)),
    "INT64_LIST": ("int64_list_val", st.lists(INT64, max_size=3).map(lambda v: Int64List(val=v))),
}
"""Types of features: the field of Feast's `Value` that holds one, and what it holds."""


@st.composite
def tables(draw: st.DrawFn) -> tuple[Layout, dict[str, list[Value]]]:
    """A layout, and a few rows of values of its features, null ones among them."""
    kinds = draw(st.lists(st.sampled_from(sorted(HELD)), min_size=1, max_size=10))
    count = draw(st.integers(0, 4))
    columns = {}
    for number, kind in enumerate(kinds):
        field, held = HELD[kind]
        value = st.builds(lambda v, field=field: Value(**{field: v}), held) | st.just(Value())
        columns[f"f{number}"] = draw(st.lists(value, min_size=count, max_size=count))
    return Layout([(f"f{number}", kind) for number, kind in enumerate(kinds)]), columns


def packed(layout: Layout, columns: dict[str, list[Value]], event: Any) -> list[bytes]:
    """Pack some columns as write number 7, created an hour after their events."""
    cells = {name: layout.cells_of_values(name, values) for name, values in columns.items()}
    return layout.pack(cells, event, event + 3600).rows(7)


@settings(max_examples=40)
@given(tables(), st.data())
def test_rows_come_back_as_they_were_packed(
    made: tuple[Layout, dict[str, list[Value]]], data: st.DataObject
) -> None:
    """Any values of any types, of the features that were given and are asked for."""
    layout, columns = made
    count = len(columns["f0"])
    event = np.arange(count, dtype=np.int64) * 10 - 5
    given = data.draw(st.sets(st.sampled_from(sorted(columns))))
    rows = packed(layout, {name: columns[name] for name in sorted(given)}, event)
    assert count == len(rows)
    assert [layout.number] * count == [layout_number(row) for row in rows]
    for row, moment in zip(rows, event, strict=True):
        expected = (int(moment), 7, int(moment) + 3600)
        assert expected == tuple(np.frombuffer(row[:24], "<i8").tolist())
    asked = data.draw(st.lists(st.sampled_from(sorted(columns)), unique=True))
    read = Layout.of_json(layout.json).unpack(rows, asked, layout)
    assert event.tolist() == read.event.tolist()
    assert [True] * count == read.found.tolist()
    for name in asked:
        expected = columns[name] if name in given else [Value()] * count
        assert expected == layout.values_of(read, name)


@settings(max_examples=40)
@given(tables(), st.data())
def test_rows_of_several_layouts_are_put_at_their_places(
    made: tuple[Layout, dict[str, list[Value]]], data: st.DataObject
) -> None:
    """What a view got since a row was packed is null in it; what nobody packed is not found."""
    now, columns = made
    count = len(columns["f0"])
    before = Layout([("f0", "STRING" if now.fields[0][1] == "INT64" else "INT64"), *now.fields[1:]])
    kinds = data.draw(st.lists(st.sampled_from([0, 1, 2]), min_size=count, max_size=count))
    event = np.arange(count, dtype=np.int64)
    later = dict(list(columns.items())[1:])
    rows = [packed(now, columns, event), packed(before, later, event)]
    parts = []
    for kind, layout in enumerate((now, before)):
        places = np.flatnonzero(np.array(kinds) == kind)
        chosen = [rows[kind][place] for place in places]
        parts.append((places, layout.unpack(chosen, list(columns), now)))
    read = scattered(parts, count)
    assert [kind < 2 for kind in kinds] == read.found.tolist()
    expected = [place if kind < 2 else NEVER for place, kind in enumerate(kinds)]
    assert expected == read.event.tolist()
    for name, values in columns.items():
        there = [kind == 0 or (kind == 1 and name != "f0") for kind in kinds]
        told = [value if known else Value() for value, known in zip(values, there, strict=True)]
        assert told == now.values_of(read, name)


def test_rows_of_one_layout_are_left_as_they_are() -> None:
    """Nothing is copied where there is nothing to put together."""
    layout = Layout([("units", "INT64")])
    cells = {"units": (np.array([1, 2]), np.zeros(2, dtype=bool))}
    made = layout.pack(cells, np.array([0, 0]), np.array([NEVER, NEVER]))
    rows = layout.unpack(made.rows(1), ["units"], layout)
    assert scattered([(np.arange(2), rows)], 2) is rows


def test_a_column_of_rows_is_an_arrow_array() -> None:
    """Of the type that is asked for; what is null or was not found is null."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    expected = {
        "units": pa.array([1, None, None], pa.int32()),
        "name": pa.array(["ü", None, None], pa.large_string()),
        "past": pa.array([[1, 2], None, None], pa.list_(pa.int64())),
        "since": pa.array([moment, None, None], pa.timestamp("us", "UTC")),
    }
    layout = Layout(
        [
            ("units", "INT64"),
            ("name", "STRING"),
            ("past", "INT64_LIST"),
            ("since", "UNIX_TIMESTAMP"),
        ]
    )
    full = {
        "units": Value(int64_val=1),
        "name": Value(string_val="ü"),
        "past": Value(int64_list_val=Int64List(val=[1, 2])),
        "since": Value(unix_timestamp_val=int(moment.timestamp())),
    }
    columns = {name: [value, Value()] for name, value in full.items()}
    rows = packed(layout, columns, np.zeros(2, dtype=np.int64))
    whole = layout.unpack(rows, list(full), layout)
    some = scattered([(np.array([0, 1]), whole)], 3)
    old = dataclasses.replace(whole, found=np.zeros(2, dtype=bool))
    for name, column in expected.items():
        assert column.equals(some.arrow(name, column.type))
        assert column[:2].equals(whole.arrow(name, column.type, whole=True))
        assert column[1:].equals(old.arrow(name, column.type))


def test_a_value_of_another_type_is_refused() -> None:
    """One line says which feature, what it is declared as, and what it was given."""
    told = r"^feature 'f' is declared INT64 and was given a bool_val$"
    with pytest.raises(DataError, match=told):
        Layout([("f", "INT64")]).cells_of_values("f", [Value(), Value(bool_val=True)])


KEYS: Mapping[str, tuple[Any, ValueType, str, st.SearchStrategy[Any]]] = {
    "whole": (Int64, ValueType.INT64, "int64_val", INT64),
    "small": (Int32, ValueType.INT32, "int32_val", INT32),
    "moment": (UnixTimestamp, ValueType.UNIX_TIMESTAMP, "unix_timestamp_val", INT64),
    "text": (String, ValueType.STRING, "string_val", st.text(max_size=5)),
    "flag": (Bool, ValueType.BOOL, "bool_val", st.booleans()),
    "raw": (Bytes, ValueType.BYTES, "bytes_val", st.binary(max_size=5)),
}
"""Join keys: type, kind, the field of Feast's `Value`, and what it holds; no flag is one."""


def view_of(*keys: str) -> FeatureView:
    """A view with these join keys."""
    return FeatureView(
        name="goods",
        entities=[Entity(name=key, join_keys=[key], value_type=KEYS[key][1]) for key in keys],
        schema=[Field(name=key, dtype=KEYS[key][0]) for key in keys],
        source=FileSource(name="goods", path="goods.parquet", timestamp_field="event"),
    )


@given(
    st.lists(st.sampled_from(sorted(KEYS.keys() - {"flag"})), min_size=1, max_size=3, unique=True),
    st.data(),
)
def test_keys_are_the_bytes_that_feast_writes(names: list[str], data: st.DataObject) -> None:
    """For join keys of any types, in any order; a column that is no key is passed over."""
    count = data.draw(st.integers(0, 3))
    columns = {
        name: data.draw(st.lists(KEYS[name][3], min_size=count, max_size=count)) for name in names
    }
    expected = [
        serialize_entity_key(
            EntityKey(
                join_keys=names,
                entity_values=[Value(**{KEYS[name][2]: columns[name][row]}) for name in names],
            ),
            entity_key_serialization_version=3,
        )
        for row in range(count)
    ]
    keys = EntityKeys(view_of(*names))
    assert sorted(names) == keys.names
    assert expected == keys.of({"other": [0] * count, **columns})


def test_a_view_without_entities_has_one_key() -> None:
    """As Feast has it, for as many rows as the other columns have."""
    dummy = EntityKey(join_keys=["__dummy_id"], entity_values=[Value(string_val="")])
    key = serialize_entity_key(dummy, entity_key_serialization_version=3)
    keys = EntityKeys(view_of())
    assert [] == keys.names
    assert [key, key] == keys.of({"shop": [1, 2]})
    assert [] == keys.of({})


@pytest.mark.parametrize(
    ("view", "columns", "told"),
    [
        (view_of("whole"), {"text": ["a"]}, "view 'goods' is keyed by 'whole', which is not given"),
        (view_of("whole"), {"whole": ["a"]}, "join key 'whole' is declared INT64 and was given"),
        (view_of("text"), {"text": [1]}, "join key 'text' is declared STRING and was given"),
        (view_of("raw"), {"raw": [1]}, "join key 'raw' is declared BYTES and was given"),
        (view_of("flag"), {"flag": [True]}, "key 'flag' is declared BOOL, which Feast cannot"),
    ],
)
def test_a_key_that_is_missing_or_of_another_type_is_refused(
    view: FeatureView, columns: dict[str, Any], told: str
) -> None:
    """One line says which join key, and what it is declared as."""
    with pytest.raises(UsageError, match=told):
        EntityKeys(view).of(columns)
