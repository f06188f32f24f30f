"""Several nodes on this machine: one torchrun agent each, as on a cluster.

    python -m feastrain.jobs.node --nnodes 2 --node-rank 0 ...

Node 0 tells its lines where this process does; others have a file each.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from feastrain.errors import InterruptedRun, LostRankError, SilentRankError
from feastrain.jobs.job import LAST_LINES
from feastrain.telemetry import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feastrain.jobs.job import Gang

POLL_SECONDS = 0.1
FOLLOW_SECONDS = 5.0
"""How long nodes may take to end by themselves once one has."""
SHUTDOWN_SECONDS = 40.0
"""How long they may take once they are asked to; torchrun gives their ranks 30 s."""
FOLLOWERS = frozenset(error.exit_code for error in (LostRankError, SilentRankError, InterruptedRun))
"""What a rank leaves with because of another, or because it was asked to."""


def log_of(folder: Path, node: int) -> Path:
    """Return where the lines of a node are kept, if they are."""
    return folder / f"node-{node}.log"


def commands(arguments: list[str], gang: Gang, port: int) -> list[list[str]]:
    """Return what each node runs to train here.

    Args:
        arguments: of `feastrain.training.run`.
        gang: how many nodes there are, and ranks on each.
        port: of this machine, where node 0 keeps torchrun's store.
    """
    return [
        [
            *(sys.executable, "-m", "feastrain.jobs.node", "--max-restarts", "0"),
            *("--nnodes", str(gang.nodes), "--node-rank", str(node)),
            *("--nproc-per-node", str(gang.processes), "--monitor-interval", "0.1"),
            *("--master-addr", "127.0.0.1", "--master-port", str(port)),
            *("-m", "feastrain.training.run", *arguments),
        ]
        for node in range(gang.nodes)
    ]


def run_agents(arguments: list[str], folder: Path, gang: Gang) -> dict[int, int]:
    """Run all nodes, and return the exit codes of those that failed, in the order they were seen.

    Negative ones are signals. When one fails the others soon do too, or are made to.
    """
    with _started(commands(arguments, gang, _free_port()), folder) as agents:
        ends: dict[int, int] = {}
        deadline = float("inf")
        while len(ends) < len(agents) and time.monotonic() < deadline:
            for node, agent in enumerate(agents):
                if node not in ends and agent.poll() is not None:
                    ends[node] = agent.returncode
            if any(ends.values()) and deadline == float("inf"):
                deadline = time.monotonic() + FOLLOW_SECONDS
            time.sleep(POLL_SECONDS)
    failed = {node: code for node, code in ends.items() if code}
    if failed and failed[cause(failed)] != InterruptedRun.exit_code:
        _show_last_lines(folder, cause(failed))
    return failed


def cause(failed: dict[int, int]) -> int:
    """Return the node, or rank, that failed first by itself, not because another did."""
    return next((who for who, code in failed.items() if code not in FOLLOWERS), next(iter(failed)))


def death(failed: dict[int, int], what: str) -> str:
    """Return in words how the first node or rank, which `what` says, ended by itself."""
    who = cause(failed)
    code = failed[who]
    if what == "node" and code == LostRankError.exit_code:
        return f"node {who} lost a rank"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"{what} {who} ended with {how}"


@contextlib.contextmanager
def _started(lines: list[list[str]], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start processes that end with this one, and end those that are left after the block."""
    agents = []
    environment = {**os.environ, "FEASTRAIN_NODES_HERE": str(len(lines))}  # noqa: TID251 - handed on
    try:
        for node, (python, dash, module, *rest) in enumerate(lines):
            command = [python, dash, module, "--launcher", str(os.getpid()), *rest]
            with log_of(folder, node).open("ab") if node else contextlib.nullcontext() as told:
                # Of their own sessions: Ctrl-C asks them to stop once, through this process.
                agents.append(
                    subprocess.Popen(  # noqa: S603 - ours
                        command, env=environment, stdout=told, stderr=told, start_new_session=True
                    )
                )
        yield agents
    finally:
        left = [agent for agent in agents if agent.poll() is None]
        for agent in left:
            agent.terminate()
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        for agent in left:
            try:
                agent.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()


def _show_last_lines(folder: Path, node: int) -> None:
    """Say the last lines of a node whose lines are in a file of its own."""
    if node:
        for line in last_lines(log_of(folder, node)):
            say(f"node {node}: {line}")


def last_lines(log: Path) -> list[str]:
    """Return the end of a log."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - (64 << 10)))
        return file.read().decode(errors="replace").splitlines()[-LAST_LINES:]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
