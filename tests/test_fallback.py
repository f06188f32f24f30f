"""The online store with a fallback, on real servers: Feast's answers, whoever gives them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from feast_repos import START
from feastrain.errors import DataError, UsageError
from feastrain.stores.fallback.bulk import write_view
from feastrain.stores.fallback.config import RedisPrimary
from feastrain.stores.fallback.primary import Primary
from feastrain.stores.feature_repo import online_store_of, quiet_offline_store
from online_stores import FALLBACK, FEATURES, TYPES, Redis, goods, postgres, repo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

pytestmark = pytest.mark.integration

ROWS = 300
END = START + timedelta(days=30)
ENTITIES = [{"shop": n // 7, "item": f"ü{n}"} for n in (*range(40), 7, 9_999)]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve Redis, and say where."""
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server.address
    server.kill()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Serve PostgreSQL, as keys of a store's configuration."""
    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


class Servers:
    """Our store in each of its forms, as its configuration; a server starts when it is needed."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def __getitem__(self, form: str) -> dict[str, Any]:
        config: dict[str, Any] = {"type": FALLBACK, "fallback": {"type": "sqlite"}}
        if form.endswith("postgres"):
            config["fallback"] = self._request.getfixturevalue("database")
        if form.startswith("redis"):
            address = self._request.getfixturevalue("redis")
            config["primary"] = {"type": "redis", "connection_string": address}
        return config


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Servers:
    """Whatever servers a test asks for."""
    return Servers(request)


FORMS = pytest.mark.parametrize("form", ["redis-postgres", "redis-sqlite", "postgres", "sqlite"])


def answers(store: FeatureStore, features: list[str] = FEATURES) -> bytes:
    """Read through Feast and return its whole answer, byte for byte."""
    answer = store.get_online_features(features, ENTITIES)
    return bytes(answer.proto.SerializeToString(deterministic=True))


@pytest.fixture(scope="module")
def feasts(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The same rows in Feast's own SQLite store."""
    folder = tmp_path_factory.mktemp("feasts")
    store: FeatureStore = repo(
        folder, {"type": "sqlite", "path": str(folder / "online.db")}, goods(ROWS)
    )
    with quiet_offline_store():
        store.materialize(START, END)
    return store


@FORMS
@pytest.mark.parametrize("by_column", [False, True])
def test_feast_gets_the_bytes_of_its_own_store(
    tmp_path: Path, servers: Any, feasts: FeatureStore, form: str, *, by_column: bool
) -> None:
    """Values of every type, nulls, absent entities and statuses, written Feast's way or ours."""
    store = repo(tmp_path, servers[form], goods(ROWS))
    if by_column:
        online = online_store_of(store)
        view = store.get_feature_view("goods")
        assert ROWS == write_view(store, view, online.tiers(store.config), (START, END))
    else:
        with quiet_offline_store():
            store.materialize(START, END)
    assert answers(feasts) == answers(store)
    assert answers(feasts) == answers(store)  # the second time from the primary
    some = FEATURES[2:5]
    assert answers(feasts, some) == answers(store, some)
    store.teardown()


@FORMS
def test_later_rows_stay_whatever_the_order_of_writes(
    tmp_path: Path, servers: Any, form: str
) -> None:
    """An older row changes nothing; one as late as what is there, a correction, replaces it."""
    rows = goods(3)
    store = repo(tmp_path, servers[form], rows)
    pushed = []
    for hour, units in ((5, 1), (4, 2), (5, 3), (6, 4)):
        frame = pd.DataFrame({name: column.to_pylist() for name, column in rows.items()})
        frame["event"] = START + timedelta(hours=hour)
        frame["units"] = units
        store.write_to_online_store("goods", frame)
        pushed.append(read(store, [0, 1, 2])["units"])
    assert [[1] * 3, [1] * 3, [3] * 3, [4] * 3] == pushed
    store.teardown()


@FORMS
def test_columns_are_the_values_that_feast_answers(tmp_path: Path, servers: Any, form: str) -> None:
    """Arrays, nulls and absent entities of the reader are those of Feast's answer."""
    store = written(tmp_path, servers[form])
    online, view = online_store_of(store), store.get_feature_view("goods")
    entities = {name: [row[name] for row in ENTITIES] for name in ("shop", "item")}
    (rows,) = online.reader(store.config, [(view, list(TYPES))]).read(entities)
    told = store.get_online_features(FEATURES, ENTITIES).to_dict()
    for name in TYPES:
        if name in {"past", "since"}:
            continue  # lists stay Feast's values, times numbers of seconds
        values = zip(rows.values[name].tolist(), rows.null[name], rows.found, strict=True)
        actual = [None if null or not found else value for value, null, found in values]
        assert told[name] == actual
    store.teardown()


@FORMS
def test_rows_past_their_ttl_are_not_found(tmp_path: Path, servers: Any, form: str) -> None:
    """Feast's read counts age from now, the reader from the time that it is asked for."""
    store = written(tmp_path, servers[form], ttl=timedelta(hours=2))
    assert [None] * 3 == store.get_online_features(FEATURES, ENTITIES[:3]).to_dict()["units"]
    online, view = online_store_of(store), store.get_feature_view("goods")
    reader = online.reader(store.config, [(view, ["units"])])
    entities = {"shop": [0, 0, 0], "item": ["ü0", "ü1", "ü2"]}  # of hours 0, 1 and 2
    (rows,) = reader.read(entities, START + timedelta(hours=3))
    assert [False, True, True] == rows.found.tolist()
    store.teardown()


@FORMS
def test_a_view_that_changes_keeps_the_rows_it_has(tmp_path: Path, servers: Any, form: str) -> None:
    """A new feature is null until it is written; the others keep their values."""
    store = written(tmp_path, servers[form])
    before = read(store, [1, 2, 3])
    changed = store.get_feature_view("goods")
    changed.features = [field for field in changed.features if field.name != "rank"]
    added = type(changed.features[0])(name="added", dtype=changed.features[0].dtype)
    changed.features = [added, *changed.features]
    online = online_store_of(store)
    reader = online.reader(store.config, [(changed, ["added", "units", "name"])])
    (rows,) = reader.read({"shop": [0, 0, 0], "item": ["ü1", "ü2", "ü3"]})
    assert [True] * 3 == rows.null["added"].tolist()
    assert before["units"] == rows.values["units"].tolist()
    assert before["name"] == rows.values["name"].tolist()
    store.teardown()


def test_a_bulk_write_that_was_killed_goes_on(
    tmp_path: Path, servers: Any, monkeypatch: Any
) -> None:
    """Chunks that are there as they would be written are not written again."""
    monkeypatch.setattr("feastrain.stores.fallback.bulk.CHUNK_ROWS", 100)
    store = repo(tmp_path, servers["redis-postgres"], goods(ROWS))
    online, view = online_store_of(store), store.get_feature_view("goods")
    tiers = online.tiers(store.config)

    def stop(_: str, rows: int) -> None:
        if rows == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_view(store, view, tiers, (START, END), stop)
    table = "test_goods_packed"
    assert [0, 1] == sorted(tiers.ledger.chunks(table))
    versions = version_of(tiers, table)
    assert ROWS == write_view(store, view, tiers, (START, END))
    assert versions + 1 == version_of(tiers, table)
    assert {} == tiers.ledger.chunks(table)
    expected = goods(ROWS)["units"].to_pylist()
    assert expected == read(store, list(range(ROWS)))["units"]
    store.teardown()


def test_many_keys_are_read_in_several_statements(
    tmp_path: Path, servers: Any, monkeypatch: Any
) -> None:
    """In the order that they are asked for."""
    store = written(tmp_path, servers["postgres"])
    numbers = list(range(ROWS))[::-1]
    expected = read(store, numbers)
    monkeypatch.setattr("feastrain.stores.fallback.postgres.MOST_KEYS", 7)
    assert expected == read(store, numbers)
    assert goods(ROWS)["units"].to_pylist()[::-1] == expected["units"]
    store.teardown()


def test_values_and_keys_of_another_type_are_refused(tmp_path: Path, servers: Any) -> None:
    """One line says which feature or key, and what it is declared as."""
    store = written(tmp_path, servers["sqlite"])
    online, view = online_store_of(store), store.get_feature_view("goods")
    reader = online.reader(store.config, [(view, ["units"])])
    with pytest.raises(UsageError, match="join key 'shop' is declared INT64"):
        reader.read({"shop": ["one"], "item": ["ü1"]})
    with pytest.raises(UsageError, match="keyed by 'item', which is not given"):
        reader.read({"shop": [1]})
    rows = goods(3) | {"units": ["one", "two", "three"]}
    broken = repo(tmp_path / "broken", servers["sqlite"], rows)
    tiers = online_store_of(broken).tiers(broken.config)
    with pytest.raises(DataError, match="goods:units is declared INT64 and does not fit"):
        write_view(broken, broken.get_feature_view("goods"), tiers, (START, END))
    store.teardown()


def test_of_rows_that_come_together_the_latest_stays(tmp_path: Path, servers: Any) -> None:
    """In whatever order they are given, and whatever stood there before."""
    rows = goods(2) | {"name": goods(2)["name"].dictionary_encode()}
    store = repo(tmp_path, servers["sqlite"], rows)
    tiers = online_store_of(store).tiers(store.config)
    assert 2 == write_view(store, store.get_feature_view("goods"), tiers, (START, END))
    frame = pd.DataFrame({name: column.to_pylist() for name, column in goods(1).items()})
    again = pd.concat([frame] * 2, ignore_index=True).assign(
        units=[8, 9], event=[END + timedelta(days=2), END + timedelta(days=1)]
    )
    store.write_to_online_store("goods", again)
    assert ([8], ["é1"]) == (read(store, [0])["units"], read(store, [1])["name"])
    store.teardown()


def written(folder: Path, config: dict[str, Any], **view: Any) -> FeatureStore:
    """Write rows of every type to a store of this configuration."""
    store: FeatureStore = repo(folder, config, goods(ROWS), **view)
    online = online_store_of(store)
    assert online is not None
    write_view(store, store.get_feature_view("goods"), online.tiers(store.config), (START, END))
    return store


def read(store: FeatureStore, numbers: list[int]) -> dict[str, list[Any]]:
    """Read some goods through Feast."""
    entities = [{"shop": n // 7, "item": f"ü{n}"} for n in numbers]
    answer: dict[str, list[Any]] = store.get_online_features(FEATURES, entities).to_dict()
    return answer


def version_of(tiers: Any, table: str) -> int:
    """Return how often a table was written."""
    with tiers.ledger.transaction() as run:
        query = "SELECT version FROM feastrain_online_generations WHERE view = %s"
        return int(run.execute(query, (table,)).fetchone()[0])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere", "connection_string: 'nowhere' is not HOST:PORT, OPTION=VALUE or a URL"),
        ("redis:6379,here:now", "connection_string: 'here:now' is not HOST:PORT"),
        ("ssl=true", "connection_string names no HOST:PORT"),
    ],
)
def test_a_connection_string_that_is_none_is_refused(address: str, message: str) -> None:
    """One line says which part of it."""
    with pytest.raises(UsageError, match=message):
        Primary(RedisPrimary(connection_string=address))
