"""PostgreSQL as the durable store."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, sql
from psycopg_pool import ConnectionPool, PoolTimeout

from feastrain.stores.fallback.counters import pool_timed_out
from feastrain.stores.fallback.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from psycopg.abc import RV, PQGen

    from feastrain.stores.fallback.config import PostgresFallback

COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
BLOCK = 1 << 20
MOST_KEYS = 10_000
"""Keys of one statement, so that each is answered within the time of a read."""
PASSING = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.ReadOnlySqlTransaction,  # the host was the primary until a moment ago
)


class SilentServerError(psycopg.OperationalError):
    """The server took a statement and did not answer in time."""


class UnconfirmedCommitError(psycopg.OperationalError):
    """The primary committed, and stopped waiting for a standby: a fail-over may lose it."""


LASTING = (SilentServerError, errors.InvalidAuthorizationSpecification, errors.QueryCanceled)


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server is silent for longer than its patience.

    A server that is stopped, and keeps its sockets open, answers nothing for ever: neither its
    own time limit of a statement nor the system's of a connection ends the wait.
    """

    patience: float = 60.0
    """Seconds that one exchange with the server may take."""
    unconfirmed = False
    """Whether a commit was told of as done though no standby had it."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server as psycopg does, but no longer than the patience.

        Raises:
            SilentServerError: it did not answer; the connection is closed.
        """
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        started = time.monotonic()
        try:
            return super().wait(gen, interval, self.patience)
        except psycopg.OperationalError as error:
            if time.monotonic() - started < self.patience:
                raise
            self.close()
            message = f"it was silent for {self.patience:g} s"
            raise SilentServerError(message) from error


class PostgresLedger(Ledger):
    """Rows in one table for each view, written by COPY through a temporary one."""

    name = "postgres"
    failures = (psycopg.Error, PoolTimeout)
    silences = (SilentServerError,)
    missing = (errors.UndefinedTable,)
    clock = "extract(epoch FROM now())::bigint"

    def __init__(self, config: PostgresFallback) -> None:
        self.place = f"PostgreSQL at {config.host}:{config.port}"
        self.retry_seconds = config.retry_seconds
        self.bulk_retry_seconds = config.bulk_retry_seconds
        self._schema = config.db_schema
        self._read_seconds = config.read_seconds
        # The server ends a statement itself, where it can.
        self._write_seconds = config.statement_seconds + 1.0
        self._pool = ConnectionPool(
            config.conninfo(),
            min_size=config.min_conn,
            max_size=max(config.min_conn, config.max_conn),
            timeout=config.pool_seconds,
            max_lifetime=config.recycle_seconds,
            connection_class=ImpatientConnection,
            configure=_heed,
            check=partial(_check, config.pool_seconds),
            reconnect_timeout=config.retry_seconds,
            name="feastrain-online",
            open=False,
        )
        self._pool.open(wait=False)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection whose statements are committed together.

        Raises:
            UnconfirmedCommitError: somebody ended the wait for the standby.
        """
        with self._connection(self._write_seconds) as connection:
            connection.unconfirmed = False
            try:
                yield connection
            except errors.ReadOnlySqlTransaction:
                connection.close()  # so that the pool looks for the primary anew
                raise
        if connection.unconfirmed:
            message = "no standby confirmed the commit in time"
            raise UnconfirmedCommitError(message)

    @contextlib.contextmanager
    def reading(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection that is waited for no longer than a read."""
        with self._connection(self._read_seconds) as connection:
            yield connection

    @contextlib.contextmanager
    def _connection(self, patience: float) -> Iterator[ImpatientConnection]:
        with contextlib.ExitStack() as stack:
            try:
                connection = stack.enter_context(self._pool.connection())
            except PoolTimeout:
                pool_timed_out(self.name)
                raise
            connection.patience = patience
            yield connection

    def fetch(self, table: str, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Return the keys that `table` has, and their rows."""
        query = f"SELECT entity_key, packed FROM {self.quoted(table)} WHERE entity_key = ANY(%b)"  # noqa: S608 - a quoted name
        found: list[tuple[bytes, bytes]] = []
        with self.reading() as connection:
            for start in range(0, len(keys), MOST_KEYS):
                some = list(keys[start : start + MOST_KEYS])
                found += connection.execute(query.encode(), (some,), binary=True).fetchall()
        return found

    def upsert(
        self,
        run: psycopg.Connection[Any],
        table: str,
        entries: Iterable[tuple[bytes, int, bytes]],
    ) -> int:
        """Write rows (key, event in microseconds, row), but over later ones; return how many."""
        run.execute(
            "CREATE TEMPORARY TABLE feastrain_incoming"
            " (entity_key bytea, event bigint, packed bytea) ON COMMIT DROP"
        )
        copy = "COPY feastrain_incoming FROM STDIN (FORMAT BINARY)"
        with run.cursor() as cursor, cursor.copy(copy) as stream:
            for block in _blocks(entries):
                stream.write(block)
        name = self.quoted(table)
        written = run.execute(
            f"INSERT INTO {name} AS kept SELECT * FROM feastrain_incoming"  # noqa: S608 - quoted
            " ON CONFLICT (entity_key) DO UPDATE"
            " SET event = excluded.event, packed = excluded.packed"
            " WHERE kept.event <= excluded.event".encode()
        )
        return written.rowcount

    def create_table(self, run: psycopg.Connection[Any], table: str) -> None:
        """Make a view's table, where there is none."""
        run.execute(
            f"CREATE TABLE IF NOT EXISTS {self.quoted(table)}"
            " (entity_key bytea PRIMARY KEY, event bigint NOT NULL, packed bytea NOT NULL)".encode()
        )

    def quoted(self, table: str) -> str:
        """Return the name of a table as SQL has it: quoted, and no longer than PostgreSQL takes."""
        name = table.encode()
        if len(name) > 63 or b"%" in name:  # psycopg takes a % for the place of a value
            begins = name[:40].decode(errors="ignore").replace("%", "_")
            table = f"{begins}_{hashlib.sha256(name).hexdigest()[:16]}"
        return sql.Identifier(self._schema, table).as_string()

    def transient(self, error: Exception) -> bool:
        """Tell whether an error may go away by itself."""
        if isinstance(error, LASTING):
            return False
        return isinstance(error, (psycopg.OperationalError, PoolTimeout, *PASSING))

    def close(self) -> None:
        """Let go of connections."""
        self._pool.close()


def _heed(connection: ImpatientConnection) -> None:
    """Hear of commits that no standby has: to the client the server says that they went well.

    (PostgreSQL, src/backend/replication/syncrep.c: a wait that is cancelled ends in a warning.)
    """

    def heard(told: psycopg.errors.Diagnostic) -> None:
        if told.source_function == "SyncRepWaitForLSN":
            connection.unconfirmed = True

    connection.add_notice_handler(heard)


def _check(patience: float, connection: ImpatientConnection) -> None:
    """Try a connection that was idle."""
    connection.patience = patience
    ConnectionPool.check_connection(connection)


def _blocks(entries: Iterable[tuple[bytes, int, bytes]]) -> Iterator[bytes]:
    """Yield rows in the binary format of COPY.

    (PostgreSQL documentation, COPY, Binary Format.)
    """
    head, middle = struct.Struct("!hi").pack, struct.Struct("!iqi").pack
    parts, size = [COPY_HEAD], 0
    for key, event, packed in entries:
        part = head(3, len(key)) + key + middle(8, event, len(packed)) + packed
        parts.append(part)
        size += len(part)
        if size > BLOCK:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join([*parts, COPY_END])
