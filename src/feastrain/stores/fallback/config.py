"""The keys of `online_store` in `feature_store.yaml`, and what each is for."""

from __future__ import annotations

from typing import Annotated, Literal

from feast.repo_config import FeastConfigBaseModel
from pydantic import Field, PositiveFloat, PositiveInt


class RedisPrimary(FeastConfigBaseModel):  # type: ignore[misc] # Feast is not typed
    """A Redis or Valkey that answers first: one server, a Sentinel's master, or a Cluster."""

    type: Literal["redis"] = "redis"

    redis_type: Literal["redis", "redis_cluster", "redis_sentinel"] = "redis"
    """What `connection_string` names: a server, nodes of a Cluster, or Sentinels."""

    sentinel_master: str = "mymaster"
    """Name of the master that the Sentinels watch."""

    connection_string: str = "localhost:6379"
    """`HOST:PORT[,HOST:PORT...][,password=...,ssl=true]`, or URLs (`redis://`, `rediss://`)."""

    key_ttl_seconds: PositiveInt = 86_400
    """How long a key lives, give or take a tenth; it is then read from the fallback again."""

    deadline_seconds: PositiveFloat = 0.05
    """How long a read waits for a connection, and then for the answer."""

    write_seconds: PositiveFloat = 5.0
    """How long a write of one chunk of rows waits."""

    max_connections: PositiveInt = 16
    """Most connections of one process for reads, and as many again for writes."""

    ping_after_seconds: PositiveFloat = 15.0
    """A connection that was idle for longer is tried before it is used."""

    failures_to_open: PositiveInt = 3
    """Failed reads in a row after which it is left alone for a while."""

    open_seconds: PositiveFloat = 0.5
    """How long it is left alone at first; twice as long after every trial that fails."""


class PostgresFallback(FeastConfigBaseModel):  # type: ignore[misc] # Feast is not typed
    """The PostgreSQL that holds the truth; several hosts are tried in turn."""

    type: Literal["postgres"] = "postgres"

    host: str = "localhost"
    """One host, or several separated by commas, or the folder of a socket."""

    port: int | str = 5432
    """Port of every host, or as many as there are hosts, separated by commas."""

    database: str
    user: str
    password: str

    db_schema: str = "public"
    """Schema that the tables are in; it must exist."""

    sslmode: str = "require"
    sslrootcert_path: str | None = None
    sslcert_path: str | None = None
    sslkey_path: str | None = None

    target_session_attrs: str = "read-write"
    """What a host must be to be used: the primary, whichever it is after a fail-over."""

    keepalives_idle: int = 10
    """Seconds of silence after which the system asks whether the server is still there."""

    connect_seconds: PositiveInt = 2
    """How long to wait for one host to accept a connection."""

    read_seconds: PositiveFloat = 2.0
    """How long a read waits for the server, which may be stopped, or wait for a lock."""

    statement_seconds: PositiveFloat = 60.0
    """How long the server works on one statement at most; a write waits a second longer."""

    min_conn: PositiveInt = 1
    max_conn: PositiveInt = 10

    pool_seconds: PositiveFloat = 1.0
    """How long to wait for a connection of the pool."""

    recycle_seconds: PositiveFloat = 1_800.0
    """Connections are replaced when they are older than this."""

    retry_seconds: PositiveFloat = 3.0
    """How long an operation that failed in passing is tried again, all waits counted."""

    bulk_retry_seconds: PositiveFloat = 120.0
    """The same for a chunk of a bulk write, which nobody waits for: longer than a fail-over."""

    def conninfo(self) -> str:
        """Return the connection string that libpq takes."""
        from psycopg.conninfo import make_conninfo

        options = f"-c statement_timeout={int(self.statement_seconds * 1000)}"
        return make_conninfo(
            host=self.host,
            port=self.port,
            dbname=self.database,
            user=self.user,
            password=self.password,
            options=options,
            sslmode=self.sslmode,
            sslrootcert=self.sslrootcert_path,
            sslcert=self.sslcert_path,
            sslkey=self.sslkey_path,
            target_session_attrs=self.target_session_attrs,
            keepalives_idle=self.keepalives_idle,
            connect_timeout=self.connect_seconds,
            application_name="feastrain-online",
        )


class SqliteFallback(FeastConfigBaseModel):  # type: ignore[misc] # Feast is not typed
    """A file that holds the truth, for one machine."""

    type: Literal["sqlite"] = "sqlite"

    path: str = "data/online.db"
    """The file; relative to the feature repo."""


Fallback = Annotated[PostgresFallback | SqliteFallback, Field(discriminator="type")]
