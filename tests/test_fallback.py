"""The online store with a fallback, on real servers: Feast's answers, whichever store gives them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from feast_repos import START, hours
from feastrain.errors import DataError, UsageError
from feastrain.stores.fallback.bulk import write_view
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
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Our store in each of its forms, as its configuration."""
    redis = Redis(tmp_path_factory.mktemp("redis"))
    primary = {"type": "redis", "connection_string": redis.address}
    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield {
            "redis-postgres": {"type": FALLBACK, "primary": primary, "fallback": server},
            "redis-sqlite": {"type": FALLBACK, "primary": primary, "fallback": {"type": "sqlite"}},
            "postgres": {"type": FALLBACK, "fallback": server},
            "sqlite": {"type": FALLBACK, "fallback": {"type": "sqlite"}},
        }
    redis.kill()


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
