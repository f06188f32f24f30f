"""Two nodes of a cluster: network namespaces with an address and a host name each, and a link."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gangs import until

NODES = 2
PORT = 29500
"""Kubeflow's own; the namespaces keep it apart from any other."""


class TwoNodes:
    """Runs a command on each of two nodes, as the controller and the kubelet would.

    Args:
        job: the TrainJob's name, which host names come from.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._names = [f"feastrain-{os.getpid()}-{node}" for node in range(NODES)]
        self._links = [f"ft{os.getpid() % 100000}-{node}" for node in range(NODES)]

    @contextmanager
    def up(self) -> Iterator["TwoNodes"]:
        """Make the namespaces and their link for the length of the block."""
        try:
            self._make()
            yield self
        finally:
            for name in self._names:
                _ip("netns", "delete", name, check=False)
                for file in Path("/etc/netns", name).glob("*"):
                    file.unlink()
                with suppress(FileNotFoundError):
                    Path("/etc/netns", name).rmdir()

    def _make(self) -> None:
        hosts = "127.0.0.1 localhost\n" + "".join(
            f"10.231.7.{node + 1} {self._host(node)}.{self._job} {self._host(node)}\n"
            for node in range(NODES)
        )
        for name in self._names:
            _ip("netns", "add", name)
            folder = Path("/etc/netns", name)
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(hosts)
        one, other = self._links
        _ip("link", "add", one, "type", "veth", "peer", "name", other)
        for node, (name, link) in enumerate(zip(self._names, self._links, strict=True)):
            _ip("link", "set", link, "netns", name)
            _ip("-n", name, "address", "add", f"10.231.7.{node + 1}/24", "dev", link)
            _ip("-n", name, "link", "set", link, "up")
            _ip("-n", name, "link", "set", "lo", "up")

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Take the link between the nodes away for the length of the block."""
        _ip("-n", self._names[1], "link", "set", self._links[1], "down")
        yield
        _ip("-n", self._names[1], "link", "set", self._links[1], "up")

    @contextmanager
    def running(self, command: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Start a container's command on both, with a core each; kill what is left at the end."""
        (python, *rest) = command
        assert "python" == python
        nodes = [self._start(node, [sys.executable, *rest]) for node in range(NODES)]
        try:
            yield nodes
        finally:
            for node in nodes:
                kill(node)

    def _start(self, node: int, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command as the leader of a session, by which all that it starts is found."""
        inside = ["ip", "netns", "exec", self._names[node], "unshare", "--uts", "sh", "-c"]
        core = node % (os.cpu_count() or 1)
        named = f'hostname "$1"; shift; exec taskset -c {core} "$@"'
        given = {
            "PET_NNODES": str(NODES),
            "PET_NPROC_PER_NODE": "auto",
            "PET_NODE_RANK": str(node),
            "PET_MASTER_ADDR": f"{self._host(0)}.{self._job}",
            "PET_MASTER_PORT": str(PORT),
            "FEASTRAIN_TRAINING_TIMEOUT_SECONDS": "6",
        }
        return subprocess.Popen(
            [*inside, named, "sh", self._host(node), *command],
            env=os.environ | given,
            start_new_session=True,
        )

    def _host(self, node: int) -> str:
        return f"{self._job}-node-0-{node}"


def ends(nodes: list[subprocess.Popen[bytes]], seconds: float = 90) -> list[int]:
    """Return the exit codes of all nodes."""
    until(lambda: all(node.poll() is not None for node in nodes), "all nodes end", seconds)
    return [node.returncode for node in nodes]


def kill(node: subprocess.Popen[bytes]) -> None:
    """End a node as a loss of power does: all its processes at once, and none left behind."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ProcessLookupError):
            if os.getsid(int(folder.name)) == node.pid:
                os.kill(int(folder.name), signal.SIGKILL)
    node.wait()


def require_namespaces() -> None:
    """Skip where network namespaces may not be made."""
    name = f"feastrain-probe-{os.getpid()}"
    if os.geteuid() or _ip("netns", "add", name, check=False):
        pytest.skip("network namespaces may not be made here: `ip netns add` as root")
    _ip("netns", "delete", name)


def _ip(*arguments: str, check: bool = True) -> int:
    with suppress(FileNotFoundError):
        return subprocess.run(["ip", *arguments], check=check, capture_output=not check).returncode
    return 1
