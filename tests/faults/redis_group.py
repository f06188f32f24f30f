"""A Redis master with two replicas and three Sentinels, a node each."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import redis
from nodes import Nodes, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 3
DOWN_MS = 1_000
"""How long a master is silent before the Sentinels take it for dead."""
SENTINEL = """
bind {address}
port 26379
dir {folder}
protected-mode no
sentinel monitor mymaster {master} 6379 2
sentinel down-after-milliseconds mymaster {down}
sentinel failover-timeout mymaster 5000
"""


class RedisGroup:
    """Three servers, one of which the Sentinels call the master."""

    def __init__(self, folder: Path) -> None:
        self.nodes = Nodes(COUNT)
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def up(self) -> Iterator[RedisGroup]:
        """Start all of it for the length of the block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.nodes.up():
            for node, address in enumerate(self.nodes.addresses):
                self.start(node, master=0)
                config = self._folder / f"sentinel-{node}.conf"
                names = {"address": address, "folder": self._folder, "down": DOWN_MS}
                config.write_text(SENTINEL.format(master=self.nodes.addresses[0], **names))
                self._start(node, ["redis-sentinel", str(config)], "sentinel")
            self.settle()
            yield self
        for process in self._running:
            process.wait()

    @property
    def connection_string(self) -> str:
        """Where the Sentinels are."""
        return ",".join(f"{address}:26379" for address in self.nodes.addresses)

    def start(self, node: int, master: int) -> None:
        """Start a server, empty, as the master or a replica of it."""
        address = self.nodes.addresses[node]
        command = ["redis-server", "--bind", address, "--port", "6379", "--save", ""]
        command += ["--protected-mode", "no", "--dir", str(self._folder)]
        command += ["--repl-timeout", "5", "--repl-diskless-sync-delay", "0"]
        if node != master:
            command += ["--replicaof", self.nodes.addresses[master], "6379"]
        self._start(node, command, "redis")

    def kill_server(self, node: int) -> None:
        """End a server by SIGKILL; its Sentinel lives on."""
        with self.pid(node) as server:
            server.kill()

    @contextmanager
    def frozen(self, node: int) -> Iterator[None]:
        """Stop a server for the length of the block; its Sentinel lives on."""
        with self.pid(node) as server:
            server.suspend()
            try:
                yield
            finally:
                server.resume()

    @contextmanager
    def pid(self, node: int) -> Iterator[Any]:
        """Find the process of a server."""
        import psutil

        (found,) = [
            process
            for process in map(psutil.Process, self.nodes.processes(node))
            if process.name() == "redis-server"
        ]
        yield found

    def client(self, node: int, port: int = 6379) -> Any:
        """Connect to one server, as nobody's store."""
        address = self.nodes.addresses[node]
        return redis.Redis(address, port, socket_timeout=1, socket_connect_timeout=1)

    def master(self) -> int | None:
        """Return which server most Sentinels call the master."""
        told = []
        for node in range(COUNT):
            with suppress(redis.RedisError):
                sentinel = self.client(node, 26379)
                told.append(sentinel.sentinel_get_master_addr_by_name("mymaster")[0])
        most = [address for address in set(told) if told.count(address) >= 2]
        return (
            self.nodes.addresses.index(most[0].decode() if isinstance(most[0], bytes) else most[0])
            if most
            else None
        )

    def settle(self) -> None:
        """Wait for a master with two replicas, watched by three Sentinels."""

        def settled() -> bool:
            with suppress(redis.RedisError):
                master = self.master()
                if master is None:
                    return False
                told = [self.client(n, 26379).sentinel_master("mymaster") for n in range(COUNT)]
                replicas = self.client(master).info("replication")
                return (
                    replicas["role"] == "master"
                    and replicas["connected_slaves"] == COUNT - 1
                    and all(replicas[f"slave{n}"]["state"] == "online" for n in range(COUNT - 1))
                    and all(one["num-other-sentinels"] == COUNT - 1 for one in told)
                    and all(one["num-slaves"] == COUNT - 1 for one in told)
                    and not any(one["is_sdown"] for one in told)
                )
            return False

        until(settled, "a master with two replicas", 90)

    def _start(self, node: int, command: list[str], name: str) -> None:
        log = self._folder / f"{name}-{node}.log"
        self._running.append(self.nodes.start(node, command, log))
