"""A primary that dies, freezes or is cut off: what it acknowledged is there, once, afterwards."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from clients import Client
from nodes import require, until
from patroni_cluster import PatroniCluster
from shop_on_postgres import Shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from outcomes import Outcome

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
FAULTS = {
    "killed": "kill -9 of the primary's node",
    "frozen": "the primary's node frozen",
    "cut off": "the primary's node cut off from all",
    "cut from peers": "the primary cut off from its peers, not from its clients",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PatroniCluster]:
    """Three members, synchronous."""
    require("etcd", "patroni", "iptables")
    with PatroniCluster(tmp_path_factory.mktemp("patroni") / "cluster").up() as running:
        yield running


@pytest.fixture(scope="module")
def shop(cluster: PatroniCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A store in the cluster."""
    made = Shop(tmp_path_factory.mktemp("shop") / "repo", cluster.keys, None)
    with cluster.connect(cluster.primary() or 0) as connection:
        made.fill(connection)
    yield made
    made.close()


@contextmanager
def working(shop: Shop) -> Iterator[list[Client]]:
    """Have one client of each kind work for the length of the block."""
    clients = [
        Client("online write", shop.writer()),
        Client("online read", shop.reader()),
        Client("offline read", shop.trainer()),
        Client("materialise", shop.materialiser()),
        Client("registry write", shop.registrar()),
    ]
    for client in clients:
        client.start()
    try:
        for client in clients:
            until(lambda c=client: len(c.went_well) > 2, f"{client.name} works", 60)
        yield clients
    finally:
        for client in clients:
            client.stop()


def inflicted(cluster: PatroniCluster, fault: str, node: int) -> AbstractContextManager[None]:
    """Do something to a node for the length of a block."""
    does = {
        "killed": cluster.killed,
        "frozen": cluster.nodes.frozen,
        "cut off": cluster.nodes.cut_off,
        "cut from peers": cluster.nodes.cut_from_peers,
    }
    return does[fault](node)


@pytest.mark.parametrize("stalled", [False, True], ids=["", "stalled"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_primary_fails(
    cluster: PatroniCluster,
    shop: Shop,
    outcome_of: Callable[[str, str], Outcome],
    times: int,
    fault: str,
    *,
    stalled: bool,
) -> None:
    """Every client works again; nothing that was acknowledged is lost, stale or there twice."""
    told = FAULTS[fault] + (", and a standby stalled" if stalled else "")
    outcome = outcome_of("postgres", told)
    for _ in range(times):
        once(cluster, shop, fault, outcome, stalled=stalled)
    assert outcome.times == outcome.survived
    assert {"lost": 0, "written twice": 0, "stale reads": 0} == outcome.wrong


def once(
    cluster: PatroniCluster, shop: Shop, fault: str, outcome: Outcome, *, stalled: bool
) -> None:
    """Inject one fault under load, and look at what became of everything."""
    cluster.settle()
    shop.forget()
    primary = cluster.primary()
    assert primary is not None
    with working(shop) as clients:
        with ExitStack() as stall:
            if stalled:
                stall.enter_context(cluster.stalled(cluster.standbys()[1]))
                time.sleep(0.5)
            began = time.monotonic()
            with inflicted(cluster, fault, primary):
                until(lambda: cluster.primary() not in {None, primary}, "another primary", 60)
                stall.close()  # else no standby could confirm what the new primary is told
                again = time.monotonic()
                for client in clients:
                    until(lambda c=client: c.well_since(again), f"{client.name} works again", 60)
        time.sleep(2)  # the old primary is back, and knows no better for a moment
    cluster.settle()
    with cluster.connect(cluster.primary() or 0) as connection:
        lost, twice = shop.lost(connection)
    shop.close()
    broke = {client.name: client.broke[:1] for client in clients if client.broke}
    outcome.add(
        {"lost": lost, "written twice": twice, "stale reads": len(shop.stale)},
        {client.name: client.outage(began) for client in clients},
        survived=not broke,
    )
    assert not broke


def test_a_hundred_ended_backends_leak_no_connection(
    cluster: PatroniCluster, shop: Shop, outcome_of: Callable[[str, str], Outcome]
) -> None:
    """Each call after it is answered by a connection made anew; none is left behind."""
    outcome = outcome_of("postgres", "a backend ended, 100 times in a row")
    cluster.settle()
    shop.stale.clear()
    calls = [shop.reader(), shop.trainer(), shop.registrar()]
    ours = "FROM pg_stat_activity WHERE application_name LIKE 'feastrain%'"
    with cluster.connect(cluster.primary() or 0) as connection:
        for call in calls:
            call()
        (before,) = connection.execute(f"SELECT count(*) {ours}").fetchone() or (0,)
        for number in range(100):
            connection.execute(f"SELECT pg_terminate_backend(pid) {ours}")
            calls[number % 3]()
        (after,) = connection.execute(f"SELECT count(*) {ours}").fetchone() or (0,)
    outcome.add({}, {}, survived=after <= before, times=100)
    assert after <= before
