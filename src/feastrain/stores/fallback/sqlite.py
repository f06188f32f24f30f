"""A SQLite file as the durable store."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from feastrain.stores.fallback.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

MOST_PARAMETERS = 30_000
BUSY_SECONDS = 10.0


class SqliteLedger(Ledger):
    """Rows in one table for each view of a file in write-ahead mode."""

    name = "sqlite"
    failures = (sqlite3.Error,)
    missing = ()
    clock = "CAST(strftime('%s', 'now') AS INTEGER)"
    retry_seconds = BUSY_SECONDS

    def __init__(self, path: Path) -> None:
        self.place = f"SQLite at {path}"
        self._path = path
        self._mine = threading.local()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._mine, "connection", None)
        if connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            self._mine.connection = connection
        return connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[_Statements]:
        """Yield what runs statements that are committed together."""
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            yield _Statements(connection)

    def fetch(self, table: str, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Return the keys that `table` has, and their rows."""
        found: list[tuple[bytes, bytes]] = []
        for start in range(0, len(keys), MOST_PARAMETERS):
            some = keys[start : start + MOST_PARAMETERS]
            query = f"SELECT entity_key, packed FROM {self.quoted(table)} WHERE entity_key IN"  # noqa: S608 - quoted
            marks = ",".join("?" * len(some))
            found += self._connection().execute(f"{query} ({marks})", some).fetchall()
        return found

    def upsert(
        self, run: _Statements, table: str, entries: Iterable[tuple[bytes, int, bytes]]
    ) -> int:
        """Write rows (key, event in microseconds, row), but over later ones; return how many."""
        written = run.connection.executemany(
            f"INSERT INTO {self.quoted(table)} AS kept VALUES (?, ?, ?)"  # noqa: S608 - quoted
            " ON CONFLICT (entity_key) DO UPDATE"
            " SET event = excluded.event, packed = excluded.packed"
            " WHERE kept.event <= excluded.event",
            entries,
        )
        return written.rowcount

    def create_table(self, run: _Statements, table: str) -> None:
        """Make a view's table, where there is none."""
        run.execute(
            f"CREATE TABLE IF NOT EXISTS {self.quoted(table)} (entity_key BLOB PRIMARY KEY,"
            " event INTEGER NOT NULL, packed BLOB NOT NULL) WITHOUT ROWID",
            (),
        )

    def quoted(self, table: str) -> str:
        """Return the name of a table as SQL has it."""
        escaped = table.replace('"', '""')
        return f'"{escaped}"'

    def transient(self, error: Exception) -> bool:  # noqa: ARG002 - others look at it
        """Tell whether an error may go away by itself: never, beyond SQLite's own waiting."""
        return False

    def close(self) -> None:
        """Let go of this thread's connection."""
        if getattr(self._mine, "connection", None) is not None:
            self._mine.connection.close()
            del self._mine.connection


class _Statements:
    """A connection that takes parameters as PostgreSQL's client does."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def execute(self, statement: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
        """Run one statement."""
        return self.connection.execute(statement.replace("%s", "?"), parameters)
