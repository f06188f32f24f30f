"""The durable store: rows by entity key, and the ledger of what a primary may not have heard of.

Every write is numbered and, in the same transaction, noted in the ledger; the note is struck out
when the primary has the rows too. Where it has not, the view gets a new generation: keys of the
primary carry the generation they were written in, so all that it held of the view is out of sight
at once, whether it missed one row or was away for a day. A note that outlives its lease (the
writer was killed) does the same.

A generation belongs to one incarnation of the primary. Whoever finds that its primary is another,
as two are during a partition, begins a new generation: neither believes what it has from before
the other was written to.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from feastrain.errors import FeastrainError
from feastrain.stores.fallback.layout import Layout
from feastrain.stores.retries import Budget, again, one_line

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from feastrain.stores.fallback.layout import Packed

T = TypeVar("T")

LEASE_SECONDS = 30
"""How long a writer may take to tell the primary of one write."""
MOST_ATTEMPTS = 6
"""Times that what somebody waits for is begun."""
TABLES = (
    "CREATE TABLE IF NOT EXISTS {generations} (view TEXT PRIMARY KEY,"
    " generation BIGINT NOT NULL, incarnation TEXT NOT NULL, version BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {layouts} (number BIGINT PRIMARY KEY, fields TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {writes}"
    " (id BIGINT PRIMARY KEY, view TEXT NOT NULL, started BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {chunks} (view TEXT NOT NULL, chunk BIGINT NOT NULL,"
    " digest TEXT NOT NULL, PRIMARY KEY (view, chunk))",
)


@dataclass(frozen=True)
class Chunk:
    """Which part of a bulk write some rows are, so that it is not written twice."""

    number: int
    digest: str


class Generation(NamedTuple):
    """What keys of a view carry, and the incarnation of the primary that it belongs to."""

    number: int
    incarnation: bytes


@dataclass(frozen=True)
class Written:
    """One write that is durable, and what the primary is to be told of it."""

    token: int
    generation: Generation
    rows: list[bytes]
    """What the store has of the keys now: a later row where there was one."""


class Ledger(ABC):
    """A durable store; what differs from one database to the next is in its subclasses."""

    name: str
    """What it is, as counted: `postgres`."""
    place: str
    """Where it is, for a message."""
    failures: tuple[type[Exception], ...]
    """What its client raises when it is away, or refuses."""
    missing: tuple[type[Exception], ...]
    """What its client raises when a table is missing."""
    silences: tuple[type[Exception], ...] = ()
    """What its client raises when it was waited for in vain: no reader waits for that twice."""
    clock: str
    """SQL for the server's time in seconds since 1970."""
    retry_seconds: float
    bulk_retry_seconds: float | None = None
    """How long a chunk of a bulk write, which nobody waits for, is tried again."""

    @abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[Any]:
        """Run statements together: yield what has `execute(SQL, parameters)`."""

    def reading(self) -> contextlib.AbstractContextManager[Any]:
        """Run statements as `transaction` does, but wait no longer than a reader would."""
        return self.transaction()

    @abstractmethod
    def fetch(self, table: str, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Return the keys that `table` has, and their rows."""

    @abstractmethod
    def upsert(self, run: Any, table: str, entries: Iterable[tuple[bytes, int, bytes]]) -> int:
        """Write rows (key, event in microseconds, row), but over later ones; return how many."""

    @abstractmethod
    def create_table(self, run: Any, table: str) -> None:
        """Make a view's table, where there is none."""

    @abstractmethod
    def quoted(self, table: str) -> str:
        """Return the name of a table as SQL has it."""

    @abstractmethod
    def transient(self, error: Exception) -> bool:
        """Tell whether an error may go away by itself."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""

    def read(self, wanted: Mapping[str, Sequence[bytes]]) -> dict[str, dict[bytes, bytes]]:
        """Return the rows that there are of some keys, by table.

        Raises:
            FeastrainError: the store does not answer, or has no such table.
        """
        return self._retried(lambda: {t: dict(self.fetch(t, keys)) for t, keys in wanted.items()})

    def write(
        self,
        table: str,
        layout: Layout,
        keys: Sequence[bytes],
        packed: Packed,
        chunk: Chunk | None = None,
        incarnation: bytes | None = None,
    ) -> Written:
        """Write rows of distinct keys; a later row that is there already stays.

        Doing so twice leaves what doing it once does, so it is tried again where it fails.

        Args:
            table: the view's.
            layout: how the rows are packed.
            keys: their keys.
            packed: the rows.
            chunk: the part of a bulk write that they are, if any.
            incarnation: the writer's primary, which is to be told: the write is noted until
                `settle`. Without one the view has a new generation at once, for a primary that
                others have is not told.
        """
        seconds = None if chunk is None else self.bulk_retry_seconds
        write = partial(self._write, table, layout, keys, packed, chunk, incarnation)
        return self._retried(write, seconds)

    def _write(
        self,
        table: str,
        layout: Layout,
        keys: Sequence[bytes],
        packed: Packed,
        chunk: Chunk | None,
        incarnation: bytes | None,
    ) -> Written:
        token = secrets.randbits(62)
        with self.transaction() as run:
            # The row of the view is locked from here on: writes of one view are numbered in order.
            generation, owner, version = run.execute(
                self._sql(
                    "INSERT INTO {generations} AS v (view, generation, incarnation, version)"
                    " VALUES (%s, %s, %s, 1)"
                    " ON CONFLICT (view) DO UPDATE SET version = v.version + 1, generation ="
                    " CASE WHEN %s THEN excluded.generation ELSE v.generation END"
                    " RETURNING generation, incarnation, version"
                ),
                (table, secrets.randbits(62), (incarnation or b"").decode(), incarnation is None),
            ).fetchone()
            run.execute(
                self._sql("INSERT INTO {layouts} VALUES (%s, %s) ON CONFLICT DO NOTHING"),
                (layout.number, layout.json),
            )
            if incarnation is not None:
                run.execute(
                    self._sql("INSERT INTO {writes} (id, view, started) VALUES (%s, %s, {clock})"),
                    (token, table),
                )
            rows = packed.rows(version)
            events = packed.heads["event"].tolist()
            taken = self.upsert(run, table, zip(keys, events, rows, strict=True))
            if chunk is not None:
                run.execute(
                    self._sql(
                        "INSERT INTO {chunks} (view, chunk, digest) VALUES (%s, %s, %s)"
                        " ON CONFLICT (view, chunk) DO UPDATE SET digest = excluded.digest"
                    ),
                    (table, chunk.number, chunk.digest),
                )
        if taken < len(keys):  # a primary that lost the later rows would take these for the last
            stored = dict(self.fetch(table, keys))
            rows = [stored.get(key, b"") for key in keys]
        return Written(token, Generation(generation, owner.encode()), rows)

    def settle(
        self, table: str, written: Written, told: bytes | None, chunk: Chunk | None = None
    ) -> Generation:
        """Strike out the note of a write.

        Args:
            table: the table that was written.
            written: the write.
            told: the incarnation of the primary that has the rows too, if any has.
            chunk: the part of a bulk write that it was, if any.

        Returns:
            The generation of the view: a new one, unless the primary whose it was has the rows.
        """
        generation = written.generation
        if told != generation.incarnation:
            owner = generation.incarnation if told is None else told
            generation = Generation(secrets.randbits(62), owner)
        renewed = None if generation == written.generation else generation
        seconds = None if chunk is None else self.bulk_retry_seconds
        self._retried(lambda: self._settle(table, [written.token], renewed), seconds)
        return generation

    def _settle(self, table: str, tokens: Sequence[int], renewed: Generation | None) -> None:
        with self.transaction() as run:
            if renewed is not None:
                run.execute(
                    self._sql(
                        "UPDATE {generations} SET generation = %s, incarnation = %s WHERE view = %s"
                    ),
                    (renewed.number, renewed.incarnation.decode(), table),
                )
            for token in tokens:
                run.execute(self._sql("DELETE FROM {writes} WHERE id = %s"), (token,))

    def generations(
        self, moved: Collection[str] = (), incarnation: bytes = b""
    ) -> dict[str, Generation]:
        """Return the generation of every view, after renewing those with a note past its lease.

        Args:
            moved: views that were found with a primary that is not their generation's.
            incarnation: that primary: what they belong to from now on.
        """
        return self._retried(lambda: self._generations(moved, incarnation))

    def _generations(self, moved: Collection[str], incarnation: bytes) -> dict[str, Generation]:
        query = (
            "SELECT v.view, v.generation, v.incarnation, w.id FROM {generations} v"
            " LEFT JOIN {writes} w ON w.view = v.view AND w.started < {clock} - %s"
        )
        with self.reading() as run:
            found = run.execute(self._sql(query), (LEASE_SECONDS,)).fetchall()
        generations = {view: Generation(number, told.encode()) for view, number, told, _ in found}
        for view, generation in generations.items():
            tokens = [token for other, *_, token in found if other == view and token is not None]
            owner = incarnation if view in moved else generation.incarnation
            if tokens or owner != generation.incarnation:
                generations[view] = Generation(secrets.randbits(62), owner)
                self._settle(view, tokens, generations[view])
        return generations

    def layouts(self) -> dict[int, Layout]:
        """Return every layout that rows were written in, by its number."""

        def work() -> dict[int, Layout]:
            with self.reading() as run:
                found = run.execute(self._sql("SELECT fields FROM {layouts}"), ()).fetchall()
            layouts = [Layout.of_json(fields) for (fields,) in found]
            return {layout.number: layout for layout in layouts}

        return self._retried(work)

    def chunks(self, table: str) -> dict[int, str]:
        """Return the digests of the chunks of an unfinished bulk write, by number."""

        def work() -> dict[int, str]:
            with self.transaction() as run:
                query = self._sql("SELECT chunk, digest FROM {chunks} WHERE view = %s")
                return dict(run.execute(query, (table,)).fetchall())

        return self._retried(work, self.bulk_retry_seconds)

    def forget_chunks(self, table: str) -> None:
        """Note that a bulk write is finished."""

        def work() -> None:
            with self.transaction() as run:
                run.execute(self._sql("DELETE FROM {chunks} WHERE view = %s"), (table,))

        self._retried(work, self.bulk_retry_seconds)

    def create(self, tables: Sequence[str]) -> None:
        """Make the ledger and the tables of some views, where there are none."""

        def work() -> None:
            with self.transaction() as run:
                for statement in TABLES:
                    run.execute(self._sql(statement), ())
                for table in tables:
                    self.create_table(run, table)

        self._retried(work)

    def drop(self, tables: Sequence[str]) -> None:
        """Drop the tables of some views; what a primary holds of them is out of sight."""

        def work() -> None:
            with self.transaction() as run:
                for table in tables:
                    run.execute(f"DROP TABLE IF EXISTS {self.quoted(table)}", ())
                    run.execute(self._sql("DELETE FROM {generations} WHERE view = %s"), (table,))
                    run.execute(self._sql("DELETE FROM {writes} WHERE view = %s"), (table,))
                    run.execute(self._sql("DELETE FROM {chunks} WHERE view = %s"), (table,))

        self._retried(work)

    def _sql(self, statement: str) -> str:
        names = ("generations", "layouts", "writes", "chunks")
        tables = {name: self.quoted(f"feastrain_online_{name}") for name in names}
        return statement.format(clock=self.clock, **tables)

    def _retried(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Do idempotent work, again where it failed in passing, within the budget."""
        budget = Budget(self.retry_seconds, MOST_ATTEMPTS) if seconds is None else Budget(seconds)

        def passes(error: Exception) -> bool:
            waited = seconds is not None and isinstance(error, self.silences)
            return waited or self.transient(error)

        try:
            return again(work, passes, budget, self.place)
        except self.missing as error:
            message = f"{self.place} lacks a table ({one_line(error)}); run `feast apply`"
            raise FeastrainError(message) from error
        except self.failures as error:
            message = f"{self.place} does not answer: {one_line(error)}"
            raise FeastrainError(message) from error
