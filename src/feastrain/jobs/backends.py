"""This machine as a place to train: torchrun's agent, in this process."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import uuid
from typing import TYPE_CHECKING

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from feastrain.errors import DataError, FeastrainError, InterruptedRun, LeakageError, UsageError
from feastrain.training.run import FAILURE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BY_CODE = {
    error.exit_code: error for error in (UsageError, DataError, LeakageError, InterruptedRun)
}


def run_here(arguments: list[str], processes: int, folder: Path) -> None:
    """Run `feastrain.training.run` in `processes` ranks on this machine, and wait.

    Args:
        arguments: its command line.
        processes: how many ranks.
        folder: the run, which one launcher at a time may work in.

    Raises:
        InterruptedRun: it was asked to stop, and can be resumed.
        FeastrainError: a rank failed; the message is its own.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
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
    with _alone_in(folder):
        (folder / FAILURE).unlink(missing_ok=True)
        try:
            command = ("-m", "feastrain.training.run", *arguments, "--launcher", str(os.getpid()))
            with _signals_restored():
                elastic_launch(config, sys.executable)(*command)
        except SignalException as stopped:
            message = "asked to stop; the same command resumes from the last checkpoint"
            raise InterruptedRun(message) from stopped
        except ChildFailedError as failed:
            raise _error_of(failed, folder) from failed


@contextlib.contextmanager
def _signals_restored() -> Iterator[None]:
    """Put back the handlers that torchrun's agent replaces and leaves replaced."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _error_of(failed: ChildFailedError, folder: Path) -> FeastrainError:
    """Return what the ranks' exit codes mean: the first one of ours, else how a rank ended."""
    codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
    told = folder / FAILURE
    for code in codes.values():
        if code in BY_CODE and told.is_file():
            return BY_CODE[code](told.read_text().strip())
    rank, first = failed.get_first_failure()
    how = f"signal {-first.exitcode}" if first.exitcode < 0 else f"exit code {first.exitcode}"
    return FeastrainError(
        f"training failed: rank {rank} ended with {how}; "
        "its last lines are above; the same command resumes from the last checkpoint"
    )
