"""Kubeflow's training runtimes for feastrain: all that a TrainJob may not say of its pods.

A ClusterTrainingRuntime is made once for a cluster, by those who run it; jobs name it. What a run
survives is decided here:

* A node that was asked to leave (75), or lost another (69) or is cut off from it (70), or is
  evicted, ends all nodes, and all start again from the last checkpoint. Evictions and requests to
  stop cost no restart.
* An error that would come again (1 to 4 of `feastrain.errors`) ends the run at once.

Torchrun's own restarts are off: they would keep the pods of a node that is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from feastrain.errors import DataError, FeastrainError, InterruptedRun, LeakageError, UsageError

if TYPE_CHECKING:
    from feastrain.settings import Cluster

API = "trainer.kubeflow.org/v1alpha1"
CPU, GPU, TFT = "feastrain-torch", "feastrain-torch-gpu", "feastrain-tft"
NAMES = (CPU, GPU, TFT)
NODE = "node"
"""What Kubeflow's controller calls the replicated job, and the container, that trains."""
LABELS = {"app.kubernetes.io/name": "feastrain", "app.kubernetes.io/component": "train"}
MOUNT = "artifacts"
FETCH, CACHE = "fetch", Path("/feastrain/snapshots")
"""The container that fetches the snapshot before `node` starts, and where it puts it."""
SOURCE = "SNAPSHOT"
"""Variable of that container, by which a job says what to fetch."""
STORE_SECRET = "feastrain-store"  # noqa: S105 - the name of one
"""Secret that may hold what an object store asks for, as AWS_ACCESS_KEY_ID."""
METRICS_PORT = 8081
PROGRESS_PORT = 28080
"""Where the controller of OpenShift AI reads progress by default."""
MOST_RESTARTS = 10
SHUTDOWN_SECONDS = 240
"""How long ranks may take over their last checkpoint once they are asked to stop."""
GRACE_SECONDS = SHUTDOWN_SECONDS + 60
START_SECONDS = 30 * 60
"""How long a pod may fetch, encode and wait for others before its first sign of life."""
FINAL = tuple(error.exit_code for error in (FeastrainError, UsageError, DataError, LeakageError))
FATAL, ASKED, EVICTED = range(3)
"""Places of the rules by which a pod's end becomes its job's."""


def runtimes(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the runtimes as Kubernetes objects: for CPUs, for GPUs, and for a TFT on GPUs."""
    return [_runtime(name, cluster) for name in NAMES]


def _runtime(name: str, cluster: Cluster) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {"spec": _job_set(name, cluster)},
    }
    if cluster.gang == "coscheduling":
        spec["podGroupPolicy"] = {"coscheduling": {"scheduleTimeoutSeconds": 600}}
    if cluster.gang == "volcano":
        spec["podGroupPolicy"] = {"volcano": {}}
    labels = LABELS | {"trainer.kubeflow.org/framework": "torch"}
    return {
        "apiVersion": API,
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


def _job_set(name: str, cluster: Cluster) -> dict[str, Any]:
    job = {
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                _on_exit(*FINAL),
                _on_exit(InterruptedRun.exit_code),
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": {"metadata": {"labels": LABELS}, "spec": _pod(name, cluster)},
    }
    return {
        "failurePolicy": {
            "maxRestarts": MOST_RESTARTS,
            "rules": [
                _after("fails-again", "FailJobSet", FATAL),
                _after("was-asked", "RestartJobSetAndIgnoreMaxRestarts", ASKED),
                _after("was-evicted", "RestartJobSetAndIgnoreMaxRestarts", EVICTED),
            ],
        },
        "replicatedJobs": [
            {
                "name": NODE,
                "template": {
                    "metadata": {
                        "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
                    },
                    "spec": job,
                },
            }
        ],
    }


def _on_exit(*codes: int) -> dict[str, Any]:
    on = {"containerName": NODE, "operator": "In", "values": list(codes)}
    return {"action": "FailJob", "onExitCodes": on}


def _after(name: str, action: str, rule: int) -> dict[str, Any]:
    """Return what becomes of all nodes once a pod of one has met a rule of its job."""
    return {
        "name": name,
        "action": action,
        "onJobFailureReasons": ["PodFailurePolicy"],
        "onJobFailureMessagePatterns": [f"matching FailJob rule at index {rule}"],
        "targetReplicatedJobs": [NODE],
    }


def _pod(name: str, cluster: Cluster) -> dict[str, Any]:
    security: dict[str, Any] = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if not cluster.openshift:
        security |= {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": security,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": LABELS},
                "matchLabelKeys": ["jobset.sigs.k8s.io/jobset-name"],
            }
        ],
        "containers": [_container(name, cluster)],
        "volumes": [
            {"name": MOUNT, "persistentVolumeClaim": {"claimName": cluster.claim}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        ],
    }
    if cluster.fetch:
        _add_fetch(pod, cluster)
    if name != CPU:
        pod["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    return pod


def _add_fetch(pod: dict[str, Any], cluster: Cluster) -> None:
    """Have a pod fetch the snapshot that its job names, to a disk of the node."""
    (node,) = pod["containers"]
    kept = {"name": "snapshots", "mountPath": str(CACHE)}
    disk: dict[str, Any] = {"emptyDir": {}}
    if cluster.node_cache:
        disk = {"hostPath": {"path": str(cluster.node_cache), "type": "DirectoryOrCreate"}}
    pod["volumes"].append({"name": "snapshots", **disk})
    pod["initContainers"] = [
        {
            "name": FETCH,
            "image": node["image"],
            "command": ["python", "-m", "feastrain.jobs.fetch", f"$({SOURCE})", str(CACHE)],
            "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - a volume of the pod's own
            "envFrom": [{"secretRef": {"name": STORE_SECRET, "optional": True}}],
            "resources": {
                "requests": {"cpu": "500m", "memory": "1Gi"},
                "limits": {"cpu": "2", "memory": "1Gi"},
            },
            "securityContext": node["securityContext"],
            "volumeMounts": [*node["volumeMounts"], kept],
        }
    ]
    node["volumeMounts"].append(kept | {"readOnly": True})


def _container(name: str, cluster: Cluster) -> dict[str, Any]:
    environment = {
        "HOME": "/tmp",  # noqa: S108 - a volume of the pod's own
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS),
        "FEASTRAIN_METRICS_HOST": "0.0.0.0",  # noqa: S104 - scraped from other pods
        "FEASTRAIN_METRICS_PORT": str(METRICS_PORT),
    }
    ports = [{"name": "metrics", "containerPort": METRICS_PORT}]
    if cluster.openshift:
        environment["FEASTRAIN_PROGRESS_PORT"] = str(PROGRESS_PORT)
        ports.append({"name": "progress", "containerPort": PROGRESS_PORT})
    if name == TFT:  # a step of one takes long, and the first compiles
        environment["FEASTRAIN_TRAINING_TIMEOUT_SECONDS"] = "900"
    return {
        "name": NODE,
        "image": cluster.image if name == CPU else cluster.gpu_image,
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "ports": ports,
        "startupProbe": _probe("live", every=15, failures=START_SECONDS // 15),
        "livenessProbe": _probe("live", every=60, failures=3),
        "readinessProbe": _probe("ready", every=30, failures=1),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": MOUNT, "mountPath": str(cluster.artifacts)},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a volume of the pod's own
        ],
    }


def _probe(what: str, *, every: int, failures: int) -> dict[str, Any]:
    return {
        "exec": {"command": ["python", "-m", "feastrain.jobs.probe", what]},
        "periodSeconds": every,
        "timeoutSeconds": 20,
        "failureThreshold": failures,
    }
