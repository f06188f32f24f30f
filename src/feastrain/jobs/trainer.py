"""Training jobs of a cluster, through Kubeflow's own client: sent, watched, stopped.

Jobs are made by `TrainerClient`, so that whoever knows Kubeflow's client finds them there. What it
leaves out is asked of the API server it talks to: a job that was suspended and goes on, the last
words of a rank that failed, lines that outlive a connection or a pod, and a limit on every wait.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import multiprocessing
import time
from typing import TYPE_CHECKING, Any

from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import CustomTrainerContainer, TrainerClient
from kubeflow.trainer.options import Annotations, Labels, Name, TrainerCommand
from kubernetes.client import ApiException, PolicyV1Api
from kubernetes.config import ConfigException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

from feastrain.errors import BY_CODE, FeastrainError, UsageError
from feastrain.jobs.agents import FOLLOWERS
from feastrain.jobs.cluster import QUEUE
from feastrain.jobs.job import ENDED, LAST_LINES, Job
from feastrain.jobs.runtimes import API, LABELS, NODE
from feastrain.telemetry import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubeflow.trainer.types.types import Event

    from feastrain.settings import Cluster

GROUP, VERSION = API.split("/")
PLURAL = "trainjobs"
JOB_OF, INDEX_OF = "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-completion-index"
OURS = ",".join(f"{key}={value}" for key, value in LABELS.items())
ANSWER_SECONDS = 30.0
"""How long the API server may take to answer; and a log to say more, before it is asked again."""
AWAY_SECONDS = 120.0
"""How long those who wait for a job put up with an API server that does not answer."""
POLL_SECONDS = 2.0
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class ClusterAwayError(FeastrainError):
    """The API server does not answer; it may do so later."""


class Jobs:
    """The training jobs of one namespace.

    Args:
        cluster: where; the kubeconfig says at which address and as whom.

    Raises:
        UsageError: there is no kubeconfig, or it has no such context.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._namespace = cluster.namespace
        # Its one warning is that it may not read a ConfigMap of another namespace.
        logging.getLogger("kubeflow.trainer.backends.kubernetes.backend").setLevel(logging.ERROR)
        config = KubernetesBackendConfig(namespace=cluster.namespace, context=cluster.context)
        with self._clearly("reach the cluster"):
            try:
                self.client = TrainerClient(config)
            except ConfigException as error:
                message = (
                    f"no cluster is known: {error}; name a kubeconfig in KUBECONFIG, "
                    "or one of its contexts in FEASTRAIN_CLUSTER_CONTEXT"
                )
                raise UsageError(message) from error
        self._core, self._custom = self.client.backend.core_api, self.client.backend.custom_api
        _limit_waits(self._core.api_client)

    def submit(self, objects: list[dict[str, Any]]) -> str:
        """Send what `feastrain.jobs.cluster.render` returned, and return the job's name.

        A run that is waiting or running is not sent twice; one that was stopped goes on.

        Raises:
            UsageError: the cluster refuses it, or has it already and it ended.
            ClusterAwayError: the API server does not answer.
        """
        job, *others = objects
        name: str = job["metadata"]["name"]
        spec = job["spec"]["trainer"]
        if (there := self._find(name)) is not None:
            return self._go_on(there)
        runtime = job["spec"]["runtimeRef"]["name"]
        remedy = "`feastrain render | kubectl apply -f -` makes it"
        with self._clearly(f"use the runtime {runtime}", missing=remedy):
            known = self.client.get_runtime(runtime)
        with self._clearly(f"make the job {name}"):
            self.client.train(
                runtime=known,
                trainer=CustomTrainerContainer(
                    image=spec["image"],
                    num_nodes=spec["numNodes"],
                    resources_per_node=spec["resourcesPerNode"]["limits"],
                ),
                options=[
                    Name(name),
                    Labels(job["metadata"]["labels"]),
                    Annotations(job["metadata"]["annotations"]),
                    TrainerCommand(spec["command"]),
                    _patches(job["spec"].get("runtimePatches", [])),
                ],
            )
        for other in others:
            self._protect(other, owner=self._read(name))
        return name

    def get(self, name: str) -> Job:
        """Return a job.

        Raises:
            UsageError: there is none of this name, or it may not be read.
            ClusterAwayError: the API server does not answer.
        """
        return _job(self._read(name), self._pods(name))

    def all(self) -> list[Job]:
        """Return all jobs of feastrain, the newest first.

        Raises:
            UsageError: they may not be read.
            ClusterAwayError: the API server does not answer.
        """
        with self._clearly("list jobs"):
            found = self._custom.list_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, label_selector=OURS
            )["items"]
        pods = self._pods()
        found.sort(key=lambda job: job["metadata"]["creationTimestamp"], reverse=True)
        return [
            _job(job, [pod for pod in pods if _labels(pod)[JOB_OF] == job["metadata"]["name"]])
            for job in found
        ]

    def logs(self, name: str, node: int = 0, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a node; with `follow`, until the job ends.

        Followed lines go on, and none comes twice, where the connection breaks or the node's pod
        is replaced. Lines of a pod that was replaced before are gone with it.

        Raises:
            UsageError: there is no such job, or its log may not be read.
            ClusterAwayError: the API server does not answer.
        """
        if follow:
            yield from self._follow(name, node)
            return
        with self._clearly(f"read the log of {name}"):
            yield from self.client.get_job_logs(name, step=f"{NODE}-{node}")

    def events(self, name: str) -> list[Event]:
        """Return what the cluster noted of a job and its pods, the oldest first.

        Raises:
            UsageError: there is no such job, or its events may not be read.
            ClusterAwayError: the API server does not answer.
        """
        with self._clearly(f"read events of the job {name}"):
            return list(self.client.get_job_events(name))

    def wait(self, name: str, seconds: float = math.inf, poll_seconds: float = POLL_SECONDS) -> Job:
        """Return the job once it is complete.

        Raises:
            FeastrainError: it failed, as the error that its rank left with; or it is not complete
                after `seconds`; or the API server has not answered for two minutes.
            UsageError: there is no such job.
        """
        deadline = time.monotonic() + seconds
        job: Job
        while (job := self._patiently(lambda: self.get(name))).state not in ENDED:
            if time.monotonic() > deadline:
                message = f"the job {name} is {job.state} after {seconds:.0f} s; it goes on"
                raise FeastrainError(message)
            time.sleep(poll_seconds)
        if job.state == "Failed":
            raise self._failure(job)
        return job

    def stop(self, name: str) -> None:
        """Have a job save and end its pods; it stays, and `submit` or `resume` has it go on.

        Raises:
            UsageError: there is no such job, it ended, or a queue would start it again.
            ClusterAwayError: the API server does not answer.
        """
        job = self.get(name)
        if job.state in ENDED:
            message = f"the job {name} has ended: it is {job.state}"
            raise UsageError(message)
        if job.queue:
            message = (
                f"the queue {job.queue} would start the job {name} again: delete it; "
                "sent again, the run goes on from its last checkpoint"
            )
            raise UsageError(message)
        self._suspend(name, suspended=True)

    def resume(self, name: str) -> None:
        """Have a job that was stopped go on from its last checkpoint.

        Raises:
            UsageError: there is no such job.
            ClusterAwayError: the API server does not answer.
        """
        self._suspend(name, suspended=False)

    def delete(self, name: str) -> None:
        """Delete a job and its pods; its run's folder, with all checkpoints, stays.

        Raises:
            UsageError: there is no such job, or it may not be deleted.
            ClusterAwayError: the API server does not answer.
        """
        with self._clearly(f"delete the job {name}"):
            self.client.delete_job(name)

    def _find(self, name: str) -> Job | None:
        try:
            return self.get(name)
        except NoSuchJobError:
            return None

    def _go_on(self, job: Job) -> str:
        if job.state in ENDED:
            message = (
                f"the cluster has the job {job.name}, and it is {job.state}: delete it, and send "
                "it again to go on from its last checkpoint"
            )
            raise UsageError(message)
        if job.state == "Suspended" and not job.queue:
            self.resume(job.name)
        return job.name

    def _protect(self, budget: dict[str, Any], owner: dict[str, Any]) -> None:
        """Make a PodDisruptionBudget that goes when its job does; a job runs without one too."""
        reference = {
            "apiVersion": API,
            "kind": "TrainJob",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
        made = budget | {"metadata": budget["metadata"] | {"ownerReferences": [reference]}}
        try:
            with self._clearly("make a PodDisruptionBudget"):
                PolicyV1Api(self._core.api_client).create_namespaced_pod_disruption_budget(
                    self._namespace, made
                )
        except FeastrainError as error:
            say(f"nothing keeps several nodes of the job from being drained at once: {error}")

    def _suspend(self, name: str, *, suspended: bool) -> None:
        change = [{"op": "add", "path": "/spec/suspend", "value": suspended}]
        with self._clearly(f"stop or start the job {name}"):
            self._custom.patch_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, name, change
            )

    def _read(self, name: str) -> dict[str, Any]:
        with self._clearly(f"read the job {name}"):
            found: dict[str, Any] = self._custom.get_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, name
            )
        return found

    def _pods(self, name: str | None = None) -> list[Any]:
        """Return the pods of a job, or of all jobs, that are not on their way out."""
        selector = f"{JOB_OF}={name}" if name else f"{JOB_OF},{OURS}"
        with self._clearly("list pods"):
            pods = self._core.list_namespaced_pod(self._namespace, label_selector=selector).items
        return [pod for pod in pods if pod.metadata.deletion_timestamp is None]

    def _pod(self, name: str, node: int) -> Any | None:
        """Return the newest pod of a node whose container has started."""
        pods = [
            pod
            for pod in self._pods(name)
            if _labels(pod).get(INDEX_OF) == str(node) and pod.status.phase != "Pending"
        ]
        return max(pods, key=lambda pod: pod.metadata.creation_timestamp, default=None)

    def _follow(self, name: str, node: int) -> Iterator[str]:
        seen = ""
        while True:
            # Asked before its lines are: once it has ended, those are all.
            job: Job = self._patiently(lambda: self.get(name))
            pod = self._patiently(lambda: self._pod(name, node))
            for stamp, line in self._lines(pod.metadata.name) if pod else ():
                if stamp > seen:
                    seen = stamp
                    yield line
            if job.state in ENDED:
                return
            time.sleep(POLL_SECONDS)

    def _lines(self, pod: str) -> Iterator[tuple[str, str]]:
        """Yield the lines of a pod, each after its time, until it ends or the connection does."""
        read = self._core.read_namespaced_pod_log
        # A connection that broke, or a pod that is gone: whoever follows asks again.
        with contextlib.suppress(HTTPError, ApiException):
            for line in Watch().stream(
                read,
                name=pod,
                namespace=self._namespace,
                container=NODE,
                timestamps=True,
            ):
                stamp, _, text = line.partition(" ")
                yield stamp, text

    def _failure(self, job: Job) -> FeastrainError:
        """Return the error of the rank that failed first; its last lines are told."""
        ends = sorted(_ends(self._pods(job.name)))
        if not ends:
            return FeastrainError(f"the job {job.name} failed: {job.why}")
        _, _, code, node, pod = ends[0]
        lines = self._last_lines(pod)
        for line in lines:
            say(line)
        last = next((line.strip() for line in reversed(lines) if line.strip()), job.why)
        message = f"the job {job.name} failed: node {node} left with exit code {code}: {last}"
        return BY_CODE.get(code, FeastrainError)(message)

    def _last_lines(self, pod: str) -> list[str]:
        try:
            with self._clearly(f"read the log of {pod}"):
                text = self._core.read_namespaced_pod_log(
                    pod, self._namespace, container=NODE, tail_lines=LAST_LINES
                )
        except FeastrainError as error:
            return [str(error)]
        return str(text).splitlines()

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Return an answer, asking again for a while where the API server is away."""
        deadline = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return ask()
            except ClusterAwayError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _clearly(self, what: str, missing: str | None = None) -> Iterator[None]:
        """Say in one line why the cluster did not do what the block asks of it.

        Args:
            what: the block does, after "cannot".
            missing: what to do where the cluster has no such thing; by default, it is a job.

        Raises:
            FeastrainError: as one of the errors that the callers name.
        """
        try:
            yield
        except (ApiException, HTTPError, RuntimeError, TimeoutError) as error:
            # Kubeflow's client wraps what it met in an error that says nothing of it.
            met = error if isinstance(error, ApiException | HTTPError) else error.__cause__
            if isinstance(met, ApiException) and met.status not in TRANSIENT | {0}:
                raise self._refusal(met, what, missing) from error
            if isinstance(met, ApiException | HTTPError | multiprocessing.TimeoutError):
                message = f"cannot {what}: the cluster does not answer: {_reason(met)}"
                raise ClusterAwayError(message) from error
            raise

    def _refusal(self, error: ApiException, what: str, missing: str | None) -> UsageError:
        told = _reason(error)
        place = f"in namespace {self._namespace}"
        match error.status:
            case 401:
                return UsageError(f"cannot {what}: the cluster does not know you: log in again")
            case 403 if "admission webhook" not in told:
                return UsageError(f"cannot {what}: you may not {place}: {told}")
            case 404 if missing:
                return UsageError(f"cannot {what}: the cluster has none; {missing}")
            case 404:
                return NoSuchJobError(f"cannot {what}: there is none {place}: {told}")
            case 409:
                return UsageError(f"cannot {what}: someone else made or changed it: {told}")
            case _:
                return UsageError(f"cannot {what}: the cluster refuses it: {told}")


class NoSuchJobError(UsageError):
    """The namespace has no job of this name."""


def _patches(patches: list[dict[str, Any]]) -> Callable[..., None]:
    """Return the option that gives a job its patches of the runtime, as they are."""

    def give(job: dict[str, Any], *_: object) -> None:
        if patches:
            job.setdefault("spec", {})["runtimePatches"] = patches

    return give


def _limit_waits(api: Any) -> None:
    """Have every request of a client end: it has no limit of its own, and takes one for each."""
    ask = api.rest_client.request

    def within(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("_request_timeout") is None:
            kwargs["_request_timeout"] = (ANSWER_SECONDS, ANSWER_SECONDS)
        return ask(*args, **kwargs)

    api.rest_client.request = within


def _reason(error: BaseException) -> str:
    """Return, in one line, what the API server says of an error; else what the error says."""
    if isinstance(error, ApiException):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return " ".join(str(json.loads(error.body)["message"]).split())
        return f"{error.status} {error.reason}"
    return " ".join(str(error).split()) or type(error).__name__


def _job(found: dict[str, Any], pods: list[Any]) -> Job:
    """Return a job from its object and pods."""
    metadata, spec, status = found["metadata"], found["spec"], found.get("status", {})
    notes, labels = metadata.get("annotations", {}), metadata.get("labels", {})
    nodes = spec.get("trainer", {}).get("numNodes", 1)
    state, why = _state(status.get("conditions", []), pods, nodes)
    progress = status.get("trainerStatus", {})
    return Job(
        metadata["name"],
        state,
        why,
        nodes,
        notes.get("feastrain.dev/recipe", ""),
        notes.get("feastrain.dev/run", ""),
        labels.get(QUEUE),
        progress.get("progressPercentage"),
        progress.get("estimatedRemainingSeconds"),
        {one["name"]: one["value"] for one in progress.get("metrics", [])},
    )


def _state(conditions: list[dict[str, Any]], pods: list[Any], nodes: int) -> tuple[str, str]:
    """Return the state and what is said of it.

    Kubeflow's client takes any condition, as that of a job that was suspended and goes on, for a
    job that was only created.
    """
    true = {one["type"]: one["message"] for one in conditions if one["status"] == "True"}
    for state in ("Failed", "Complete", "Suspended"):
        if state in true:
            return state, true[state]
    running = sum(pod.status.phase in {"Running", "Succeeded"} for pod in pods)
    if running >= nodes:
        return "Running", ""
    return "Created", f"{running} of {nodes} nodes run"


def _ends(pods: list[Any]) -> Iterator[tuple[bool, Any, int, str, str]]:
    """Yield how each pod failed, to be sorted: the cause first, then those it took along.

    For each: whether it only followed another, when it ended, its code, node and name.
    """
    for pod in pods:
        for container in pod.status.container_statuses or []:
            end = container.state.terminated
            if container.name == NODE and end is not None and end.exit_code:
                node, code = _labels(pod).get(INDEX_OF, "?"), end.exit_code
                yield code in FOLLOWERS, end.finished_at, code, node, pod.metadata.name


def _labels(pod: Any) -> dict[str, str]:
    return pod.metadata.labels or {}
