"""This machine as a place to train: torchrun's agent, in this process, as often as it takes."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import signal
import sys
import threading
import uuid
from typing import TYPE_CHECKING, NoReturn

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from feastrain.errors import (
    BY_CODE,
    FeastrainError,
    InterruptedRun,
    LostRankError,
    UsageError,
)
from feastrain.settings import load_settings
from feastrain.telemetry import say
from feastrain.training.run import FAILURE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from feastrain.recipe import Training

MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""glibc keeps what a step frees for the next one instead of asking the kernel for zeroed pages:
on a CPU a step of a TFT took 4 to 14% less time. Other C libraries ignore them."""


def run_here(
    arguments: list[str], folder: Path, training: Training, *, fresh: bool = False
) -> None:
    """Run `feastrain.training.run` in as many ranks as the recipe says, and wait.

    When a rank dies, which is no error of ours, all are started again from the last checkpoint,
    at most `training.restarts` times without a new one. Torchrun's own restarts are not used:
    they would repeat errors that are bound to come again.

    Args:
        arguments: its command line.
        folder: the run, which one launcher at a time may work in.
        training: how many processes, and how often they are restarted.
        fresh: ignore checkpoints of earlier runs.

    Raises:
        InterruptedRun: it was asked to stop, and can be resumed.
        FeastrainError: a rank failed, with its own message; or one died too often.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    earlier = load_settings().restarts
    with _alone_in(folder), _until_stopped(), _environment(MALLOC):
        first = saved = _saved(folder)
        used = 0
        for restarts in itertools.count(earlier):
            anew = ["--fresh"] if fresh and _saved(folder) == first else []
            with _environment({"FEASTRAIN_RESTARTS": str(restarts)}, instead=True):
                death = _run_once([*arguments, *anew], folder, training.processes)
            if death is None:
                return
            saved, used = (now := _saved(folder)), used if now == saved else 0
            if used == training.restarts:
                raise FeastrainError(_given_up(death, used))
            used += 1
            say(
                f"{death}; all ranks start again from the last checkpoint "
                f"(restart {used} of {training.restarts})"
            )


def _run_once(arguments: list[str], folder: Path, processes: int) -> str | None:
    """Start all ranks and wait; return how one died, or None if all are done.

    Raises:
        FeastrainError: a rank failed by itself; the message is its own.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    (folder / FAILURE).unlink(missing_ok=True)
    command = ("-m", "feastrain.training.run", *arguments, "--launcher", str(os.getpid()))
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as failed:
        # In the order in which they were seen: first the cause, then those it took along.
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        _raise_ours(codes, folder / FAILURE)
        return _death(codes)
    return None


def _raise_ours(codes: dict[int, int], told: Path) -> None:
    """Raise what a rank said as it left with a code of ours.

    Raises:
        FeastrainError: by its exit code.
    """
    for rank, code in codes.items():
        if code in BY_CODE and code != LostRankError.exit_code:
            if told.is_file():
                raise BY_CODE[code](told.read_text().strip())
            message = f"training failed: rank {rank} ended with exit code {code}; see above"
            raise FeastrainError(message)


def _death(codes: dict[int, int]) -> str:
    """Return in words how the first rank ended that did not just miss another."""
    ends = [(rank, code) for rank, code in codes.items() if code != LostRankError.exit_code]
    rank, code = (ends or list(codes.items()))[0]
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"rank {rank} ended with {how}"


def _given_up(death: str, restarts: int) -> str:
    after = f" again after {restarts} restarts without a new checkpoint" if restarts else ""
    return (
        f"training failed: {death}{after}; its last lines are above; "
        "the same command resumes from the last checkpoint"
    )


def _saved(folder: Path) -> set[str]:
    """Return the names of the checkpoints of a run."""
    return {path.name for path in folder.glob("*.safetensors")}


@contextlib.contextmanager
def _until_stopped() -> Iterator[None]:
    """End the block when this process is asked to stop, and put the handlers back after it.

    Torchrun's agent sets such handlers too while ranks run, and leaves them.

    Raises:
        InterruptedRun: SIGTERM or Ctrl-C arrived.
    """
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                stack.callback(signal.signal, number, signal.signal(number, _stop))
        try:
            yield
        except SignalException as stopped:
            message = "asked to stop; the same command resumes from the last checkpoint"
            raise InterruptedRun(message) from stopped


def _stop(number: int, _: FrameType | None) -> NoReturn:
    message = f"signal {number}"
    raise SignalException(message, signal.Signals(number))


@contextlib.contextmanager
def _environment(variables: dict[str, str], *, instead: bool = False) -> Iterator[None]:
    """Give the processes that the block starts some variables, unless they are given already.

    Args:
        variables: by name.
        instead: whether they replace what is given.
    """
    ours = os.environ  # noqa: TID251 - written for those who inherit it, not read
    before = {name: ours[name] for name in variables if name in ours}
    ours.update(variables if instead else variables | before)
    try:
        yield
    finally:
        for name in variables:
            del ours[name]
        ours.update(before)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the run's lock, which the system lets go of however this process ends."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another `feastrain train` is at work in {folder}; wait for it or stop it"
            raise UsageError(message) from error
        yield
