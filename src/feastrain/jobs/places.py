"""Where a recipe is trained: one way to send, show and find jobs of every place."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from feastrain.errors import FeastrainError, InterruptedRun, UsageError
from feastrain.jobs.agents import commands
from feastrain.jobs.cluster import Size, as_yaml, inside, render
from feastrain.jobs.job import Gang
from feastrain.jobs.local import LocalJobs
from feastrain.settings import load_cluster

if TYPE_CHECKING:
    from pathlib import Path

    from kubeflow.trainer import CustomTrainer

    from feastrain.jobs.job import On
    from feastrain.jobs.train import Run
    from feastrain.recipe import Recipe

PORT = 29500
"""Where node 0 would keep torchrun's store, in a command that is shown; a run takes a free one."""


def jobs_of(on: On, artifacts: Path) -> Any:
    """Return the jobs of a place: `LocalJobs`, or `Jobs` of `feastrain.jobs.trainer`.

    Args:
        on: where.
        artifacts: the project's folder.

    Raises:
        UsageError: the extra `jobs` is not installed, or there is no such place.
    """
    if on != "kubernetes":
        return LocalJobs(artifacts)
    _require_kubeflow()
    from feastrain.jobs.trainer import Jobs

    return Jobs(load_cluster())


def trainer_of(run: Run, pointer: Path, size: Size, *, fresh: bool = False) -> CustomTrainer:
    """Return a run that is prepared as a trainer for Kubeflow's client on this machine.

    Raises:
        UsageError: Kubeflow's client is not installed.
    """
    _require_kubeflow()
    from kubeflow.trainer import CustomTrainer

    from feastrain.jobs.portable import train_run

    run.request(pointer, Gang(size.nodes, size.processes), fresh=fresh).save(run.folder)
    return CustomTrainer(train_run, func_args={"folder": str(run.folder)}, num_nodes=size.nodes)


def _require_kubeflow() -> None:
    if importlib.util.find_spec("kubeflow") is None:
        message = "jobs elsewhere than here need Kubeflow's client: pip install 'feastrain[jobs]'"
        raise UsageError(message)


def send(on: On, recipe: Recipe, run: Run, artifacts: Path, size: Size, *, fresh: bool) -> str:
    """Send a run that is prepared to where it runs, and return the job's name.

    Raises:
        UsageError: it is at work already, or the place refuses it.
    """
    if on != "here":
        _require_kubeflow()
    jobs = jobs_of(on, artifacts)
    if on == "kubernetes":
        return str(jobs.submit(_objects(recipe, run, artifacts, size, fresh=fresh)))
    pointer = artifacts / "bundles" / recipe.name
    run.request(pointer, Gang(size.nodes, size.processes), fresh=fresh).save(run.folder)
    return str(jobs.submit(run.folder, on))


def show(on: On, recipe: Recipe, run: Run, artifacts: Path, size: Size, *, fresh: bool) -> str:
    """Return what would be sent: the objects of a cluster, or a command line for each node."""
    if on == "kubernetes":
        return as_yaml(_objects(recipe, run, artifacts, size, fresh=fresh))
    arguments = [*run.arguments(str), *(["--fresh"] if fresh else [])]
    lines = commands(arguments, Gang(size.nodes, size.processes), PORT)
    return "".join(f"{shlex.join(line)}\n" for line in lines)


def _objects(
    recipe: Recipe, run: Run, artifacts: Path, size: Size, *, fresh: bool
) -> list[dict[str, Any]]:
    if fresh:
        message = "--fresh is for runs here; a job of a cluster goes on from its last checkpoint"
        raise UsageError(message)
    cluster = load_cluster()
    arguments = run.arguments(partial(inside, artifacts=artifacts, cluster=cluster))
    return render(recipe, run.fingerprint, arguments, size, cluster)


def follow(jobs: Any, name: str, run: Run) -> None:
    """Tell the lines of a job on standard error until it ends.

    Raises:
        InterruptedRun: Ctrl-C; the job goes on.
        FeastrainError: it failed, as the error that its rank left with; or its bundle is not here.
    """
    try:
        for line in jobs.logs(name, follow=True):
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - what the ranks told
        jobs.wait(name)
    except KeyboardInterrupt as interrupt:
        message = f"the job {name} goes on; `feastrain jobs` follows and stops it"
        raise InterruptedRun(message) from interrupt
    if not run.is_done():
        message = (
            f"the job {name} is complete, but its bundle is not in {run.bundle}: "
            "mount the job's volume where FEASTRAIN_ARTIFACTS says"
        )
        raise FeastrainError(message)
