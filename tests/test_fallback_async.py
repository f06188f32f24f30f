"""Feast's awaited calls on the online store with a fallback: the answers of those that block."""

from __future__ import annotations

import asyncio
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from feast_repos import START
from feastrain.errors import FeastrainError
from feastrain.stores.feature_repo import online_store_of
from online_stores import FALLBACK, FEATURES, Redis, goods, postgres, repo, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

pytestmark = pytest.mark.integration
COUNT = 60
ENTITIES = [{"shop": n // 7, "item": f"ü{n}"} for n in (*range(COUNT), 9_999)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where PostgreSQL keeps its data."""
    return tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="module")
def servers(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, Any]]]:
    """Our store in three forms, as its configuration."""
    redis = Redis(tmp_path_factory.mktemp("redis"))
    primary = {"type": "redis", "connection_string": redis.address}
    soon = {"pool_seconds": 0.5, "retry_seconds": 0.5, "read_seconds": 0.5}
    with postgres(home) as server:
        yield {
            "redis-postgres": {"type": FALLBACK, "primary": primary, "fallback": server},
            "postgres": {"type": FALLBACK, "fallback": {**server, **soon}},
            "sqlite": {"type": FALLBACK, "fallback": {"type": "sqlite"}},
        }
    redis.kill()


@pytest.fixture
def store(tmp_path: Path, servers: Any, form: str) -> Iterator[FeatureStore]:
    """A store with goods of every type."""
    opened: FeatureStore = repo(tmp_path, servers[form], goods(COUNT))
    opened.write_to_online_store("goods", frame(0))
    yield opened
    opened.teardown()
    online_store_of(opened).close()


FORMS = pytest.mark.parametrize("form", ["redis-postgres", "postgres", "sqlite"])


def frame(units: int) -> pd.DataFrame:
    """All goods, a second later for each of `units`."""
    rows = pd.DataFrame({name: column.to_pylist() for name, column in goods(COUNT).items()})
    return rows.assign(event=START + timedelta(seconds=units), units=units)


def told(answer: Any) -> bytes:
    """Return a whole answer, byte for byte."""
    return bytes(answer.proto.SerializeToString(deterministic=True))


@FORMS
def test_awaited_reads_are_those_that_block(store: FeatureStore) -> None:
    """Forty at once, of every type, nulls and an absent entity: the same bytes."""
    expected = told(store.get_online_features(FEATURES, ENTITIES))

    async def read() -> list[bytes]:
        asked = [store.get_online_features_async(FEATURES, ENTITIES) for _ in range(40)]
        return [told(answer) for answer in await asyncio.gather(*asked)]

    assert [expected] * 40 == asyncio.run(read())


@FORMS
def test_awaited_writes_are_those_that_block(store: FeatureStore) -> None:
    """What was awaited is read, and the later of many writes stays."""

    async def write() -> None:
        asked = [store.write_to_online_store_async("goods", frame(n)) for n in (3, 1, 4, 2)]
        await asyncio.gather(*asked)

    asyncio.run(write())
    awaited = told(store.get_online_features(FEATURES, ENTITIES))
    units = store.get_online_features(["goods:units"], ENTITIES).to_dict()["units"]
    assert [4] * COUNT + [None] == units
    store.write_to_online_store("goods", frame(4))
    assert awaited == told(store.get_online_features(FEATURES, ENTITIES))


@pytest.mark.parametrize("form", ["postgres"])
def test_the_loop_goes_on_while_a_server_is_stopped(store: FeatureStore, home: Path) -> None:
    """A read that waits ends in its one line; meanwhile other tasks run."""

    async def read() -> tuple[BaseException | Any, float]:
        reading = asyncio.ensure_future(store.get_online_features_async(FEATURES, ENTITIES))
        loop = asyncio.get_running_loop()
        longest, last = 0.0, loop.time()
        while not reading.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, loop.time() - last), loop.time()
        return (await asyncio.gather(reading, return_exceptions=True))[0], longest

    with stopped(home):
        error, longest = asyncio.run(read())
    assert isinstance(error, FeastrainError)
    assert "does not answer" in str(error)
    assert longest < 0.25


@pytest.mark.parametrize("form", ["redis-postgres"])
def test_feasts_own_server_reads_writes_and_ends(store: FeatureStore) -> None:
    """It awaits our store where it can, and its end as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient
        from feast.feature_server import get_app

    asked = {
        "features": ["goods:units"],
        "entities": {name: [row[name] for row in ENTITIES[:3]] for name in ("shop", "item")},
    }
    online = online_store_of(store)
    with warnings.catch_warnings(), TestClient(get_app(store)) as client:
        warnings.simplefilter("ignore")
        answer = client.post("/get-online-features", json=asked)
        assert online._threads._running is not None
    assert 200 == answer.status_code
    names, results = answer.json()["metadata"]["feature_names"], answer.json()["results"]
    assert [0, 0, 0] == results[names.index("units")]["values"]
    assert online._tiers is None
