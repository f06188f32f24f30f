"""Redis or Valkey as the store that answers first: a cache that can be lost at any time."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from feastrain.errors import UsageError
from feastrain.stores.fallback.counters import pool_timed_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from feastrain.stores.fallback.config import RedisPrimary

KEYS_A_CALL = 500
"""Rows that one call of the script writes; Redis does nothing else meanwhile, about 1 ms."""
SCRIPT = """
local function newer(new, old)
  local new_event, new_version = struct.unpack('<i8i8', new)
  local old_event, old_version = struct.unpack('<i8i8', old)
  if new_event ~= old_event then return new_event > old_event end
  return new_version > old_version
end
local function is(section, field, at)
  return redis.call('INFO', section):find(field .. ':' .. ARGV[2]:sub(at, at + 7), 1, true)
end
if ARGV[2] ~= '-' and not (is('server', 'run_id', 1) and is('replication', 'master_replid', 9)) then
  return redis.error_reply('ANOTHER run of the server, or reign as a master, than was asked')
end
for i, key in ipairs(KEYS) do
  local new = ARGV[i + 2]
  local old = redis.call('GETRANGE', key, 0, 15)
  local writes
  if new == '' then writes = redis.call('EXISTS', key) == 0
  else writes = #old < 16 or newer(new, old) end
  if writes then redis.call('SET', key, new, 'PX', ARGV[1]) end
end
"""
"""Write rows, but over later ones; rows begin with the event and the number of their write.

A connection may still lead to a master that was deposed: what it writes there, nobody reads.
"""


class Primary:
    """Rows by key, for a time; whoever is told an error goes to the fallback."""

    name = "redis"
    errors = (redis.RedisError, OSError)

    def __init__(self, config: RedisPrimary) -> None:
        self.place = f"Redis at {_hosts(config.connection_string)}"
        self._ttl_ms = config.key_ttl_seconds * 1000
        self._incarnation = b"-"
        self._reader = self._client(config, config.deadline_seconds)
        self._writer = self._client(config, config.write_seconds)
        self._many = isinstance(self._reader, RedisCluster)
        self._connections = (
            _Connections(self._reader.connection_pool, config.deadline_seconds)
            if config.redis_type == "redis"
            else None
        )
        self._script = self._writer.register_script(SCRIPT)

    @property
    def incarnation(self) -> bytes:
        """Which run of the server answers, and which reign of it as a master.

        Another run may have come back with older rows; and so may a master that was deposed and
        is one again, with the rows of its first reign that its successor had. It is part of every
        key, and is known once a connection is.
        """
        return self._incarnation

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the row of each key: empty where there is none, None where that is not known."""
        found: list[bytes | None]
        if self._connections is not None:
            found = self._connections.ask(b"MGET", *keys)
        else:
            found = self._reader.mget_nonatomic(keys) if self._many else self._reader.mget(keys)
        return found

    def put(self, keys: Sequence[bytes], rows: Sequence[bytes], incarnation: bytes) -> None:
        """Write rows, but over later ones; an empty one only where nothing is known.

        Args:
            keys: their keys.
            rows: the rows.
            incarnation: the run of the server that is to have them; another refuses.
        """
        for group in self._together(keys):
            for start in range(0, len(group), KEYS_A_CALL):
                part = group[start : start + KEYS_A_CALL]
                lifetime = int(self._ttl_ms * random.uniform(0.9, 1.1))  # noqa: S311 - no secret
                try:
                    self._script(
                        keys=[keys[index] for index in part],
                        args=[lifetime, incarnation, *(rows[index] for index in part)],
                    )
                except redis.ResponseError as error:
                    if str(error).startswith("ANOTHER"):
                        self._let_go()  # connections are made anew, and tell what it is now
                    raise

    def ping(self) -> None:
        """Ask for a sign of life; any connection made for it tells the incarnation."""
        self._reader.ping()

    def close(self) -> None:
        """Let go of connections."""
        if self._connections is not None:
            self._connections.close()
        self._reader.close()
        self._writer.close()

    def _let_go(self) -> None:
        """Disconnect what is not in use; a Cluster, whose incarnation is not known, never does."""
        if self._connections is not None:
            self._connections.close()
        for client in (self._reader, self._writer):
            client.connection_pool.disconnect(inuse_connections=False)

    def _together(self, keys: Sequence[bytes]) -> Iterable[Sequence[int]]:
        """Return which keys one call may name: all, or those of one slot of a Cluster."""
        if not self._many:
            return [range(len(keys))]
        slots: dict[int, list[int]] = {}
        for index, key in enumerate(keys):
            slots.setdefault(self._writer.keyslot(key), []).append(index)
        return slots.values()

    def _client(self, config: RedisPrimary, seconds: float) -> Any:
        nodes, options = _parsed(config.connection_string)
        options |= {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "health_check_interval": config.ping_after_seconds,
            # A failed read is the fallback's to answer, not to be tried again for seconds.
            "retry": Retry(NoBackoff(), 0),
        }
        if config.redis_type == "redis_cluster":
            startup = [ClusterNode(host, port) for host, port in nodes]
            return RedisCluster(
                startup_nodes=startup, max_connections=config.max_connections, **options
            )
        options["redis_connect_func"] = self._connected
        if config.redis_type == "redis_sentinel":
            asked = {name: value for name, value in options.items() if name.startswith("ssl")}
            # Whoever waits for the master's address waits for all Sentinels that are away.
            asked |= {
                "socket_timeout": config.deadline_seconds,
                "socket_connect_timeout": config.deadline_seconds,
                "retry": Retry(NoBackoff(), 0),
            }
            sentinel = Sentinel(nodes, sentinel_kwargs=asked, **options)
            pool = SentinelConnectionPool(
                config.sentinel_master,
                sentinel,
                max_connections=config.max_connections,
                **sentinel.connection_kwargs,
            )
            return redis.Redis(connection_pool=pool)
        if options.pop("ssl", False):
            options["connection_class"] = redis.SSLConnection
        (host, port), *_ = nodes
        return redis.Redis(
            connection_pool=redis.BlockingConnectionPool(
                host=host,
                port=port,
                max_connections=config.max_connections,
                timeout=seconds,
                **options,
            )
        )

    def _connected(self, connection: Any) -> None:
        """Greet a server, and learn which run and reign of it this is."""
        connection.on_connect()
        told = []
        for section, field in ((b"server", b"run_id:"), (b"replication", b"master_replid:")):
            connection.send_command("INFO", section)
            try:
                lines = connection.read_response().split(b"\r\n")
            except redis.ResponseError:  # this user may not ask
                return
            told += [line[len(field) :][:8] for line in lines if line.startswith(field)]
        if len(told) == 2:
            self._incarnation = b"".join(told)


class _Connections:
    """Connections to one server, asked without the client around them: a third of its time.

    Most of the rest is its look at a connection before each use. Here one that turns out to be
    closed is replaced and asked again, once: what is asked only reads.
    """

    def __init__(self, pool: Any, seconds: float) -> None:
        """Keep as many as `pool` would, and wait for a free one as long."""
        self._pool, self._seconds = pool, seconds
        self._idle: deque[Any] = deque()
        self._leave: SimpleQueue[None] = SimpleQueue()
        """As often as one more connection may be in use."""
        for _ in range(pool.max_connections):
            self._leave.put(None)

    def ask(self, *command: Any) -> Any:
        """Send a command that only reads, and return the answer."""
        try:
            self._leave.get(timeout=self._seconds)
        except Empty as error:
            pool_timed_out(Primary.name)
            message = f"no connection was free for {self._seconds * 1000:.0f} ms"
            raise redis.ConnectionError(message) from error
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = None
        try:
            if connection is not None:
                try:
                    return self._asked(connection, command)
                except redis.ConnectionError:  # it was closed meanwhile
                    pass
            connection = self._pool.make_connection()
            return self._asked(connection, command)
        except BaseException:
            if connection is not None:
                connection.disconnect()
            connection = None
            raise
        finally:
            if connection is not None:
                self._idle.append(connection)
            self._leave.put(None)

    def close(self) -> None:
        """Disconnect those that are not in use."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().disconnect()

    @staticmethod
    def _asked(connection: Any, command: tuple[Any, ...]) -> Any:
        connection.send_command(*command)
        return connection.read_response()


def _parsed(address: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Return the nodes and options of a connection string.

    Raises:
        UsageError: it is none.
    """
    nodes: list[tuple[str, int]] = []
    options: dict[str, Any] = {}
    for part in filter(None, address.split(",")):
        if "://" in part:
            told = parse_url(part)
            nodes.append((told.pop("host", "localhost"), told.pop("port", 6379)))
            options |= told | ({"ssl": True} if part.startswith("rediss") else {})
            options.pop("connection_class", None)
        elif "=" in part:
            name, value = part.split("=", 1)
            options[name] = _value(name, value)
        else:
            host, _, port = part.rpartition(":")
            if not host or not port.isdecimal():
                message = f"connection_string: {part!r} is not HOST:PORT, OPTION=VALUE or a URL"
                raise UsageError(message)
            nodes.append((host, int(port)))
    if not nodes:
        message = "connection_string names no HOST:PORT"
        raise UsageError(message)
    return nodes, options


def _value(name: str, value: str) -> Any:
    if name in {"username", "password"}:
        return value
    if value.lower() in {"true", "false"}:
        return value.lower() == "true"
    return int(value) if value.isdecimal() else value


def _hosts(address: str) -> str:
    parts = [part for part in address.split(",") if "://" in part or "=" not in part]
    return ",".join(urlsplit(p).netloc.rpartition("@")[2] if "://" in p else p for p in parts)
