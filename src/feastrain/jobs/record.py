"""What a run on this machine leaves in its folder, so that any process can say how it is.

Whoever runs it holds a lock, which the system lets go of however that process ends, and writes
who it is into it. What happens is a line each of a file that only grows.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import signal
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from feastrain.errors import FeastrainError, InterruptedRun, UsageError
from feastrain.jobs.job import Gang

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK, NOTES, REQUEST = "lock", "events.jsonl", "request.json"
STILL = frozenset({"Suspended", "Failed", "Complete"})
"""How a run ends."""
PATIENCE_SECONDS, LEAVE_SECONDS = 2.0, 30.0
"""How long a lock is tried for: those who only look at it hold it for a moment, and whoever has
noted the end is about to leave."""


@dataclass(frozen=True)
class Request:
    """A run as it is asked for, which whoever runs it finds in its folder."""

    name: str
    """Of the job."""
    recipe: str
    run: str
    """Fingerprint of the run."""
    snapshot: str
    bundle: str
    pointer: str
    """What leads to the bundle once it is published."""
    nodes: int
    processes: int
    """On each node."""
    fresh: bool
    """Ignore checkpoints of earlier runs."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what was asked for of a run."""
        return cls(**json.loads((folder / REQUEST).read_text()))

    def save(self, folder: Path) -> None:
        """Leave it for whoever runs it."""
        (folder / REQUEST).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def note(self, folder: Path) -> None:
        """Note that it was asked for; the caller holds the run's lock."""
        told = f"{self.nodes} x {self.processes} processes"
        about = {"name": self.name, "recipe": self.recipe, "run": self.run}
        note(folder, "Created", told, **about, nodes=self.nodes)

    @property
    def gang(self) -> Gang:
        """Return its ranks."""
        return Gang(self.nodes, self.processes)

    def arguments(self, folder: Path) -> list[str]:
        """Return the command line of `feastrain.training.run`."""
        return [
            *("--recipe", str(folder / "recipe.yaml"), "--snapshot", self.snapshot),
            *("--folder", str(folder), "--bundle", self.bundle),
        ]


class Note(NamedTuple):
    """One thing that happened to a run."""

    event_time: datetime
    reason: str
    """Created, Started, Restarted, Suspended, Failed or Complete."""
    message: str
    facts: dict[str, Any]
    involved_object_name: str
    involved_object_kind: str = "run"


def note(folder: Path, reason: str, message: str = "", **facts: Any) -> None:
    """Add a line to what happened to a run."""
    told = {"time": time.time(), "reason": reason, "message": message, **facts}
    with (folder / NOTES).open("a") as file:
        file.write(json.dumps(told) + "\n")


def notes(folder: Path) -> list[Note]:
    """Return what happened to a run, the oldest first; a line that was cut short is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / NOTES).read_text().splitlines():
            with contextlib.suppress(ValueError):
                facts = json.loads(line)
                moment = datetime.fromtimestamp(facts.pop("time"), UTC)
                found.append(
                    Note(moment, facts.pop("reason"), facts.pop("message"), facts, folder.name)
                )
    return found


@contextlib.contextmanager
def noting_the_end(folder: Path) -> Iterator[None]:
    """Note how the block ends."""
    try:
        yield
    except InterruptedRun as error:
        note(folder, "Suspended", str(error))
        raise
    except FeastrainError as error:
        note(folder, "Failed", str(error), code=error.exit_code)
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        note(folder, "Failed", told, code=FeastrainError.exit_code)
        raise
    note(folder, "Complete")


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a run's lock for the length of the block.

    Raises:
        UsageError: another process does.
    """
    lock = take(folder)
    try:
        yield
    finally:
        os.close(lock)


def take(folder: Path) -> int:
    """Take a run's lock, for this process, and return the file that holds it while it is open.

    Raises:
        UsageError: another process has it.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    leaving = [one.reason for one in notes(folder)[-1:] if one.reason in STILL]
    deadline = time.monotonic() + (LEAVE_SECONDS if leaving else PATIENCE_SECONDS)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(lock)
                message = (
                    f"another `feastrain train` is at work in {folder}; wait for it or stop it: "
                    "see `feastrain jobs list`"
                )
                raise UsageError(message) from error
            time.sleep(0.02)
        else:
            write_holder(lock, os.getpid())
            return lock


def write_holder(lock: int, pid: int) -> None:
    """Say which process holds a lock: by its start too, for its number may be given again."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{pid} {_start_of(pid)} {platform.node()}\n".encode(), 0)


def is_held(folder: Path) -> bool:
    """Return whether a process is at work in a run."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def send(folder: Path, number: signal.Signals) -> None:
    """Send a signal to the process that holds a run's lock, if it still does.

    Raises:
        UsageError: it is one of another machine.
    """
    if not is_held(folder):
        return
    pid, start, host = (folder / LOCK).read_text().split(maxsplit=2)
    if host.strip() != platform.node():
        message = f"{folder.name} runs on {host.strip()}: stop it there"
        raise UsageError(message)
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "linux":
            # A descriptor stays that of one process, whoever gets its number next.
            process = os.pidfd_open(int(pid))
            try:
                if start == _start_of(int(pid)):
                    _send(process, int(pid), number)
            finally:
                os.close(process)
        else:
            os.kill(int(pid), number)


def end_stragglers(folder: Path) -> None:
    """Kill ranks and agents of a run that outlived its launcher: it was stopped as they started.

    The caller holds the run's lock, so that none of them is another launcher's.
    """
    ours = {b"feastrain.training.run", bytes(folder)}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            process = os.pidfd_open(int(path.name))
            try:
                if ours <= set((path / "cmdline").read_bytes().split(b"\0")):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            finally:
                os.close(process)


def _send(process: int, pid: int, number: signal.Signals) -> None:
    """Send a signal; SIGKILL also to what a process in the background has started."""
    if number == signal.SIGKILL and os.getsid(pid) == os.getpgid(pid) == pid:
        os.killpg(pid, number)
    else:
        signal.pidfd_send_signal(process, number)


def _start_of(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; "-" where that is not told."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "-"
    return status.rpartition(")")[2].split()[19]
