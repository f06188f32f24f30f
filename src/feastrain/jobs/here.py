"""This machine as a backend of Kubeflow's client: torchrun in this interpreter, in the background.

client = HereClient(project.artifacts)
name = client.train(trainer=project.trainer("mlp"))
client.wait_for_job_status(name)
"""

from __future__ import annotations

import time
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubeflow.trainer import CustomTrainer, TrainerClient
from kubeflow.trainer.backends.base import RuntimeBackend
from kubeflow.trainer.constants import constants
from kubeflow.trainer.types import types

from feastrain.jobs.local import LocalJobs
from feastrain.jobs.portable import train_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from feastrain.jobs.job import Job

NAME = "feastrain-here"
TORCH = types.RuntimeTrainer(types.TrainerType.CUSTOM_TRAINER, "torch", image="")
RUNTIME = types.Runtime(NAME, TORCH, types.RuntimeKind.TRAINING_RUNTIME)


class HereBackend(RuntimeBackend):  # type: ignore[misc]
    """Kubeflow's view of the jobs of an artifacts folder.

    Args:
        artifacts: the folder.
    """

    def __init__(self, artifacts: Path) -> None:
        self._jobs = LocalJobs(artifacts)

    def list_runtimes(self) -> list[types.Runtime]:
        """Return the one runtime: this interpreter."""
        return [RUNTIME]

    def get_runtime(self, name: str) -> types.Runtime:
        """Return the runtime.

        Raises:
            ValueError: it has another name.
        """
        if name != NAME:
            message = f"there is no runtime {name} here, only {NAME}"
            raise ValueError(message)
        return RUNTIME

    def get_runtime_packages(self, runtime: types.Runtime) -> None:  # noqa: ARG002 - there is one
        """Print the packages of this interpreter."""
        for package in sorted(f"{one.name}=={one.version}" for one in distributions()):
            print(package)  # noqa: T201 - what Kubeflow's backends do

    def train(
        self,
        runtime: str | types.Runtime | None = None,
        initializer: types.Initializer | None = None,
        trainer: Any = None,
        options: list[Any] | None = None,
    ) -> str:
        """Start a run in the background, and return the job's name.

        Args:
            runtime: nothing, or the one there is.
            initializer: nothing: a run's snapshot lies here.
            trainer: what `Project.trainer` returns.
            options: nothing: a job is named by its run.

        Raises:
            ValueError: it is another trainer, or there are options.
            UsageError: the run is at work already.
        """
        if isinstance(runtime, str):
            self.get_runtime(runtime)
        ours = isinstance(trainer, CustomTrainer) and trainer.func is train_run
        if not ours or initializer or options:
            message = "this backend trains what `Project.trainer` returns, without options"
            raise ValueError(message)
        return self._jobs.submit(Path(trainer.func_args["folder"]))

    def list_jobs(self, runtime: types.Runtime | None = None) -> list[types.TrainJob]:
        """Return all jobs, or those of a runtime, the newest first."""
        if runtime is not None and runtime.name != NAME:
            return []
        return [self._told(job) for job in self._jobs.all()]

    def get_job(self, name: str) -> types.TrainJob:
        """Return a job; one that was stopped is `Suspended`.

        Raises:
            UsageError: there is none of this name.
        """
        return self._told(self._jobs.get(name))

    def get_job_logs(
        self,
        name: str,
        follow: bool = False,  # noqa: FBT001, FBT002 - the parent's
        step: str = f"{constants.NODE}-0",
    ) -> Iterator[str]:
        """Yield the lines of a node; with `follow`, until the job ends.

        Raises:
            UsageError: there is no such job, or node.
        """
        return self._jobs.logs(name, int(step.removeprefix(f"{constants.NODE}-")), follow=follow)

    def get_job_events(self, name: str) -> list[types.Event]:
        """Return what happened to a job, the oldest first.

        Raises:
            UsageError: there is no such job.
        """
        return [
            types.Event(constants.TRAINJOB_KIND, name, one.message, one.reason, one.event_time)
            for one in self._jobs.events(name)
        ]

    def wait_for_job_status(
        self,
        name: str,
        status: set[str] = frozenset({constants.TRAINJOB_COMPLETE}),  # type: ignore[assignment]
        timeout: float = 600,
        polling_interval: float = 2,
        callbacks: list[Callable[[types.TrainJob], None]] | None = None,
    ) -> types.TrainJob:
        """Return a job once it has one of the states.

        Raises:
            RuntimeError: it failed, or was stopped, and will have none of them.
            TimeoutError: it has none of them after `timeout` seconds.
            UsageError: there is no such job.
        """
        deadline = time.monotonic() + timeout
        while True:
            found = self._jobs.get(name)
            job = self._told(found)
            for callback in callbacks or ():
                callback(job)
            if job.status in status:
                return job
            if found.state in {"Failed", "Suspended"}:
                message = f"the job {name} is {found.state}: {found.why}"
                raise RuntimeError(message)
            if time.monotonic() > deadline:
                message = f"the job {name} is {found.state} after {timeout:.0f} s; it goes on"
                raise TimeoutError(message)
            time.sleep(polling_interval)

    def delete_job(self, name: str) -> None:
        """End a job with all its processes, and forget it; its checkpoints stay.

        Raises:
            UsageError: there is no such job.
        """
        self._jobs.delete(name)

    def _told(self, job: Job) -> types.TrainJob:
        nodes = [f"{constants.NODE}-{node}" for node in range(job.nodes)]
        steps = [types.Step(node, job.state, job.name) for node in nodes]
        made = self._jobs.events(job.name)[0].event_time
        return types.TrainJob(job.name, RUNTIME, steps, job.nodes, made, job.state)


class HereClient(TrainerClient):  # type: ignore[misc]
    """Kubeflow's client over this machine.

    Args:
        artifacts: the project's folder of artefacts.
    """

    def __init__(self, artifacts: Path) -> None:
        self.backend = HereBackend(artifacts)
