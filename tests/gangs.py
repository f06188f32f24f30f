"""Training runs as real processes: started, watched from outside, and never left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

LAUNCH = """
import sys
from pathlib import Path
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import FeastrainError
from feastrain.jobs.train import train
try:
    train(Path(sys.argv[1]), Snapshot.open(Path(sys.argv[2])), Path(sys.argv[3]))
except FeastrainError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def until(holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process, and end it and what it started at the end."""
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        yield process
    finally:
        for pid in [*ranks_of(process.pid).values(), process.pid]:
            if process.poll() is None:
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def launcher(recipe: Path, snapshot: Path, artifacts: Path) -> list[str]:
    """Return the command that trains as `feastrain train` does."""
    return [sys.executable, "-c", LAUNCH, str(recipe), str(snapshot), str(artifacts)]


def agent(node: int, port: int, recipe: Path, snapshot: Path, folder: Path) -> list[str]:
    """Return the command of one of two torchrun agents with one rank each."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", str(port)),
        *("-m", "feastrain.training.run", "--recipe", str(recipe), "--snapshot", str(snapshot)),
        *("--folder", str(folder / "run"), "--bundle", str(folder / "bundle")),
    ]


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def ranks_of(parent: int) -> dict[int, int]:
    """Return the process of every rank that a launcher or agent has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    found = {}
    for pid in children.read_text().split() if children.is_file() else []:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        given = dict(variable.partition(b"=")[::2] for variable in variables)
        if b"RANK" in given:
            found[int(given[b"RANK"])] = int(pid)
    return found


def processes_of(folder: Path) -> list[int]:
    """Return the processes whose command line names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(str(folder) in word for word in words):
            found.append(int(path.parent.name))
    return found


def same_weights(one: Path, other: Path) -> bool:
    """Return whether the models of two bundles are equal bit for bit."""
    before, after = (load_file(bundle / "model.safetensors") for bundle in (one, other))
    return before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )
