"""A training run as objects of a Kubernetes cluster: what is shown is what is sent.

The job's pods run the very module that trains here, on the snapshot and run folder that they see
through the volume they share with this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from feastrain.errors import UsageError
from feastrain.jobs.runtimes import (
    API,
    CACHE,
    CPU,
    FETCH,
    GPU,
    LABELS,
    NODE,
    SOURCE,
    TFT,
)

if TYPE_CHECKING:
    from feastrain.recipe import Recipe
    from feastrain.settings import Cluster

QUEUE = "kueue.x-k8s.io/queue-name"
PROGRESSION = "trainer.opendatahub.io/progression-tracking"
"""Has OpenShift AI's controller read a job's progress, at its usual port."""
LONGEST_NAME = 63
DIGITS = 12
"""Of the run's fingerprint that a job's name ends in."""


@dataclass(frozen=True)
class Size:
    """What each node of a run asks for."""

    nodes: int = 1
    processes: int = 1
    """Ranks on each node."""
    cpu: int | None = None
    """Cores; by default one for each process."""
    memory: str = "4Gi"
    gpus: int = 0
    why: str = ""
    """Where the memory comes from, if it was worked out."""

    def resources(self) -> dict[str, dict[str, str]]:
        """Return requests, and as much as limits.

        Ranks take as many threads as the limit on cores allows: without one, all of the machine,
        so that weights would differ in their last bits from one machine to the next.
        """
        asked = {"cpu": str(self.cpu or self.processes), "memory": self.memory}
        if self.gpus:
            asked["nvidia.com/gpu"] = str(self.gpus)
        return {"requests": asked, "limits": dict(asked)}


def job_name(recipe: str, run: str) -> str:
    """Return the TrainJob's name (RFC 1035) for a recipe and the fingerprint of its run.

    The same run has the same name, so that it is not started twice.
    """
    letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in recipe.lower()).strip("-")
    stem = letters if letters[:1].isalpha() else f"run-{letters}".rstrip("-")
    return f"{stem[: LONGEST_NAME - DIGITS - 1].rstrip('-')}-{run[:DIGITS]}"


def runtime_of(recipe: Recipe, size: Size) -> str:
    """Return the name of the runtime that trains the recipe."""
    if not size.gpus:
        return CPU
    return TFT if any(model.kind == "tft" for model in recipe.members) else GPU


def command(arguments: list[str], processes: int) -> list[str]:
    """Return what a node runs; how many nodes there are, and which this is, torchrun reads.

    Kubeflow would derive the number of ranks from the CPU request, so it is said.
    """
    torchrun = ["--nproc-per-node", str(processes), "--max-restarts", "0"]
    return [
        *("python", "-m", "feastrain.jobs.node"),
        *torchrun,
        *("-m", "feastrain.training.run", *arguments),
    ]


def render(
    recipe: Recipe, run: str, arguments: list[str], size: Size, cluster: Cluster
) -> list[dict[str, Any]]:
    """Return the objects of a run: the TrainJob, and what keeps its pods from leaving at once.

    Args:
        recipe: what is trained.
        run: the fingerprint of the run.
        arguments: of `feastrain.training.run`, with paths as pods see them.
        size: what to ask for.
        cluster: where.

    Raises:
        UsageError: several processes of one node would share a GPU.
    """
    if size.gpus and size.processes > size.gpus:
        message = (
            f"{size.processes} processes on a node cannot share {size.gpus} GPU; "
            "lower --nproc-per-node or ask for more with --gpus"
        )
        raise UsageError(message)
    name = job_name(recipe.name, run)
    job: dict[str, Any] = {
        "apiVersion": API,
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": LABELS | ({QUEUE: cluster.queue} if cluster.queue else {}),
            "annotations": {
                "feastrain.dev/recipe": recipe.name,
                "feastrain.dev/run": run,
                **({"feastrain.dev/memory": size.why} if size.why else {}),
                **({PROGRESSION: "enabled"} if cluster.openshift else {}),
            },
        },
        "spec": {
            "runtimeRef": {
                "apiGroup": API.split("/")[0],
                "kind": "ClusterTrainingRuntime",
                "name": runtime_of(recipe, size),
            },
            "trainer": {
                "image": cluster.gpu_image if size.gpus else cluster.image,
                "command": command(arguments, size.processes),
                "numNodes": size.nodes,
                "resourcesPerNode": size.resources(),
            },
        },
    }
    if cluster.fetch:
        snapshot = Path(arguments[arguments.index("--snapshot") + 1])
        job["spec"]["runtimePatches"] = [_fetching(snapshot.name, cluster)]
    return [job, *_disruption_budget(name, size, cluster)]


def _fetching(snapshot: str, cluster: Cluster) -> dict[str, Any]:
    """Return the patch of a runtime that says which snapshot its pods fetch."""
    source = cluster.fetch_from or str(cluster.artifacts / "snapshots")
    said = {"name": SOURCE, "value": f"{source.rstrip('/')}/{snapshot}"}
    pod = {"initContainers": [{"name": FETCH, "env": [said]}]}
    job = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    return {
        "manager": "feastrain.dev/render",
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}},
    }


def as_yaml(objects: list[dict[str, Any]]) -> str:
    """Return objects as one file that `kubectl apply -f` takes."""
    return yaml.safe_dump_all(objects, sort_keys=False, explicit_start=True)


def _disruption_budget(name: str, size: Size, cluster: Cluster) -> list[dict[str, Any]]:
    """Return what lets one node of a run be drained at a time: each costs a restart of all.

    A run of one node has none: it would keep its node from ever being drained.
    """
    if size.nodes == 1:
        return []
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": cluster.namespace, "labels": LABELS},
            "spec": {
                "minAvailable": size.nodes - 1,
                "selector": {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": name}},
            },
        }
    ]


def inside(path: Path, artifacts: Path, cluster: Cluster) -> str:
    """Return where pods see a path of the artifacts folder, or the snapshot that they fetch.

    Raises:
        UsageError: it is elsewhere.
    """
    if cluster.fetch and path.resolve().parent == (artifacts / "snapshots").resolve():
        return str(CACHE / path.name)
    try:
        return str(cluster.artifacts / path.resolve().relative_to(artifacts.resolve()))
    except ValueError as error:
        message = f"pods see the folder {artifacts} alone, and {path} is not in it"
        raise UsageError(message) from error
