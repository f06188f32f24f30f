"""A run through the container backend of Kubeflow's client: Docker or Podman on this machine.

Its containers see one folder, so the snapshot and the checkpoints are copied there, and what they
made is copied back. Their ranks are started by that backend's own torchrun, whose exit code says
nothing; each rank leaves its own in a file. A container's shell keeps SIGTERM to itself: a run that
is stopped goes on from its last checkpoint, which may be `training.checkpoint_s` old.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubeflow.trainer import ContainerBackendConfig, CustomTrainer, TrainerClient
from kubeflow.trainer.backends.container.types import TrainingRuntimeSource
from kubeflow.trainer.backends.container.utils import create_workdir
from kubeflow.trainer.constants import constants
from kubeflow.trainer.options import Name

from feastrain.artifacts import is_published, open_manifest
from feastrain.errors import LostRankError, UsageError
from feastrain.jobs.agents import FOLLOW_SECONDS, log_of
from feastrain.jobs.backends import run_request
from feastrain.jobs.launch import adopted, launch
from feastrain.jobs.portable import train_rank
from feastrain.jobs.record import Request
from feastrain.settings import load_cluster, load_settings
from feastrain.training.files import FAILURE, USAGE, fitted

if TYPE_CHECKING:
    from feastrain.jobs.job import Gang

POLL_SECONDS = 0.5
RUN, SNAPSHOT, BUNDLE = "run", "snapshot", "bundle"
"""What the containers' folder holds."""


def run_in_containers(folder: Path) -> None:
    """Run what is asked for of a run in containers, and wait.

    Raises:
        FeastrainError: as the run failed, or was stopped; or there are no containers to be had.
    """
    launch(folder, partial(run_request, start=_start))


def _start(arguments: list[str], folder: Path, gang: Gang) -> dict[int, int]:
    """Run all nodes, a container each; return the exit codes of those that failed."""
    request, client = Request.load(folder), _client()
    workdir = Path(create_workdir(request.name))
    _fill(workdir, request, folder)
    anew = {"fresh": "--fresh"} if "--fresh" in arguments else {}
    settings = load_settings()
    trainer = CustomTrainer(
        train_rank,
        func_args={"folder": constants.WORKSPACE_PATH, **anew},
        image=load_cluster().image,
        num_nodes=gang.nodes,
        # What the backend takes for the number of processes; no device is asked for.
        resources_per_node={"gpu": str(gang.processes)},
        env={
            "FEASTRAIN_NODES_HERE": str(gang.nodes),
            "FEASTRAIN_RESTARTS": str(settings.restarts),
            "FEASTRAIN_TRAINING_TIMEOUT_SECONDS": str(settings.training_timeout_seconds),
        },
    )
    try:
        client.train(trainer=trainer, options=[Name(request.name)])
        _watch(client.backend, request.name, folder)
        return _codes(client.backend, request.name, workdir)
    finally:
        with contextlib.suppress(ValueError):  # there are none, for none could be made
            client.delete_job(request.name)
        _fetch(workdir, request, folder)


def _client() -> TrainerClient:
    config = ContainerBackendConfig(
        auto_remove=False, runtime_source=TrainingRuntimeSource(sources=[])
    )
    try:
        return TrainerClient(config)
    except RuntimeError as error:
        told = str(error).splitlines()[0]
        message = f"{told} Start one of them, and pip install its client: docker, or podman"
        raise UsageError(message) from error


def _fill(workdir: Path, request: Request, folder: Path) -> None:
    """Copy what the ranks read to where containers see it."""
    shutil.rmtree(workdir)
    shutil.copytree(request.snapshot, workdir / SNAPSHOT)
    shutil.copytree(folder, workdir / RUN, ignore=shutil.ignore_patterns("*.log"))


def _fetch(workdir: Path, request: Request, folder: Path) -> None:
    """Copy back what the ranks made, and drop their copies."""
    made = workdir / RUN
    told = [Path(name) for name in (FAILURE, USAGE) if (made / name).is_file()]
    for path in [*(fitted(made) - fitted(folder)), *told]:
        kept = folder / path
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f".{path.name}")
        shutil.copyfile(made / path, unfinished)
        unfinished.rename(kept)
    bundle, final = workdir / BUNDLE, Path(request.bundle)
    if is_published(bundle) and not is_published(final):
        unfinished = final.with_name(f".{final.name}.fetched")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(bundle, unfinished)
        open_manifest(unfinished)
        unfinished.rename(final)
    shutil.rmtree(workdir, ignore_errors=True)


def _watch(backend: Any, name: str, folder: Path) -> None:
    """Wait until all containers ended, or one failed and the others had time to follow."""
    containers = _containers(backend, name)
    for node, container in containers.items():
        lines = partial(_copy_lines, backend, container, log_of(folder, node))
        threading.Thread(target=lines, daemon=True).start()
    deadline = float("inf")
    while time.monotonic() < deadline:
        states = [backend._adapter.container_status(one) for one in containers.values()]
        if all(state == "exited" for state, _ in states):
            break
        if any(state == "exited" and code for state, code in states):
            deadline = min(deadline, time.monotonic() + FOLLOW_SECONDS)
        time.sleep(POLL_SECONDS)


def _copy_lines(backend: Any, container: str, log: Path) -> None:
    with log.open("a") as file:
        for lines in backend._adapter.container_logs(container, follow=True):
            file.write(lines)
            file.flush()


def _codes(backend: Any, name: str, workdir: Path) -> dict[int, int]:
    """Return the exit codes of the ranks that failed; 69 of a node whose rank left none."""
    ends = {int(path.suffix[1:]): path for path in workdir.glob("exit.*")}
    first = sorted(ends, key=lambda rank: ends[rank].stat().st_mtime)
    codes = {rank: int(ends[rank].read_text()) for rank in first}
    failed = {rank: code for rank, code in codes.items() if code}
    if failed:
        return failed
    states = {
        node: backend._adapter.container_status(one)
        for node, one in _containers(backend, name).items()
    }
    return {node: LostRankError.exit_code for node, state in states.items() if state[1] != 0}


def _containers(backend: Any, name: str) -> dict[int, str]:
    step = f"{backend.label_prefix}/step"
    found = backend._get_job_containers(name)
    return {int(one["labels"][step].rpartition("-")[2]): one["id"] for one in found}


if __name__ == "__main__":
    adopted(run_in_containers)
