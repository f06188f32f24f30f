"""Nodes on one machine: network namespaces with an address each, on a bridge to the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class Nodes:
    """Some machines of a network; the one that makes them is one more, at the address `here`."""

    def __init__(self, count: int) -> None:
        """Say how many; they have names and addresses while they are up."""
        self._count = count
        self._bridge, self.here = "", ""
        self._names: list[str] = []
        self._links: list[str] = []
        self.addresses: list[str] = []

    @contextmanager
    def up(self) -> Iterator[Nodes]:
        """Make them for the length of the block; processes that are left on them are killed."""
        net = self._take_net()
        self._names = [f"feastrain-fault-{net}-{node}" for node in range(self._count)]
        self._links = [f"feastf{net}-{node}" for node in range(self._count)]
        self.addresses = [f"10.231.{net}.{node + 1}" for node in range(self._count)]
        self.here = f"10.231.{net}.254"
        try:
            _ip("address", "add", f"{self.here}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for node, name in enumerate(self._names):
                self._make(node, name)
            yield self
        finally:
            for node, name in enumerate(self._names):
                for pid in self.processes(node):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                # By itself it would go with its namespace: when the last process of that has gone.
                _ip("link", "delete", self._links[node], check=False)
                _ip("netns", "delete", name, check=False)
            _ip("link", "delete", self._bridge, check=False)

    def _take_net(self) -> int:
        """Take a network that nobody else on this machine has: the bridge's name is the lock."""
        for net in range(1, 250):
            self._bridge = f"feastb{net}"
            with suppress(subprocess.CalledProcessError):
                _ip("link", "add", self._bridge, "type", "bridge")
                return net
        pytest.fail("every network 10.231.1 to 10.231.249 is taken: see `ip link show type bridge`")

    def _make(self, node: int, name: str) -> None:
        link, peer = self._links[node], f"{self._links[node]}p"
        _ip("netns", "add", name)
        _ip("link", "add", link, "type", "veth", "peer", "name", peer)
        _ip("link", "set", link, "master", self._bridge, "up")
        _ip("link", "set", peer, "netns", name)
        _ip("-n", name, "address", "add", f"{self.addresses[node]}/24", "dev", peer)
        _ip("-n", name, "link", "set", peer, "up")
        _ip("-n", name, "link", "set", "lo", "up")

    def start(
        self, node: int, command: list[str], log: Path, user: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on a node, as a user; what it says is added to `log`."""
        as_user = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user else []
        inside = ["ip", "netns", "exec", self._names[node], *as_user, *command]
        with log.open("ab") as out:
            return subprocess.Popen(
                inside, stdout=out, stderr=out, cwd=log.parent, start_new_session=True
            )

    def processes(self, node: int) -> list[int]:
        """Return every process that runs on a node."""
        return [int(pid) for pid in _told("netns", "pids", self._names[node]).split()]

    def kill(self, node: int) -> None:
        """End a node as a loss of power does: all its processes at once."""
        self.signal(node, signal.SIGKILL)

    def signal(self, node: int, number: signal.Signals) -> None:
        """Send a signal to all processes of a node, parents first."""
        for pid in sorted(self.processes(node)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextmanager
    def frozen(self, node: int) -> Iterator[None]:
        """Stop a node for the length of the block, its sockets open and silent."""
        self.signal(node, signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(node, signal.SIGCONT)

    @contextmanager
    def cut_off(self, node: int) -> Iterator[None]:
        """Drop all that goes to and from a node for the length of the block; it is told nothing."""
        _ip("link", "set", self._links[node], "down")
        try:
            yield
        finally:
            _ip("link", "set", self._links[node], "up")

    @contextmanager
    def cut_from_peers(self, node: int) -> Iterator[None]:
        """Drop what goes between a node and the others, and the keeper of the lease at `here`.

        Its clients still reach it: the half of a partition that is hard.
        """
        rules = [
            [way, "-s" if way == "INPUT" else "-d", other, "-j", "DROP"]
            for other in self.addresses
            if other != self.addresses[node]
            for way in ("INPUT", "OUTPUT")
        ]
        rules += [
            ["OUTPUT", "-d", self.here, "-p", "tcp", "--dport", "2379", "-j", "DROP"],
            ["INPUT", "-s", self.here, "-p", "tcp", "--sport", "2379", "-j", "DROP"],
        ]
        inside = ["ip", "netns", "exec", self._names[node], "iptables"]
        for rule in rules:
            subprocess.run([*inside, "-A", *rule], check=True)
        try:
            yield
        finally:
            for rule in rules:
                subprocess.run([*inside, "-D", *rule], check=True)


def require(*programs: str) -> None:
    """Skip where nodes cannot be made or a program is missing."""
    missing = [name for name in ("ip", "setpriv", *programs) if shutil.which(name) is None]
    if missing:
        pytest.skip(
            f"needs {', '.join(missing)}: apt-get install etcd-server patroni postgresql "
            "redis-server iptables iproute2"
        )
    if os.geteuid():
        pytest.skip("nodes are network namespaces, which root alone may make")


def until(holds: object, what: str, seconds: float = 90) -> float:
    """Wait until something holds, and return the seconds it took."""
    assert callable(holds)
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - started


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


def _told(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True).stdout
