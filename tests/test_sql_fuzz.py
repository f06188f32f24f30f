"""Names and values that were made up to be SQL are names and values, on a real PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from feast_repos import ASOF, START, history, hours, make_store
from feastrain.stores.asof import AsofOfflineStoreConfig
from feastrain.stores.asof.postgres import PostgresTable, write
from feastrain.stores.asof.source import Window
from feastrain.stores.fallback.config import PostgresFallback
from feastrain.stores.fallback.postgres import PostgresLedger
from online_stores import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore

pytestmark = pytest.mark.integration

PIECES = st.sampled_from(
    [
        "DROP TABLE canary", "'", '"', '""', "';", '";', "--", "/*", "*/", "$$", "\\", "\\'", "%",
        "%s", "%(x)s", "{", "}", "{views}", "(", ")", ",", ";", " ", "\n", "\t", "SELECT", "OR 1=1",
        "ü", "🦆", "\u2019", "0",
    ]
)  # fmt: skip
PLAIN = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
HOSTILE = st.lists(PIECES | PLAIN, min_size=1, max_size=12).map("".join)
NAMES = HOSTILE.filter(lambda name: len(name.encode()) <= 63)
VIEWS = st.lists(PIECES | PLAIN, min_size=1, max_size=40).map("".join)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
FEW = settings(max_examples=40, derandomize=True, database=None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A PostgreSQL with a table that nobody may touch."""
    with postgres(tmp_path_factory.mktemp("postgres")) as place:
        with connect(place) as connection:
            connection.execute("CREATE TABLE canary (alive boolean)")
            connection.execute("INSERT INTO canary VALUES (true)")
        yield place


def connect(server: dict[str, Any]) -> psycopg.Connection[Any]:
    """Open a connection beside those of the stores."""
    return psycopg.connect(PostgresFallback(**server).conninfo())


def tables(server: dict[str, Any]) -> set[str]:
    """Return the tables of the server, after seeing that the canary lives."""
    with connect(server) as connection:
        assert [(True,)] == connection.execute("SELECT * FROM canary").fetchall()
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in found} - {"canary"}


def offline(server: dict[str, Any]) -> AsofOfflineStoreConfig:
    """Return the configuration of an offline store."""
    place = {key: value for key, value in server.items() if key != "type"}
    return AsofOfflineStoreConfig.model_validate({"db_schema": "public", "max_conn": 1, **place})


def source(table: str) -> Any:
    """Describe a table as Feast's source does."""
    quoted = sql.Identifier(table).as_string()
    return SimpleNamespace(
        name=table,
        get_table_query_string=lambda: quoted,
        get_table_query_string_with_alias=lambda: f"{quoted} AS source",
    )


@FEW
@given(
    names=st.lists(NAMES, min_size=3, max_size=3, unique=True),
    rows=st.lists(st.tuples(NUMBERS, HOSTILE), min_size=1, max_size=4),
)
def test_columns_may_be_called_anything(
    server: dict[str, Any], names: list[str], rows: list[tuple[int, str]]
) -> None:
    """What is written by the offline store is read by it, whatever names and values are."""
    key, feature, event = names
    given_rows = pa.table(
        {
            key: pa.array([number for number, _ in rows]),
            feature: pa.array([text for _, text in rows]),
            event: hours(*range(len(rows))),
        }
    )
    config, destination = offline(server), source("fuzzed")
    write(config, destination, given_rows, "create")
    try:
        least, most = min(rows)[0], max(rows)[0]
        window = Window(event, START, START + timedelta(days=1), {key: (least, most)})
        read = PostgresTable(destination, config, names, window).columns(names)
        assert given_rows.to_pylist() == read.to_pylist()
        assert {"fuzzed"} == tables(server)
    finally:
        with connect(server) as connection:
            connection.execute("DROP TABLE fuzzed")


@pytest.fixture(scope="module")
def store(server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A view keyed by text, on a table."""
    with connect(server) as connection:
        connection.execute("CREATE TABLE facts (item text, units bigint, event timestamptz)")
        connection.execute("INSERT INTO facts VALUES ('a', 1, %s)", (START,))
    item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)
    view = FeatureView(
        name="facts",
        entities=[item],
        ttl=timedelta(0),
        source=PostgreSQLSource(name="facts", table="facts", timestamp_field="event"),
        schema=[Field(name="item", dtype=String), Field(name="units", dtype=Int64)],
    )
    config = {**server, "type": ASOF, "max_conn": 1}
    return make_store(tmp_path_factory.mktemp("fuzzed"), [item, view], config)


RESERVED = {"item", "event_timestamp", "units"}


@FEW
@given(
    items=st.lists(HOSTILE, min_size=1, max_size=5),
    extra=NAMES.filter(lambda name: name not in RESERVED),
)
def test_an_entity_frame_may_hold_anything(
    store: FeatureStore, server: dict[str, Any], items: list[str], extra: str
) -> None:
    """Its values are looked up and not run, and its other columns come back as they were."""
    frame = pa.table(
        {
            "item": ["a", *items],
            extra: ["kept", *items],
            "event_timestamp": hours(*[1] * (len(items) + 1)),
        }
    )
    answer = history(store, frame, ["facts:units"])
    assert [1, *(1 if item == "a" else None for item in items)] == answer["units"].to_pylist()
    assert frame[extra].to_pylist() == answer[extra].to_pylist()
    assert {"facts"} <= tables(server)


@settings(FEW, max_examples=25)
@given(view=VIEWS, other=VIEWS, key=st.binary(max_size=40), row=st.binary(max_size=40))
def test_online_tables_may_be_called_anything(
    server: dict[str, Any], view: str, other: str, key: bytes, row: bytes
) -> None:
    """Two views, however named, have a table each; what one holds is not the other's."""
    before = tables(server)
    ledger = PostgresLedger(PostgresFallback(**server))
    names = sorted({view, other})
    try:
        ledger.create(names)
        with ledger.transaction() as run:
            ledger.upsert(run, view, [(key, 1, row)])
        found = ledger.read({name: [key] for name in names})
        assert {name: {key: row} if name == view else {} for name in names} == found
        ledger.drop(names)
        ledgers = {
            f"feastrain_online_{kind}" for kind in ("generations", "layouts", "writes", "chunks")
        }
        assert before | ledgers == tables(server)
    finally:
        ledger.close()


def test_long_names_that_are_not_ascii_stay_apart(server: dict[str, Any]) -> None:
    """PostgreSQL cuts a name after 63 bytes: what tells two of them apart is before that."""
    ledger = PostgresLedger(PostgresFallback(**server))
    quoted = {ledger.quoted("ü" * 60 + end) for end in ("a", "b")}
    ledger.close()
    assert 2 == len(quoted)
    assert all(len(name.partition(".")[2].strip('"').encode()) <= 63 for name in quoted)
