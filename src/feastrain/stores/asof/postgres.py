"""PostgreSQL sources: read and written in bulk, as Arrow over binary COPY, by a bounded pool."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from feastrain.errors import DataError, FeastrainError, ProjectError, UsageError
from feastrain.stores.deadline import LateError, within
from feastrain.stores.retries import Budget, again, one_line

try:
    import adbc_driver_manager
    import adbc_driver_postgresql.dbapi
    from psycopg.conninfo import make_conninfo
    from sqlalchemy import event
    from sqlalchemy.exc import DisconnectionError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError
    from sqlalchemy.pool import QueuePool
except ImportError as error:
    MESSAGE = f"PostgreSQL sources need {error.name}: pip install 'feastrain[postgres]'"
    raise ProjectError(MESSAGE) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from feastrain.stores.asof.source import Positions, Sink, Window, WriteMode

T = TypeVar("T")

POOL_WAIT_SECONDS = 30.0
CONNECT_SECONDS = 3
LASTING = ("authentication failed", "does not exist", "pg_hba.conf")
"""What a server says that no waiting changes; the driver gives no code for it."""
TLS_KEYS = {"sslkey": "sslkey_path", "sslcert": "sslcert_path", "sslrootcert": "sslrootcert_path"}


class PostgresTable:
    """The wanted columns of a PostgreSQL table or query, read once, numbered from 0."""

    def __init__(
        self, source: Any, config: Any, columns: Sequence[str], window: Window | None
    ) -> None:
        """Read the source.

        Args:
            source: Feast's description of it.
            config: where the server is.
            columns: what is read; none reads all.
            window: event timestamps that matter.

        Raises:
            DataError: the server refuses the query.
            FeastrainError: the server cannot be reached.
        """
        chosen = ", ".join(_quoted(name) for name in columns) or "*"
        statement = f"SELECT {chosen} FROM {source.get_table_query_string_with_alias()}"  # noqa: S608 - quoted
        if window is not None:
            statement += f" WHERE {' AND '.join(_bounds(window))}"
        self._table = fetch(config, statement)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._table)

    @property
    def schema(self) -> pa.Schema:
        """Every column that was read."""
        return self._table.schema

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of every row."""
        return self._table.select(list(names))

    def rows_at(
        self, names: Sequence[str], positions: Positions, sink: Sink | None = None
    ) -> list[pa.ChunkedArray]:
        """Return some columns of the rows at `positions`, or give them to `sink`."""
        indices = pa.array(positions, mask=positions < 0)
        taken = (self._table[name].combine_chunks().take(indices) for name in names)
        if sink is None:
            return list(taken)
        for name, column in zip(names, taken, strict=True):
            sink(name, column)
        return []

    def rows_read_for(self, positions: Positions) -> int:  # noqa: ARG002 - the seam's
        """Return 0: every row is in memory."""
        return 0


class ServerAwayError(FeastrainError):
    """The server cannot be reached, or went away; it may be there again in a moment."""


def fetch(config: Any, statement: str) -> pa.Table:
    """Return what a query yields, in one binary COPY; asked again where the server went away.

    Raises:
        DataError: the server refuses the query.
        FeastrainError: the server cannot be reached for `retry_seconds`, is silent for
            `statement_seconds`, or no connection is free.
    """

    def work() -> pa.Table:
        with _cursor(config) as cursor:
            cursor.execute(statement)
            return _plain(cursor.fetch_arrow_table())

    return again(
        lambda: _in_time(config, work),
        lambda error: isinstance(error, ServerAwayError),
        Budget(config.retry_seconds),
        _place(config),
    )


def write(config: Any, destination: Any, table: pa.Table, mode: WriteMode) -> None:
    """Write rows to a source's table, all or none, in one binary COPY.

    Raises:
        UsageError: the source is a query.
        DataError: the rows do not fit the table, or one stands where it was to be created.
        FeastrainError: the server went away; the rows may be there nevertheless.
    """
    name = destination.get_table_query_string()
    if name.startswith("("):
        message = f"source {destination.name!r} is a query; only a table can be written to"
        raise UsageError(message)
    schema, _, bare = name.rpartition(".")

    def work() -> None:
        with _cursor(config) as cursor:
            cursor.adbc_ingest(
                bare.strip('"'), table, mode=mode, db_schema_name=schema.strip('"') or None
            )

    _in_time(config, work)


def _in_time(config: Any, work: Callable[[], T]) -> T:
    """Do something with the server, but wait no longer than connecting and a statement may take.

    The server ends a statement itself, where it can; one that is stopped, its sockets open, cannot.
    """
    hosts = str(config.host).count(",") + 1
    seconds = config.statement_seconds + CONNECT_SECONDS * hosts + 1.0
    try:
        return within(seconds, work)
    except LateError as error:
        # What waits holds its connection, and the idle ones may lead to the same silence.
        _pool_of(config).renew()
        message = f"{_place(config)} was silent for {seconds:g} s"
        raise ServerAwayError(message) from error


@contextlib.contextmanager
def _cursor(config: Any) -> Iterator[Any]:
    """Lend a cursor of the server's pool; what it did is committed when the block ends well."""
    address = _place(config)
    try:
        connection = _pool_of(config).connections.connect()
    except PoolTimeoutError as error:
        message = f"{address}: no connection is free after {POOL_WAIT_SECONDS:.0f} s; try again"
        raise FeastrainError(message) from error
    except adbc_driver_manager.Error as error:
        message = f"{address} cannot be reached: {one_line(error)}"
        lasting = any(word in message for word in LASTING)
        raise (FeastrainError if lasting else ServerAwayError)(message) from error
    try:
        with connection.cursor() as cursor:
            yield cursor
        connection.commit()
    except adbc_driver_manager.OperationalError as error:
        connection.invalidate()
        message = f"{address} failed: {one_line(error)}"
        raise ServerAwayError(message) from error
    except adbc_driver_manager.Error as error:
        connection.rollback()
        message = f"{address} refuses: {one_line(error)}"
        raise DataError(message) from error
    finally:
        connection.close()


class _Pool:
    """The connections of one server, `size` at most, each used for an hour at most."""

    def __init__(self, conninfo: str, size: int) -> None:
        self.connections = QueuePool(
            lambda: adbc_driver_postgresql.dbapi.connect(conninfo),
            pool_size=size,
            max_overflow=0,
            timeout=POOL_WAIT_SECONDS,
            recycle=3600,
        )
        event.listen(self.connections, "checkout", _ping)

    def renew(self) -> None:
        """Let go of every connection, those in use too."""
        before, self.connections = self.connections, self.connections.recreate()
        before.dispose()


def _pool_of(config: Any) -> _Pool:
    return _pool(_conninfo(config), int(config.max_conn))


_pool = lru_cache(maxsize=8)(_Pool)


def _ping(connection: Any, _record: object, _proxy: object) -> None:
    """Make the pool replace a connection that the server has closed meanwhile."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except adbc_driver_manager.Error as error:
        raise DisconnectionError from error


def _place(config: Any) -> str:
    return f"PostgreSQL at {config.host}:{config.port}/{config.database}"


def _conninfo(config: Any) -> str:
    search_path = ",".join(dict.fromkeys([config.db_schema or config.user, "public"]))
    options = {
        "host": config.host,
        "port": config.port,
        "dbname": config.database,
        "user": config.user,
        "password": config.password,
        "sslmode": config.sslmode,
        "connect_timeout": CONNECT_SECONDS,
        # Of several hosts only the primary is sure to have what was committed.
        "target_session_attrs": "read-write" if "," in str(config.host) else "any",
        "keepalives_idle": config.keepalives_idle,
        "application_name": "feastrain",
        "options": f"-c search_path={search_path} -c TimeZone=UTC"
        f" -c statement_timeout={int(config.statement_seconds * 1000)}",
        **{key: getattr(config, name) for key, name in TLS_KEYS.items()},
    }
    return make_conninfo("", **{key: value for key, value in options.items() if value is not None})


def _bounds(window: Window) -> Iterator[str]:
    column = _quoted(window.column)
    yield f"{column} <= '{window.last.isoformat()}'::timestamptz"
    if window.first is not None:
        yield f"{column} >= '{window.first.isoformat()}'::timestamptz"
    for key, (least, greatest) in window.keys.items():
        if isinstance(least, int):
            yield f"{_quoted(key)} BETWEEN {least} AND {greatest}"


def _plain(table: pa.Table) -> pa.Table:
    """Return numeric columns, which Arrow has no such type for, as doubles."""
    for place, field in enumerate(table.schema):
        if isinstance(field.type, pa.BaseExtensionType):
            text = table[field.name].cast(field.type.storage_type)
            number = field.type.type_name == "numeric"
            column = pc.cast(text, pa.float64()) if number else text
            table = table.set_column(place, field.name, column)
    return table


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
