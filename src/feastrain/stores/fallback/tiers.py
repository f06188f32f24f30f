"""Two stores as one: the primary answers, the durable store knows.

Writes go to the durable store, then to the primary. Reads go to the primary within its deadline,
then to the durable store for what the primary did not say, which is told to the primary again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
import weakref
from typing import TYPE_CHECKING

from feastrain.stores.fallback.breaker import Breaker, BreakerLimits
from feastrain.stores.fallback.counters import Counters
from feastrain.stores.fallback.ledger import Generation

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

    from feastrain.stores.fallback.layout import Layout, Packed
    from feastrain.stores.fallback.ledger import Chunk, Ledger
    from feastrain.stores.fallback.primary import Primary

ABSENT = b""
"""What the primary holds for a key that the durable store does not have."""
NONE = Generation(0, b"")
"""Of a view that was never written."""
LOG = logging.getLogger(__name__)
REFRESH_SECONDS = 1.0
"""How soon a reader hears that another process's write did not reach the primary."""


class Tiers:
    """A durable store with a primary before it, or alone."""

    def __init__(
        self,
        ledger: Ledger,
        primary: Primary | None,
        limits: BreakerLimits | None = None,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        """Put them together; nothing is connected to before it is needed."""
        self.ledger = ledger
        self._refresh_seconds = refresh_seconds
        self._primary = primary
        self._lock = threading.Lock()
        self._breaker = Breaker(limits or BreakerLimits(), random.random)
        self._counters = Counters(primary.name if primary else "none", ledger.name)
        self._counters.breaker(self._breaker.state)
        self._generations: dict[str, Generation] = {}
        self._moved: set[str] = set()
        """Views that were read from a primary that their generation does not belong to."""
        self._greeted = False
        self._watched = False
        self._renewals = 0
        self._layouts: dict[int, Layout] = {}
        self._closed = threading.Event()

    def read(
        self, wanted: Mapping[str, Sequence[bytes]], tally: Counter[str] | None = None
    ) -> dict[str, list[bytes | None]]:
        """Return the row of each key, None where there is none, by table.

        Args:
            wanted: keys by table.
            tally: told how many keys the `primary` answered, and how many the `fallback`; without
                a primary it is the `store` that answers.

        Raises:
            FeastrainError: what the primary did not answer, the durable store did not either.
        """
        if self._primary is None:
            return self._durably(wanted, tally)
        if not self._watched:
            self._watch()
        generations = self._generations
        told = self._from_primary(wanted, generations)
        if told is None:
            return self._durably(wanted, tally)
        answer, unknown = _by_table(wanted, told)
        missing = sum(map(len, unknown.values())) if unknown else 0
        self._counters.answered(self._primary.name, len(told) - missing)
        if tally is not None:
            tally["primary"] += len(told) - missing
            tally["fallback"] += missing
        if unknown:
            self._complete(answer, wanted, unknown, generations)
        for table, rows in answer.items():
            if ABSENT in rows:
                answer[table] = [row or None for row in rows]
        return answer

    def write(
        self,
        table: str,
        layout: Layout,
        keys: Sequence[bytes],
        packed: Packed,
        chunk: Chunk | None = None,
    ) -> None:
        """Write rows of distinct keys; when this returns they are durable, and are read.

        Raises:
            FeastrainError: the durable store does not answer; the primary was not told either.
        """
        if self._primary is None:
            self.ledger.write(table, layout, keys, packed, chunk)
            return
        self._greet(self._primary)
        known = self._primary.incarnation
        written = self.ledger.write(table, layout, keys, packed, chunk, known)
        told = self._tell(table, written.generation.number, keys, written.rows)
        generation = self.ledger.settle(table, written, told, chunk)
        if generation != written.generation:
            with self._lock:
                self._renewals += 1
                self._generations = {**self._generations, table: generation}

    def layout(self, number: int) -> Layout:
        """Return the layout with a number.

        Raises:
            FeastrainError: the durable store does not answer.
        """
        if number not in self._layouts:
            self._layouts = self.ledger.layouts()
        return self._layouts[number]

    def refresh(self) -> None:
        """Hear which generation each view is in."""
        with self._lock:
            renewals, moved, self._moved = self._renewals, self._moved, set()
        incarnation = b"" if self._primary is None else self._primary.incarnation
        generations = self.ledger.generations(moved, incarnation)
        with self._lock:
            if self._renewals == renewals:  # else what was read may be older than what is known
                self._generations = generations

    def breaker_state(self) -> str:
        """Return whether the primary is asked: `closed`, `open` or `half-open`."""
        return self._breaker.state

    def close(self) -> None:
        """Let go of all connections."""
        self._closed.set()
        self.ledger.close()
        if self._primary is not None:
            self._primary.close()

    def _greet(self, primary: Primary) -> None:
        """Learn, before the first write, which incarnation a new view is to belong to."""
        if not self._greeted:
            self._greeted = True
            with contextlib.suppress(*primary.errors):  # it is asked again when it is told rows
                primary.ping()

    def _watch(self) -> None:
        """Hear of generations from now on."""
        self.refresh()
        with self._lock:
            if not self._watched:
                self._watched = True
                watch = (weakref.ref(self), self._closed, self._refresh_seconds)
                threading.Thread(target=_keep_fresh, args=watch, daemon=True).start()

    def _from_primary(
        self, wanted: Mapping[str, Sequence[bytes]], generations: Mapping[str, Generation]
    ) -> list[bytes | None] | None:
        """Return what the primary holds for each key, or None where it is not believed."""
        assert self._primary is not None
        if not self._allowed():
            return None
        known = [(generations.get(table, NONE), table, keys) for table, keys in wanted.items()]
        names = [(_name(table, generation.number), keys) for generation, table, keys in known]
        try:
            for _ in range(2):
                incarnation = self._primary.incarnation
                found = self._primary.get(_keys(names, incarnation))
                if self._primary.incarnation != incarnation:
                    continue
                self._went(well=True)
                moved = [t for g, t, _ in known if g.incarnation != incarnation and g != NONE]
                if not moved:
                    return found
                with self._lock:
                    self._moved.update(moved)
                return None
            self._went(well=True)
        except self._primary.errors as error:
            self._went(well=False)
            self._counters.failed("read", error)
            LOG.warning("%s: %s; read from %s", self._primary.place, error, self.ledger.place)
        return None

    def _durably(
        self, wanted: Mapping[str, Sequence[bytes]], tally: Counter[str] | None
    ) -> dict[str, list[bytes | None]]:
        found = self.ledger.read(wanted)
        keys = sum(map(len, wanted.values()))
        self._counters.answered(self.ledger.name, keys)
        if tally is not None:
            tally["store" if self._primary is None else "fallback"] += keys
        return {table: [found[table].get(key) for key in keys] for table, keys in wanted.items()}

    def _complete(
        self,
        answer: dict[str, list[bytes | None]],
        wanted: Mapping[str, Sequence[bytes]],
        unknown: Mapping[str, list[bytes]],
        generations: Mapping[str, Generation],
    ) -> None:
        """Fill what the primary did not know from the durable store, and tell the primary."""
        found = self.ledger.read(unknown)
        self._counters.answered(self.ledger.name, sum(map(len, unknown.values())))
        for table, keys in unknown.items():
            rows = found[table]
            answer[table] = [
                rows.get(key) if row is None else row
                for key, row in zip(wanted[table], answer[table], strict=True)
            ]
            if table in generations:
                told = [rows.get(key, ABSENT) for key in keys]
                self._tell(table, generations[table].number, keys, told)

    def _tell(
        self, table: str, generation: int, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bytes | None:
        """Write rows to the primary, and return the incarnation that has them, if any has."""
        assert self._primary is not None
        if not self._allowed():
            return None
        names = [(_name(table, generation), keys)]
        try:
            self._primary.ping()  # within a read's deadline: a write may wait for longer
            incarnation = self._primary.incarnation
            self._primary.put(_keys(names, incarnation), rows, incarnation)
        except self._primary.errors as error:
            self._went(well=False)
            self._counters.failed("write", error)
            LOG.warning("%s: %s; %s has the rows", self._primary.place, error, self.ledger.place)
            return None
        self._went(well=True)
        return incarnation if self._primary.incarnation == incarnation else None

    def _allowed(self) -> bool:
        if self._breaker.state == "closed":
            return True
        with self._lock:
            allowed = self._breaker.allows(time.monotonic())
            self._counters.breaker(self._breaker.state)
        return allowed

    def _went(self, *, well: bool) -> None:
        if well and self._breaker.healthy:
            return
        with self._lock:
            if well:
                self._breaker.succeeded()
            else:
                self._breaker.failed(time.monotonic())
            self._counters.breaker(self._breaker.state)


def _name(table: str, generation: int) -> bytes:
    return b"%s:%d:" % (table.encode(), generation)


def _keys(names: list[tuple[bytes, Sequence[bytes]]], incarnation: bytes) -> list[bytes]:
    prefixed = [(incarnation + b":" + name, keys) for name, keys in names]
    return [prefix + key for prefix, keys in prefixed for key in keys]


def _by_table(
    wanted: Mapping[str, Sequence[bytes]], told: list[bytes | None]
) -> tuple[dict[str, list[bytes | None]], dict[str, list[bytes]]]:
    """Return what was told of the keys of each table, and the keys of which nothing was."""
    answer: dict[str, list[bytes | None]] = {}
    unknown: dict[str, list[bytes]] = {}
    start = 0
    for table, keys in wanted.items():
        rows = answer[table] = told[start : start + len(keys)]
        start += len(keys)
        if None in rows:
            pairs = zip(keys, rows, strict=True)
            unknown[table] = list(dict.fromkeys(key for key, row in pairs if row is None))
    return answer, unknown


def _keep_fresh(tiers: weakref.ref[Tiers], closed: threading.Event, seconds: float) -> None:
    from feastrain.errors import FeastrainError

    while not closed.wait(seconds):
        held = tiers()
        if held is None:
            return
        try:
            held.refresh()
        except FeastrainError as error:  # no write is durable either, so what is known still holds
            LOG.warning("%s", error)
        del held
