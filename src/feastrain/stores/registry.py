"""A Feast registry in a database: connections that outlive a fail-over, errors of one line."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError

from feastrain.errors import FeastrainError
from feastrain.stores.retries import Budget, again, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureStore

T = TypeVar("T")

AWAY_SECONDS = 60.0
"""How long a registry that is away is asked again: longer than a fail-over takes."""
LASTING = ("authentication failed", "does not exist", "pg_hba.conf", "unable to open database")
STATEMENT_SECONDS = 10.0
"""How long one exchange with a registry may take."""


class RegistryAwayError(FeastrainError):
    """The registry's database went away; it may be there again in a moment."""


def opened(make: Callable[[], FeatureStore]) -> FeatureStore:
    """Open a store, again where its registry is away, and attend to the registry from then on.

    Raises:
        FeastrainError: the registry does not answer.
    """
    store = make()
    if str(getattr(store.config.registry, "registry_type", "file")) != "sql":
        return store  # a file is made when it is first asked for, and not before
    try:
        # It connects when it is first asked for.
        registry = again(lambda: store.registry, _passes, Budget(AWAY_SECONDS), "registry")
    except DBAPIError as error:
        raise _away(error.orig or error) from error
    engines = (getattr(registry, name, None) for name in ("write_engine", "read_engine"))
    for engine in {id(engine): engine for engine in engines if engine is not None}.values():
        event.listen(engine, "do_connect", _connected)
        event.listen(engine, "checkout", partial(_pinged, engine.dialect))
        event.listen(engine, "handle_error", _told)
        engine.dispose()  # the connections that were made before are not attended to
    return store


def patiently(work: Callable[[], T]) -> T:
    """Do idempotent work with a registry, again where it went away.

    Raises:
        FeastrainError: the registry does not answer.
    """
    return again(
        work, lambda error: isinstance(error, RegistryAwayError), Budget(AWAY_SECONDS), "registry"
    )


def _connected(dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
    """Connect, again where the server is away, and give up on one that is silent."""
    if dialect.driver != "psycopg":
        return None  # SQLAlchemy connects as it would
    from psycopg import OperationalError

    from feastrain.stores.fallback.postgres import ImpatientConnection

    def connect() -> ImpatientConnection:
        connection = ImpatientConnection.connect(*arguments, **options)
        connection.patience = STATEMENT_SECONDS
        return connection

    options.setdefault("application_name", "feastrain-registry")

    def passes(error: Exception) -> bool:
        return isinstance(error, OperationalError) and not _lasts(error)

    return again(connect, passes, Budget(AWAY_SECONDS), "registry")


def _pinged(dialect: Any, connection: Any, _record: object, _proxy: object) -> None:
    """Make the pool replace a connection that the server has closed meanwhile."""
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError from error


def _told(context: Any) -> RegistryAwayError | None:
    """Have a line raised instead of a statement with its parameters."""
    if context.is_disconnect or context.connection is None:
        return _away(context.original_exception)
    return None


def _passes(error: Exception) -> bool:
    return isinstance(error, OperationalError) and not _lasts(error)


def _lasts(error: Exception) -> bool:
    """Tell whether no waiting changes what a server says; it gives no code for it."""
    return any(word in str(error) for word in LASTING)


def _away(error: object) -> RegistryAwayError:
    return RegistryAwayError(f"the registry does not answer: {one_line(error)}")
