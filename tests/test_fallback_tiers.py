"""Two stores as one, on SQLite and a cache that fails: what was written last is what is read."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import REGISTRY

from fakes import Cache, FakePrimary
from feastrain.errors import FeastrainError
from feastrain.stores.fallback.breaker import BreakerLimits
from feastrain.stores.fallback.layout import NEVER, Layout, Packed
from feastrain.stores.fallback.ledger import (
    LEASE_SECONDS,
    MOST_ATTEMPTS,
    Chunk,
    Generation,
    Written,
)
from feastrain.stores.fallback.sqlite import SqliteLedger
from feastrain.stores.fallback.tiers import Tiers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LAYOUT = Layout([("units", "INT64")])
AT_ONCE = BreakerLimits(failures=2, first_seconds=0.0)
KEYS = [b"a", b"b", b"c"]
TABLES = ["goods", "shops"]


def packed(units: list[int], events: list[int]) -> Packed:
    """Rows of one feature."""
    cells = {"units": (np.array(units, dtype=np.int64), np.zeros(len(units), dtype=bool))}
    event = np.array(events, dtype=np.int64)
    return LAYOUT.pack(cells, event, np.full(len(events), NEVER))


def units_of(row: bytes | None) -> int | None:
    """What a row says, None where there is none."""
    return None if row is None else int(LAYOUT.unpack([row], ["units"], LAYOUT).values["units"][0])


class Clients(RuleBasedStateMachine):
    """Two processes read and write two views; their cache dies, forgets and comes back older.

    At times there are two of it, and each process takes another for the one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.cache = Cache()
        self.other = Cache(run=1_000_000)
        self.primaries = [FakePrimary(self.cache), FakePrimary(self.cache)]
        self.clients = [self._client(primary) for primary in self.primaries]
        self.clients[0].ledger.create(TABLES)
        self.stale = [False, False]
        self.saved: dict[bytes, bytes] = {}
        self.known: dict[tuple[str, bytes], tuple[int, int]] = {}
        self.writes = 0
        for table in TABLES:  # of a view that was never written the cache is told nothing
            self.write(0, table, {b"a": 0})

    def _client(self, primary: Any) -> Tiers:
        ledger = SqliteLedger(Path(self.folder.name) / "online.db")
        return Tiers(ledger, primary, AT_ONCE, refresh_seconds=3600)  # when a rule says so

    def teardown(self) -> None:
        """Close the stores."""
        for client in self.clients:
            client.close()
        self.folder.cleanup()

    tables = st.sampled_from(TABLES)
    clients_ = st.sampled_from([0, 1])
    rows = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3), min_size=1)

    def _noted(self, table: str, rows: dict[bytes, int]) -> Packed:
        """Number a write in the model, where a row at least as late replaces what is there."""
        self.writes += 1
        for key, event in rows.items():
            if event >= self.known.get((table, key), (-1, 0))[0]:
                self.known[table, key] = (event, self.writes)
        return packed([self.writes] * len(rows), list(rows.values()))

    @rule(client=clients_, table=tables, rows=rows)
    def write(self, client: int, table: str, rows: dict[bytes, int]) -> None:
        """Some rows, later or earlier than what is there."""
        self.clients[client].write(table, LAYOUT, list(rows), self._noted(table, rows))
        self.stale[1 - client] = True

    @rule(client=clients_, table=tables, rows=rows)
    def write_and_die(self, client: int, table: str, rows: dict[bytes, int]) -> None:
        """The cache is not told; the lease of the note runs out."""
        ledger, known = self.clients[client].ledger, self.primaries[client].incarnation
        ledger.write(table, LAYOUT, list(rows), self._noted(table, rows), None, known)
        with ledger.transaction() as run:
            query = "UPDATE feastrain_online_writes SET started = started - %s"
            run.execute(query, (LEASE_SECONDS + 1,))
        self.stale = [True, True]

    @rule(client=clients_, asked=st.lists(st.sampled_from(KEYS), max_size=5), both=st.booleans())
    def read(self, client: int, asked: list[bytes], both: bool) -> None:
        """What was written last, of one view or both; the cache knows once it was asked and told.

        Where there are two, one refresh may be to hear that the other was asked meanwhile.
        """
        tiers = self.clients[client]
        if self.stale[client]:
            tiers.refresh()
            self.stale[client] = False
        wanted = dict.fromkeys(TABLES if both else TABLES[:1], asked)
        expected = {
            table: [self.known.get((table, key), (0, None))[1] for key in asked] for table in wanted
        }
        count = len(asked) * len(wanted)
        for turn in ("the other's", "another", "to be told", "told"):
            tally: Counter[str] = Counter()
            found = tiers.read(wanted, tally)
            assert expected == {table: [*map(units_of, rows)] for table, rows in found.items()}
            assert count >= tally.total()  # a key asked for twice is read once
            if not self.primaries[client].cache.up:
                assert Counter(fallback=count) == tally
            elif turn == "told":
                assert Counter(primary=count) == tally
                assert "closed" == tiers.breaker_state()
            elif turn != "to be told":
                tiers.refresh()

    @rule()
    def go_away(self) -> None:
        """The cache answers nothing."""
        self.cache.up = False

    @rule()
    def come_back(self) -> None:
        """It answers again, and may have missed writes."""
        self.cache.up = True

    @rule(client=clients_)
    def part(self, client: int) -> None:
        """One process is led to the other cache, which has what it had."""
        caches = [self.cache, self.other]
        self.primaries[client].cache = caches[self.primaries[client].cache is self.cache]

    @rule()
    def forget(self) -> None:
        """It drops all rows, as one that is full does."""
        self.cache.rows.clear()

    @rule()
    def save(self) -> None:
        """It saves what it has."""
        self.saved = dict(self.cache.rows)

    @rule()
    def start_again(self) -> None:
        """Another run of it has the rows that were saved last."""
        self.cache.run += 1
        self.cache.rows = dict(self.saved)

    @invariant()
    def no_note_is_left(self) -> None:
        """Whatever was written in the end is settled, but for what a refresh has yet to see."""
        with self.clients[0].ledger.transaction() as run:
            query = "SELECT count(*) FROM feastrain_online_writes"
            assert all(self.stale) or (0,) == run.execute(query, ()).fetchone()


Clients.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestClients = Clients.TestCase


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    """A durable store with the tables of two views."""
    made = SqliteLedger(tmp_path / "online.db")
    made.create(TABLES)
    yield made
    made.close()


def test_without_a_cache_the_store_alone_answers(ledger: SqliteLedger) -> None:
    """And is told as the one that did."""
    tiers = Tiers(ledger, None)
    tiers.write("goods", LAYOUT, [b"a"], packed([5], [0]))
    tally: Counter[str] = Counter()
    (rows,) = tiers.read({"goods": [b"a", b"b", b"a"]}, tally).values()
    assert [5, None, 5] == [*map(units_of, rows)]
    assert {"store": 3} == dict(tally)
    assert {"goods": 0} != ledger.generations()


def test_a_process_without_a_cache_is_believed_over_that_of_others(tmp_path: Path) -> None:
    """It cannot tell their cache what it writes, so it tells them that they know nothing."""
    primary: Any = FakePrimary(Cache())
    cached, alone = (
        Tiers(SqliteLedger(tmp_path / "online.db"), which, AT_ONCE) for which in (primary, None)
    )
    cached.ledger.create(["goods"])
    for writer, units in ((cached, 1), (alone, 2), (alone, 3)):
        writer.write("goods", LAYOUT, [b"a"], packed([units], [units]))
        cached.refresh()
        for tiers in (cached, alone):
            assert units == units_of(tiers.read({"goods": [b"a"]})["goods"][0])
    with alone.ledger.transaction() as run:
        query = "SELECT count(*) FROM feastrain_online_writes"
        assert (0,) == run.execute(query, ()).fetchone()
    cached.close()
    alone.close()


def test_a_view_that_was_never_written_has_no_row(ledger: SqliteLedger) -> None:
    """The cache is told nothing of it: the next one who asks is answered by the store again."""
    cache = Cache()
    primary: Any = FakePrimary(cache)
    tiers = Tiers(ledger, primary, AT_ONCE)
    for _ in range(2):
        tally: Counter[str] = Counter()
        assert {"goods": [None]} == tiers.read({"goods": [b"a"]}, tally)
        assert ({"primary": 0, "fallback": 1}, {}) == (dict(tally), cache.rows)
    tiers.close()


def test_a_late_row_does_not_become_the_last_in_a_cache_that_dropped_it(
    ledger: SqliteLedger,
) -> None:
    """The cache is told what the store has; an event of its own is written as ever."""
    primary: Any = FakePrimary(Cache())
    tiers = Tiers(ledger, primary, AT_ONCE)
    tiers.write("goods", LAYOUT, [b"a"], packed([1], [9]))
    primary.cache.rows.clear()
    tiers.write("goods", LAYOUT, [b"a", b"b"], packed([2, 3], [5, 5]))
    tally: Counter[str] = Counter()
    rows = tiers.read({"goods": [b"a", b"b"]}, tally)["goods"]
    assert ([1, 3], {"primary": 2, "fallback": 0}) == ([*map(units_of, rows)], dict(tally))
    tiers.close()


class Restless(FakePrimary):
    """A cache that is another one each time it is asked."""

    def ping(self) -> None:
        self.cache.run += 1
        super().ping()


def test_a_cache_that_is_another_each_time_is_not_believed(ledger: SqliteLedger) -> None:
    """The store answers, and the cache is not taken for one that failed."""
    primary: Any = Restless(Cache())
    tiers = Tiers(ledger, primary, AT_ONCE)
    tiers.write("goods", LAYOUT, [b"a"], packed([5], [0]))
    tally: Counter[str] = Counter()
    assert 5 == units_of(tiers.read({"goods": [b"a"]}, tally)["goods"][0])
    assert ({"fallback": 1}, "closed") == (dict(tally), tiers.breaker_state())
    tiers.close()


def test_layouts_are_known_by_their_number(ledger: SqliteLedger) -> None:
    """Those of rows that another process wrote, too."""
    ledger.write("goods", LAYOUT, [b"a"], packed([5], [0]))
    assert LAYOUT.fields == Tiers(ledger, None).layout(LAYOUT.number).fields


def test_chunks_of_a_bulk_write_are_noted_until_it_ends(ledger: SqliteLedger) -> None:
    """By view; one that is written anew has its new digest."""
    for table, number, digest in (
        ("goods", 0, "x"),
        ("goods", 1, "y"),
        ("goods", 0, "z"),
        ("shops", 2, "w"),
    ):
        ledger.write(table, LAYOUT, [b"a"], packed([5], [0]), Chunk(number, digest))
    assert {0: "z", 1: "y"} == ledger.chunks("goods")
    ledger.forget_chunks("goods")
    assert ({}, {2: "w"}) == (ledger.chunks("goods"), ledger.chunks("shops"))


def test_a_view_that_goes_leaves_nothing(ledger: SqliteLedger) -> None:
    """No row, note, chunk or generation of its own; the other views keep theirs."""
    for table in TABLES:
        ledger.write(table, LAYOUT, [b"a"], packed([5], [0]), Chunk(0, "x"), b"one")
    ledger.drop(["goods"])
    assert ["shops"] == list(ledger.generations())
    with ledger.transaction() as run:
        for note in ("writes", "chunks"):
            query = f"SELECT view FROM feastrain_online_{note}"
            assert [("shops",)] == run.execute(query, ()).fetchall()
    with pytest.raises(FeastrainError, match=r"^SQLite at .*online.db does not answer: .*goods"):
        ledger.read({"goods": [b"a"]})
    ledger.create(["goods"])
    assert {"goods": {}} == ledger.read({"goods": [b"a"]})
    assert 5 == units_of(ledger.read({"shops": [b"a", b"b"]})["shops"][b"a"])


def test_a_write_is_settled_by_its_own_note(ledger: SqliteLedger) -> None:
    """What the cache was not told gets a new generation, of its own view alone."""
    first = ledger.write("goods", LAYOUT, [b"a"], packed([5], [0]), None, b"one")
    other = ledger.write("shops", LAYOUT, [b"a"], packed([5], [0]), None, b"one")
    before = ledger.generations()
    assert {"goods": first.generation, "shops": other.generation} == before
    assert first.generation == ledger.settle("goods", first, b"one")
    renewed = ledger.settle("shops", other, None)
    assert {"goods": first.generation, "shops": renewed} == ledger.generations()
    assert (renewed.incarnation, True) == (b"one", renewed.number != other.generation.number)


def test_a_generation_belongs_to_one_incarnation_of_the_cache(ledger: SqliteLedger) -> None:
    """Another that is told rows, or is found by a reader, begins a new one; once."""
    write = ledger.write("goods", LAYOUT, [b"a"], packed([5], [0]), None, b"one")
    moved = ledger.settle("goods", write, b"two")
    assert (b"two", True) == (moved.incarnation, moved.number != write.generation.number)
    found = ledger.generations(["goods"], b"three")["goods"]
    assert (b"three", True) == (found.incarnation, found.number != moved.number)
    assert {"goods": found} == ledger.generations(["goods"], b"three")


def errors(call: str) -> float:
    """How many calls of a cache failed so far."""
    labels = {"call": call, "error": "ConnectionError"}
    return REGISTRY.get_sample_value("feastrain_online_primary_errors_total", labels) or 0.0


def test_what_a_cache_that_is_left_alone_missed_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A write while the breaker is open is read by other processes, which hear of it by time."""
    cache = Cache()
    forever = BreakerLimits(failures=1, first_seconds=1e6, longest_seconds=1e6)
    writer, reader = (
        Tiers(SqliteLedger(tmp_path / "online.db"), primary, forever, refresh_seconds=0.01)
        for primary in cast("Any", (FakePrimary(cache), FakePrimary(cache)))
    )
    writer.ledger.create(["goods"])
    wanted = {"goods": [b"a"]}

    def read(client: Tiers) -> int | None:
        return units_of(client.read(wanted)["goods"][0])

    writer.write("goods", LAYOUT, [b"a"], packed([1], [0]))
    assert (1, 1, "closed") == (read(writer), read(reader), writer.breaker_state())
    cache.up = False
    before = errors("write"), errors("read")
    writer.write("goods", LAYOUT, [b"a"], packed([2], [1]))
    cache.up = True
    writer.write("goods", LAYOUT, [b"a"], packed([3], [2]))
    assert (3, "open") == (read(writer), writer.breaker_state())
    ends = time.monotonic() + 10
    while read(reader) != 3:
        assert time.monotonic() < ends
    assert "closed" == reader.breaker_state()
    cache.up = False
    assert 3 == read(reader)
    assert (before[0] + 1, before[1] + 1) == (errors("write"), errors("read"))
    place = f"SQLite at {tmp_path / 'online.db'}"
    told = [f"a cache: away; {place} has the rows", f"a cache: away; read from {place}"]
    assert told == caplog.messages
    writer.close()
    reader.close()


class Interrupted(SqliteLedger):
    """A store in which something happens right after generations were asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.then: Callable[[], None] = lambda: None

    def _generations(self, *asked: Any) -> dict[str, Generation]:
        told = super()._generations(*asked)
        self.then()
        return told


def test_what_is_heard_late_does_not_undo_what_is_known(tmp_path: Path) -> None:
    """A write that the cache misses while a refresh is under way; the first one and the second."""
    cache, ledger = Cache(), Interrupted(tmp_path / "online.db")
    primary: Any = FakePrimary(cache)
    tiers = Tiers(ledger, primary, AT_ONCE)
    ledger.create(["goods"])
    written = iter(range(1, 10))

    def missed() -> None:
        cache.up = False
        units = next(written)
        tiers.write("goods", LAYOUT, [b"a"], packed([units], [units]))
        cache.up = True

    def read() -> int | None:
        return units_of(tiers.read({"goods": [b"a"]})["goods"][0])

    missed()
    for units in (1, 2, 3):
        ledger.then = lambda: None
        tiers.refresh()
        assert [units, units] == [read(), read()]
        ledger.then = missed
        tiers.refresh()
    assert 4 == read()
    tiers.close()


class Passing(SqliteLedger):
    """A store whose every read fails in passing."""

    begun = 0
    bulk_retry_seconds = 0.2

    def fetch(self, table: str, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        self.begun += 1
        return super().fetch(f"none of {table}", keys)

    def transient(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.OperationalError)


def test_what_somebody_waits_for_is_begun_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of a bulk write is tried for a time; a table that is missing is told."""
    monkeypatch.setattr("feastrain.stores.retries.FIRST_SECONDS", 0.0)
    ledger = Passing(tmp_path / "online.db")
    with pytest.raises(FeastrainError, match=r"does not answer: no such table: none of goods$"):
        ledger.read({"goods": [b"a"]})
    assert MOST_ATTEMPTS == ledger.begun
    started = time.monotonic()
    written = Written(1, Generation(1, b""), [])
    for call in (
        lambda: ledger.chunks("goods"),
        lambda: ledger.forget_chunks("goods"),
        lambda: ledger.write("goods", LAYOUT, [b"a"], packed([1], [0]), Chunk(0, "x")),
        lambda: ledger.settle("goods", written, b"", Chunk(0, "x")),
    ):
        with pytest.raises(FeastrainError, match="does not answer: no such table"):
            call()
    assert time.monotonic() - started > 4 * 0.15
    ledger.missing = (sqlite3.OperationalError,)
    with pytest.raises(
        FeastrainError, match=r"lacks a table \(no such table.*\); run `feast apply`$"
    ):
        ledger.read({"goods": [b"a"]})
    ledger.close()
