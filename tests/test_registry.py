"""A registry in a PostgreSQL that ends connections, stops, or is away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml
from feast import Entity, ValueType
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from feastrain.errors import FeastrainError
from feastrain.stores import registry
from feastrain.stores.feature_repo import open_store
from online_stores import postgres, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that PostgreSQL keeps its data."""
    return tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[dict[str, Any]]:
    """The PostgreSQL that the registry is in."""
    with postgres(home) as keys:
        yield keys


@pytest.fixture
def store(
    server: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FeatureStore]:
    """A store on it that gives up soon."""
    monkeypatch.setattr(registry, "AWAY_SECONDS", 1.0)
    monkeypatch.setattr(registry, "STATEMENT_SECONDS", 0.5)
    opened = open_store(repo(tmp_path, server["host"], server["user"]))
    yield opened
    opened.registry.write_engine.dispose()


def repo(folder: Path, host: str, user: str) -> Path:
    """Write the configuration of a store whose registry is at `host`."""
    config = {
        "project": "test",
        "provider": "local",
        "registry": {
            "registry_type": "sql",
            "path": f"postgresql+psycopg://{user}@/postgres?host={host}&connect_timeout=2",
            "cache_ttl_seconds": 0,
        },
        "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    return folder


def register(store: FeatureStore, name: str) -> None:
    """Write an entity to the registry, and read it."""
    entity = Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
    store.registry.apply_entity(entity, store.project)
    assert name == store.registry.get_entity(name, store.project).name


def test_connections_that_were_ended_are_made_anew(
    store: FeatureStore, server: dict[str, Any]
) -> None:
    """No call sees that the server ended all of them; and none is left open."""
    address = {"host": server["host"], "user": server["user"], "dbname": "postgres"}
    ours = " FROM pg_stat_activity WHERE application_name = 'feastrain-registry'"
    with psycopg.connect(**address, autocommit=True) as beside:
        register(store, "first")
        before = beside.execute("SELECT count(*)" + ours).fetchone()
        for number in range(10):
            beside.execute("SELECT pg_terminate_backend(pid)" + ours)
            register(store, f"e{number}")
        assert before == beside.execute("SELECT count(*)" + ours).fetchone()


def test_a_registry_that_is_stopped_is_told_in_a_line(store: FeatureStore, home: Path) -> None:
    """It says so in time, without a statement and its parameters; then it goes on."""
    register(store, "before")
    with stopped(home):
        started = time.monotonic()
        with pytest.raises(FeastrainError, match=r"^the registry does not answer: .+$") as told:
            register(store, "during")
        assert time.monotonic() - started < 8
    assert "INSERT" not in str(told.value)
    register(store, "after")


def test_a_registry_that_is_away_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the store says so."""
    monkeypatch.setattr(registry, "AWAY_SECONDS", 0.3)
    away = repo(tmp_path, str(tmp_path), "nobody")
    with pytest.raises(FeastrainError, match=r"^the registry does not answer: .+No such file"):
        open_store(away)


def test_a_statement_that_is_wrong_is_told_as_the_database_does(store: FeatureStore) -> None:
    """It is no server that is away."""
    with (
        store.registry.write_engine.connect() as connection,
        pytest.raises(ProgrammingError, match="nothing"),
    ):
        connection.execute(text("SELECT * FROM nothing"))


def test_a_registry_in_sqlite_is_connected_to_as_it_would_be(tmp_path: Path) -> None:
    """What is done for PostgreSQL is not done to it."""
    path = repo(tmp_path, "", "") / "feature_store.yaml"
    config = yaml.safe_load(path.read_text())
    config["registry"]["path"] = f"sqlite:///{tmp_path / 'registry.db'}"
    path.write_text(yaml.safe_dump(config))
    opened = open_store(tmp_path)
    register(opened, "first")
    opened.registry.write_engine.dispose()
