"""A PostgreSQL primary with two standbys under Patroni and etcd, a node each, synchronous."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import yaml
from nodes import Nodes, until

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path("/usr/lib/postgresql/15/bin")
COUNT = 3
PASSWORD = "planted-fault"
LEASE_SECONDS = 10
"""How long a leader that is silent is still the leader; production has 30."""


class PatroniCluster:
    """Three members that agree on a primary; what it commits, a standby has."""

    def __init__(self, folder: Path) -> None:
        self.nodes = Nodes(COUNT)
        self._folder = folder
        self._running: list[subprocess.Popen[bytes] | None] = [None] * COUNT

    @contextmanager
    def up(self) -> Iterator[PatroniCluster]:
        """Start all of it for the length of the block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(self._folder, "postgres")
        for parent in self._folder.parents:  # pytest's folders are closed to other users
            with suppress(PermissionError):
                parent.chmod(parent.stat().st_mode | 0o001)
        with self.nodes.up():
            etcd = self._etcd()
            try:
                for node in range(COUNT):
                    self.start(node)
                self.settle()
                yield self
            finally:
                etcd.kill()
                etcd.wait()

    @property
    def keys(self) -> dict[str, Any]:
        """Where it is, as keys of a store's configuration."""
        return {
            "host": ",".join(self.nodes.addresses),
            "port": 5432,
            "user": "postgres",
            "password": PASSWORD,
            "database": "postgres",
            "sslmode": "disable",
        }

    def start(self, node: int) -> None:
        """Start a member, with the data that it has."""
        sockets = self._folder / f"sockets-{node}"
        sockets.mkdir(exist_ok=True)
        shutil.chown(sockets, "postgres")
        config = self._folder / f"member-{node}.yml"
        config.write_text(yaml.safe_dump(self._config(node)))
        shutil.chown(config, "postgres")
        self._running[node] = self.nodes.start(
            node, ["patroni", str(config)], self._folder / f"member-{node}.log", "postgres"
        )

    @contextmanager
    def killed(self, node: int) -> Iterator[None]:
        """End a member and its PostgreSQL by SIGKILL; start it again at the end of the block."""
        self.nodes.kill(node)
        running = self._running[node]
        assert running is not None
        running.wait()
        try:
            yield
        finally:
            self.start(node)

    def primary(self) -> int | None:
        """Return the member that holds the lease and takes writes."""
        leaders = [m for m in self._members() if m["role"] == "leader" and m["state"] == "running"]
        return int(leaders[0]["name"][-1]) if leaders else None

    def standbys(self) -> tuple[int, int]:
        """Return the standby that each commit waits for, and the other one."""
        roles = {m["role"]: int(m["name"][-1]) for m in self._members()}
        return roles["sync_standby"], roles["replica"]

    def settle(self, seconds: float = 150) -> None:
        """Wait for a primary, a standby that commits wait for, and one more that keeps up.

        A member that went another way before it was told, and cannot find back, is made anew.
        """

        def settled() -> bool:
            members = self._members()
            lines = {member.get("timeline") for member in members}
            return (
                sorted(member["role"] for member in members)
                == ["leader", "replica", "sync_standby"]
                and all(m["state"] in {"running", "streaming"} for m in members)
                and all(m.get("lag", 0) == 0 for m in members)
                and len(lines) == 1
                and self._streaming() == COUNT - 1
            )

        with suppress(AssertionError):
            until(settled, "all keep up by themselves", seconds / 3)
            return
        for member in self._members():
            if member["role"] != "leader" and member.get("lag", "unknown") == "unknown":
                self._make_anew(str(member["host"]))
        until(settled, "a primary, a synchronous standby and a replica", seconds)

    def connect(self, node: int) -> psycopg.Connection[Any]:
        """Connect to one member, as nobody's store."""
        return psycopg.connect(
            host=self.nodes.addresses[node],
            user="postgres",
            password=PASSWORD,
            dbname="postgres",
            connect_timeout=2,
            autocommit=True,
        )

    @contextmanager
    def stalled(self, node: int) -> Iterator[None]:
        """Have a standby receive nothing for the length of the block, its connection open."""
        receivers = [pid for pid in self.nodes.processes(node) if "walreceiver" in _title(pid)]
        assert len(receivers) == 1
        os.kill(receivers[0], signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(receivers[0], signal.SIGCONT)

    def _make_anew(self, address: str) -> None:
        asked = urllib.request.Request(f"http://{address}:8008/reinitialize", b'{"force": true}')
        with suppress(OSError), urllib.request.urlopen(asked, timeout=5):
            pass

    def _streaming(self) -> int:
        primary = self.primary()
        if primary is None:
            return 0
        with suppress(psycopg.Error), self.connect(primary) as connection:
            asked = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            row = connection.execute(asked).fetchone()
            return int(row[0]) if row else 0
        return 0

    def _members(self) -> list[dict[str, Any]]:
        """Return what the first member that answers says of all."""
        for address in self.nodes.addresses:
            with suppress(OSError, ValueError):
                url = f"http://{address}:8008/cluster"
                with urllib.request.urlopen(url, timeout=1) as answer:
                    told: list[dict[str, Any]] = json.load(answer)["members"]
                    return told
        return []

    def _etcd(self) -> subprocess.Popen[bytes]:
        address = f"http://{self.nodes.here}:2379"
        with (self._folder / "etcd.log").open("ab") as log:
            return subprocess.Popen(
                [
                    "etcd", "--data-dir", str(self._folder / "etcd"),
                    "--listen-client-urls", address, "--advertise-client-urls", address,
                    "--listen-peer-urls", "http://127.0.0.1:0", "--unsafe-no-fsync", "--enable-v2",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def _config(self, node: int) -> dict[str, Any]:
        address = self.nodes.addresses[node]
        login = {"username": "postgres", "password": PASSWORD}
        return {
            "scope": "feastrain",
            "name": f"member-{node}",
            "restapi": {"listen": f"{address}:8008", "connect_address": f"{address}:8008"},
            # Not its API of version 3: there Debian's Patroni 3.0.2 writes the leader's key without
            # comparing it, and a leader that was frozen takes it from the one elected meanwhile.
            "etcd": {"host": f"{self.nodes.here}:2379"},
            "bootstrap": {
                "dcs": {
                    "ttl": LEASE_SECONDS,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "primary_start_timeout": 0,  # promote a standby at once instead
                    "synchronous_mode": True,
                    "synchronous_mode_strict": True,  # without a standby nothing is committed
                    "maximum_lag_on_failover": 1 << 30,
                    "postgresql": {"use_pg_rewind": True, "parameters": _parameters()},
                },
                "initdb": ["data-checksums", {"encoding": "UTF8"}],
                "pg_hba": [
                    "local all all trust",
                    "host all all all scram-sha-256",
                    "host replication all all scram-sha-256",
                ],
            },
            "postgresql": {
                "listen": f"{address}:5432",
                "connect_address": f"{address}:5432",
                "data_dir": str(self._folder / f"data-{node}"),
                "bin_dir": str(BIN),
                "pgpass": str(self._folder / f"pgpass-{node}"),
                "authentication": {"superuser": login, "replication": login, "rewind": login},
                "parameters": {"unix_socket_directories": str(self._folder / f"sockets-{node}")},
            },
        }


def _parameters() -> dict[str, Any]:
    return {
        "fsync": "off",  # nobody pulls this machine's plug: kill -9 leaves the page cache
        "shared_buffers": "32MB",
        "max_connections": 100,
        "wal_sender_timeout": "5s",
        "wal_keep_size": "256MB",
        "wal_log_hints": "on",
    }


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace")
    return ""
