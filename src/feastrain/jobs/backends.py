"""This machine as a place to train: torchrun's agents, as often as it takes.

The agent of one node runs in this process; those of several, in one each.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import uuid
from typing import TYPE_CHECKING, NoReturn

from feastrain.errors import BY_CODE, FeastrainError, InterruptedRun, LostRankError
from feastrain.jobs.agents import death, run_agents
from feastrain.jobs.record import note
from feastrain.recipe import load_recipe
from feastrain.settings import load_settings
from feastrain.telemetry import say
from feastrain.training.files import FAILURE, fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from feastrain.jobs.job import Gang
    from feastrain.jobs.record import Request

    Start = Callable[[list[str], Path, Gang], dict[int, int]]
    """Starts all ranks, waits, and returns how those ended that failed."""

MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""glibc keeps what a step frees for the next one instead of asking the kernel for zeroed pages:
on a CPU a step of a TFT took 4 to 14% less time. Other C libraries ignore them."""


def start_here(arguments: list[str], folder: Path, gang: Gang) -> dict[int, int]:
    """Start all ranks and wait; return the exit codes of ranks, or nodes, as they were seen.

    Args:
        arguments: of `feastrain.training.run`.
        folder: the run.
        gang: the ranks.

    Raises:
        StoppedError: this process was asked to stop.
    """
    if gang.nodes == 1:
        return _run_agent(arguments, gang.processes)
    return run_agents(arguments, folder, gang)


def run_request(request: Request, folder: Path, start: Start = start_here) -> None:
    """Run `feastrain.training.run` in all ranks, and wait; the caller holds the run's lock.

    When a rank dies, which is no error of ours, all are started again from the last checkpoint,
    at most `training.restarts` times without a new one. Torchrun's own restarts are not used:
    they would repeat errors that are bound to come again.

    Args:
        request: what is asked for.
        folder: the run.
        start: what starts all ranks, each time.

    Raises:
        InterruptedRun: it was asked to stop, and can be resumed.
        FeastrainError: a rank failed, with its own message; or one died too often.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    earlier = load_settings().restarts
    most_restarts = load_recipe(folder / "recipe.yaml").training.restarts
    with _until_stopped(), _environment(MALLOC):
        first = saved = fitted(folder)
        used = 0
        note(folder, "Started")
        for restarts in itertools.count(earlier):
            anew = ["--fresh"] if request.fresh and fitted(folder) == first else []
            with _environment({"FEASTRAIN_RESTARTS": str(restarts)}, instead=True):
                died = _run_once([*request.arguments(folder), *anew], folder, request.gang, start)
            if died is None:
                return
            saved, used = (now := fitted(folder)), used if now == saved else 0
            if used == most_restarts:
                raise FeastrainError(_given_up(died, used))
            used += 1
            told = (
                f"{died}; all ranks start again from the last checkpoint "
                f"(restart {used} of {most_restarts})"
            )
            say(told)
            note(folder, "Restarted", told)


def _run_once(arguments: list[str], folder: Path, gang: Gang, start: Start) -> str | None:
    """Start all ranks and wait; return how one died, or None if all are done.

    Raises:
        FeastrainError: a rank failed by itself; the message is its own.
    """
    (folder / FAILURE).unlink(missing_ok=True)
    what = "rank" if gang.nodes == 1 else "node"
    codes = start(arguments, folder, gang)
    if not codes:
        return None
    _raise_ours(codes, folder / FAILURE, what)
    return death(codes, what)


def _run_agent(arguments: list[str], processes: int) -> dict[int, int]:
    """Run one node's ranks; return the exit codes of those that failed, as they were seen."""
    # Several seconds, which a launcher of several agents need not spend.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

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
    command = ("-m", "feastrain.training.run", *arguments, "--launcher", str(os.getpid()))
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as failed:
        return {rank: failure.exitcode for rank, failure in failed.failures.items()}
    except SignalException as stopped:
        raise StoppedError(str(stopped)) from stopped
    return {}


def _raise_ours(codes: dict[int, int], told: Path, what: str) -> None:
    """Raise what a rank said as it, or its node, left with a code of ours.

    Raises:
        FeastrainError: by its exit code.
    """
    for who, code in codes.items():
        if code in BY_CODE and code != LostRankError.exit_code:
            if told.is_file():
                raise BY_CODE[code](told.read_text().strip())
            message = f"training failed: {what} {who} ended with exit code {code}; see above"
            raise FeastrainError(message)


def _given_up(died: str, restarts: int) -> str:
    after = f" again after {restarts} restarts without a new checkpoint" if restarts else ""
    return (
        f"training failed: {died}{after}; its last lines are above; "
        "the same command resumes from the last checkpoint"
    )


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
        except StoppedError as stopped:
            message = "asked to stop; the same command resumes from the last checkpoint"
            raise InterruptedRun(message) from stopped


def _stop(number: int, _: FrameType | None) -> NoReturn:
    message = f"signal {number}"
    raise StoppedError(message)


class StoppedError(Exception):
    """This process got a signal that asks it to stop."""


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
