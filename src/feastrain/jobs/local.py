"""Training jobs of this machine: sent to the background, watched and stopped from any process.

A job is a run of the artifacts folder, and its name ends in the run's fingerprint. Runs in the
foreground are jobs too; their lines are where they were started.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from feastrain.errors import BY_CODE, FeastrainError, InterruptedRun, UsageError
from feastrain.jobs.agents import last_lines, log_of
from feastrain.jobs.job import ENDED, Job
from feastrain.jobs.record import (
    NOTES,
    REQUEST,
    STILL,
    Request,
    alone_in,
    end_stragglers,
    is_held,
    note,
    notes,
    send,
    take,
    write_holder,
)
from feastrain.telemetry import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feastrain.jobs.job import On
    from feastrain.jobs.record import Note

POLL_SECONDS = 0.2
STOP_SECONDS = 60.0
"""How long a job may take over its last checkpoint before it is killed."""
KILL_SECONDS = 10.0
MODULES: dict[On, str] = {
    "here": "feastrain.jobs.launch",
    "process": "feastrain.jobs.process",
    "container": "feastrain.jobs.container",
}
"""What holds a run's lock, and runs it."""


class LocalJobs:
    """The training jobs of an artifacts folder.

    Args:
        artifacts: the folder.
    """

    def __init__(self, artifacts: Path) -> None:
        self._runs = artifacts / "runs"

    def submit(self, folder: Path, on: On = "here") -> str:
        """Start a run in the background, in a session of its own, and return its job's name.

        The process inherits the run's lock, so that nobody else gets in between.

        Args:
            folder: the run, which holds what is asked for.
            on: in this interpreter, or what else this machine has.

        Raises:
            UsageError: it is at work already.
        """
        lock = take(folder)
        try:
            request = Request.load(folder)
            request.note(folder)
            with log_of(folder, 0).open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 - ours
                    [sys.executable, "-m", MODULES[on], str(folder), "--lock", str(lock)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock],
                    start_new_session=True,
                )
            write_holder(lock, process.pid)
        finally:
            os.close(lock)
        # Whoever started it may live on: its end is heard, so that it leaves no zombie.
        threading.Thread(target=process.wait, daemon=True).start()
        return request.name

    def get(self, name: str) -> Job:
        """Return a job.

        Raises:
            UsageError: there is none of this name.
        """
        return _job(self._folder(name))

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        found = [(made.event_time, folder) for folder, made in self._made()]
        return [_job(folder) for _, folder in sorted(found, reverse=True)]

    def logs(self, name: str, node: int = 0, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a node; with `follow`, until the job ends.

        Raises:
            UsageError: there is no such job, or node, or its lines are told elsewhere.
        """
        folder = self._folder(name)
        nodes = _job(folder).nodes
        if node >= nodes:
            message = f"the job {name} has {nodes} nodes: there is no node {node}"
            raise UsageError(message)
        log = log_of(folder, node)
        if not log.is_file() and not follow:
            message = f"the lines of the job {name} are told where it was started"
            raise UsageError(message)
        return _lines(folder, log, follow=follow)

    def events(self, name: str) -> list[Note]:
        """Return what happened to a job, the oldest first.

        Raises:
            UsageError: there is no such job.
        """
        return notes(self._folder(name))

    def wait(self, name: str, seconds: float = math.inf) -> Job:
        """Return the job once it is complete.

        Raises:
            FeastrainError: it failed, as the error that its rank left with; or it is not complete
                after `seconds`.
            InterruptedRun: it was stopped.
            UsageError: there is no such job.
        """
        folder, deadline = self._folder(name), time.monotonic() + seconds
        while (job := _job(folder)).state not in STILL:
            if time.monotonic() > deadline:
                message = f"the job {name} is {job.state} after {seconds:.0f} s; it goes on"
                raise FeastrainError(message)
            time.sleep(POLL_SECONDS)
        if job.state == "Suspended":
            message = f"the job {name} was stopped; `feastrain train {job.recipe}` goes on with it"
            raise InterruptedRun(message)
        if job.state == "Failed":
            raise _failure(folder, job)
        return job

    def stop(self, name: str, grace_seconds: float = STOP_SECONDS) -> None:
        """Have a job save and end, with all of its processes; trained again, it goes on.

        Raises:
            UsageError: there is no such job, it ended, or it is another machine's.
            FeastrainError: it cannot be ended.
        """
        folder = self._folder(name)
        if (state := _job(folder).state) in ENDED:
            message = f"the job {name} has ended: it is {state}"
            raise UsageError(message)
        told = "stopped before its ranks were started"
        send(folder, signal.SIGTERM)
        if not _ended(folder, grace_seconds):
            told = f"killed, for it did not end within {grace_seconds:.0f} s"
            send(folder, signal.SIGKILL)
            if not _ended(folder, KILL_SECONDS):
                message = f"the job {name} does not end, though it was killed"
                raise FeastrainError(message)
        with alone_in(folder):
            if sys.platform == "linux":
                end_stragglers(folder)
            if notes(folder)[-1].reason not in STILL:
                note(folder, "Suspended", told)

    def resume(self, name: str) -> None:
        """Have a job that was stopped, or failed, go on from its last checkpoint, here.

        Raises:
            UsageError: there is no such job, it is at work, or it was run in the foreground.
        """
        folder = self._folder(name)
        if not (folder / REQUEST).is_file():
            recipe = _job(folder).recipe
            message = f"the job {name} was run in the foreground: `feastrain train {recipe}`"
            raise UsageError(message)
        replace(Request.load(folder), fresh=False).save(folder)
        self.submit(folder)

    def delete(self, name: str) -> None:
        """End a job and forget it; its run's folder, with all checkpoints, stays.

        Raises:
            UsageError: there is no such job.
        """
        folder = self._folder(name)
        if is_held(folder):
            self.stop(name)
        (folder / NOTES).unlink()
        for log in folder.glob("node-*.log"):
            log.unlink()

    def _made(self) -> Iterator[tuple[Path, Note]]:
        """Yield each run that is a job, and how it was asked for last."""
        for folder in self._runs.glob("*"):
            if (made := _last_made(notes(folder))) is not None:
                yield folder, made

    def _folder(self, name: str) -> Path:
        for folder, made in self._made():
            if made.facts["name"] == name:
                return folder
        message = f"there is no job {name} here; `feastrain jobs list` names those that are"
        raise UsageError(message)


def _ended(folder: Path, seconds: float) -> bool:
    """Return whether nobody is at work in a run, within some time."""
    deadline = time.monotonic() + seconds
    while is_held(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS / 4)
    return True


def _last_made(happened: list[Note]) -> Note | None:
    return next((one for one in reversed(happened) if one.reason == "Created"), None)


def _job(folder: Path) -> Job:
    """Return a job as it is now."""
    # Asked before its notes are read: of one that was killed, those are all.
    held = is_held(folder)
    happened = notes(folder)
    made = _last_made(happened)
    assert made is not None
    last = happened[-1]
    if last.reason in STILL:
        state, why = last.reason, last.message
    elif held:
        since = happened[happened.index(made) :]
        state = "Running" if any(one.reason == "Started" for one in since) else "Created"
        why = last.message if last.reason == "Restarted" else ""
    else:
        state = "Failed"
        why = "it was killed, or its machine went down; trained again, it goes on"
    about = {key: made.facts[key] for key in ("name", "nodes", "recipe", "run")}
    return Job(state=state, why=why, **about, **(_progress(log_of(folder, 0)) if held else {}))


def _progress(log: Path) -> dict[str, Any]:
    """Return how far rank 0 last said that it is, in the lines that are kept."""
    for line in reversed(last_lines(log)):
        if '"event": "progress"' in line:
            told = json.loads(line)
            return {"percent": int(100 * told["done"] / told["total"])}
    return {}


def _lines(folder: Path, log: Path, *, follow: bool) -> Iterator[str]:
    """Yield the lines of a log, and with `follow` those that come until the run ends."""
    rest, place = b"", 0
    while True:
        going = follow and is_held(folder)
        if log.is_file():
            with log.open("rb") as file:
                file.seek(place)
                told = file.read()
            place += len(told)
            *lines, rest = (rest + told).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if not going:
            break
        time.sleep(POLL_SECONDS)
    if rest:
        yield rest.decode(errors="replace")


def _failure(folder: Path, job: Job) -> FeastrainError:
    """Return the error of the rank that failed; the job's last lines are told."""
    for line in last_lines(log_of(folder, 0)):
        say(line)
    last = notes(folder)[-1]
    code = last.facts.get("code", FeastrainError.exit_code)
    message = f"the job {job.name} failed with exit code {code}: {job.why}"
    return BY_CODE.get(code, FeastrainError)(message)
