"""A Redis that dies, freezes, is cut off, fills up or is far away: PostgreSQL answers instead."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
from clients import Client
from nodes import require, until
from redis_group import RedisGroup
from shop_on_postgres import Shop
from slow_link import SlowLink

from online_stores import postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from outcomes import Outcome

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
BEHIND_SECONDS = 2.0
"""A client may be a second behind another's write (`REFRESH_SECONDS`), and this machine is busy."""
PHASE_SECONDS = 4.0
FAULTS = {
    "killed": "kill -9 of the master",
    "frozen": "the master frozen",
    "cut off": "the master's node cut off from all",
    "cut from peers": "the master cut off from its peers, not from its clients",
    "full": "the master has no memory left",
    "slow": "a link to Redis of 200 ms",
}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisGroup]:
    """A master, two replicas, three Sentinels."""
    require("redis-server", "redis-sentinel", "iptables")
    with RedisGroup(tmp_path_factory.mktemp("redis")).up() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The PostgreSQL behind it, which lives through all of it."""
    with postgres(tmp_path_factory.mktemp("postgres")) as keys:
        yield keys


@contextmanager
def suffering(group: RedisGroup, fault: str, link: SlowLink) -> Iterator[None]:
    """Do something to the master for the length of the block."""
    master = group.master()
    assert master is not None
    if fault == "killed":
        group.kill_server(master)
        yield
        group.start(master, group.master() or 0)
    elif fault == "full":
        client = group.client(master)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)
    elif fault == "slow":
        link.seconds = 0.2
        yield
        link.seconds = 0.0
    else:
        does = {
            "frozen": group.frozen,
            "cut off": group.nodes.cut_off,
            "cut from peers": group.nodes.cut_from_peers,
        }
        with does[fault](master):
            yield


@pytest.mark.parametrize("fault", FAULTS)
def test_redis_fails(
    group: RedisGroup,
    server: dict[str, Any],
    tmp_path: Any,
    outcome_of: Callable[[str, str], Outcome],
    times: int,
    fault: str,
) -> None:
    """No request fails and no value is wrong while PostgreSQL lives; Redis is used again after."""
    outcome = outcome_of("redis", FAULTS[fault])
    master = group.nodes.addresses[group.master() or 0]
    primary: dict[str, Any] = {
        "redis_type": "redis_sentinel",
        "connection_string": group.connection_string,
    }
    with SlowLink(master, 6379).up() as link:
        if fault == "slow":
            primary = {"redis_type": "redis", "connection_string": f"127.0.0.1:{link.port}"}
        shop = Shop(tmp_path / "repo", server, primary)
        with psycopg.connect(
            host=server["host"], user=server["user"], dbname="postgres", autocommit=True
        ) as connection:
            shop.fill(connection)
            for _ in range(times):
                once(group, shop, fault, link, outcome, connection)
    assert outcome.times == outcome.survived
    assert {"requests failed": 0, "wrong values": 0, "lost": 0} == outcome.wrong


def once(
    group: RedisGroup, shop: Shop, fault: str, link: SlowLink, outcome: Outcome, connection: Any
) -> None:
    """Inject one fault under load, and compare three phases: before, during, after."""
    writer = Client("write", shop.writer())
    reader = Client("read", shop.reader(BEHIND_SECONDS))
    clients = [writer, reader]
    for client in clients:
        client.start()
    until(lambda: all(len(client.went_well) > 2 for client in clients), "all clients work", 60)
    time.sleep(1)
    marks = [time.monotonic()]
    time.sleep(PHASE_SECONDS)
    marks.append(time.monotonic())
    with suffering(group, fault, link):
        time.sleep(PHASE_SECONDS)
        marks.append(time.monotonic())
    group.settle()
    time.sleep(1)
    marks.append(time.monotonic())
    time.sleep(PHASE_SECONDS)
    marks.append(time.monotonic())
    for client in clients:
        client.stop()
    lost, twice = shop.lost(connection)
    wrong = {
        "requests failed": sum(c.refused.total() + len(c.broke) for c in clients),
        "wrong values": len(shop.stale),
        "lost": lost + twice,
    }
    outcome.add(
        wrong,
        {
            f"{client.name} p99 {phase}": p99(client, start, end)
            for client in clients
            for phase, start, end in (
                ("before", marks[0], marks[1]),
                ("during", marks[1], marks[2]),
                ("after", marks[3], marks[4]),
            )
        },
        survived=not any(wrong.values()) and len(reader.went_well) > 10,
    )
    shop.stale.clear()
    shop.close()


def p99(client: Client, start: float, end: float) -> float:
    """Return how long 99 of 100 calls took at most, of those that were under way in a phase."""
    calls = client.seconds
    took = [seconds for began, seconds in calls if began < end and began + seconds > start]
    return float(np.percentile(took, 99))
