"""A small Kubernetes API server with Kubeflow Trainer's controller, as a submitter sees them.

Over real HTTP it stores objects, checks them as the real one does (schemas and CEL rules of the
CRDs, core schemas, the webhooks' rules), asks who may do what, and makes the pods of a job from its
runtime. The controller's part is played by a test: it says how a pod ends, and JobSet's and Job's
failure policies, as they stand in the runtime, decide what becomes of the job.
"""

import copy
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

import crds

TRAINER = "trainer.kubeflow.org/v1alpha1"
TOKEN = "a-token"
KINDS = {
    "trainjobs": "TrainJob",
    "trainingruntimes": "TrainingRuntime",
    "clustertrainingruntimes": "ClusterTrainingRuntime",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "pods": "Pod",
    "events": "Event",
    "configmaps": "ConfigMap",
}
OF_CONTROLLER = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR"}
OF_CONTROLLER |= {"PET_MASTER_PORT"}
PATH = re.compile(
    r"/api(?:s/(?P<group>[^/]+))?/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>[a-z]+))?$"
)


class Refused(Exception):  # noqa: N818 - it is an answer
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: "KubeApi", port: int) -> None:
        self.api = api
        self.connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no concern."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class KubeApi:
    """The server, what it holds, and the hands of the controller."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.said: dict[str, list[str]] = {}
        """Lines of each pod."""
        self.forbidden: set[tuple[str, str]] = set()
        """Verbs and resources that the user may not use."""
        self.asked: list[str] = []
        self.breaks: list[int] = []
        """For the next logs that are followed: after how many lines the connection breaks."""
        self.busy = 0
        """How many requests are answered with 503 from now on."""
        self.restarts: dict[str, int] = {}
        self._counted: dict[str, int] = {}
        self.lock = threading.RLock()
        self._ticks = 0
        self._listen(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig(self, folder: Path, token: str = TOKEN) -> Path:
        """Write the file that says where this server is, and as whom it is used."""
        path = folder / "kubeconfig"
        context = {"cluster": "here", "user": "me", "namespace": "default"}
        written = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": context}],
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(written))
        return path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._server.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Listen no more for the length of the block."""
        self.close()
        yield
        self._listen(self._port)

    def _listen(self, port: int) -> None:
        server = _Server(self, port)
        self._server, self._port = server, server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    # What a client asks

    def apply(self, *objects: dict[str, Any]) -> None:
        """Make objects as whoever runs the cluster does."""
        for one in objects:
            resource = next(name for name, kind in KINDS.items() if kind == one["kind"])
            self.make(resource, one["metadata"].get("namespace", ""), one)

    def make(self, resource: str, namespace: str, given: dict[str, Any]) -> dict[str, Any]:
        given = crds.defaulted(given)
        name = given["metadata"]["name"]
        if (resource, namespace, name) in self.objects:
            raise Refused(409, f'{resource} "{name}" already exists')
        self._check(given)
        if resource == "trainjobs":
            self._webhook(given)
        given["metadata"] |= {
            "namespace": namespace,
            "uid": f"uid-{self._tick()}",
            "creationTimestamp": self._now(),
        }
        if not namespace:
            del given["metadata"]["namespace"]
        self.objects[resource, namespace, name] = given
        if resource == "trainjobs":
            self.reconcile(namespace, name)
        return given

    def change(
        self, resource: str, namespace: str, name: str, steps: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Apply a JSON patch of `add` and `replace`."""
        before = self.find(resource, namespace, name)
        after = copy.deepcopy(before)
        for step in steps:
            *way, last = step["path"].strip("/").split("/")
            place = after
            for part in way:
                place = place[part]
            place[last] = step["value"]
        self._check(after, before)
        self.objects[resource, namespace, name] = after
        if resource == "trainjobs":
            self.reconcile(namespace, name)
        return after

    def remove(self, resource: str, namespace: str, name: str) -> dict[str, Any]:
        gone = self.find(resource, namespace, name)
        del self.objects[resource, namespace, name]
        self._end_pods(namespace, name)
        for key, one in list(self.objects.items()):
            owners = one["metadata"].get("ownerReferences", [])
            if gone["metadata"]["uid"] in [owner["uid"] for owner in owners]:
                del self.objects[key]
        return gone

    def find(self, resource: str, namespace: str, name: str) -> dict[str, Any]:
        try:
            return self.objects[resource, namespace, name]
        except KeyError:
            raise Refused(404, f'{resource} "{name}" not found') from None

    def all(self, resource: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        return [
            one
            for (kind, place, _), one in self.objects.items()
            if kind == resource and place == namespace and _selected(one, selector)
        ]

    def _check(self, given: dict[str, Any], before: dict[str, Any] | None = None) -> None:
        bare = {key: value for key, value in given.items() if key != "status"}
        if found := crds.faults(bare, before):
            name = given["metadata"]["name"]
            raise Refused(422, f'{given["kind"]} "{name}" is invalid: {"; ".join(found)}')

    def _webhook(self, job: dict[str, Any]) -> None:
        """Refuse what Kubeflow Trainer's admission webhook does."""
        why = ""
        given = {env["name"] for env in job["spec"].get("trainer", {}).get("env", [])}
        if given & OF_CONTROLLER:
            why = f"spec.trainer.env: {sorted(given & OF_CONTROLLER)} is reserved"
        for container in _patched(job["spec"].get("runtimePatches", [])):
            if container["name"] == "node" and "env" in container:
                why = "spec.runtimePatches: must not have envs for the node container"
        if self._runtime(job) is None:
            why = "spec.runtimeRef: must be created before the TrainJob is created"
        if why:
            told = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request'
            raise Refused(403, f"{told}: {why}")

    # The controller

    def reconcile(self, namespace: str, name: str) -> None:
        """Make or end the pods of a job as its `suspend` says."""
        job = self.objects["trainjobs", namespace, name]
        was = _true(job, "Suspended")
        if job["spec"].get("suspend"):
            self._end_pods(namespace, name)
            self._condition(job, "Suspended", "True", "TrainJob is suspended")
        elif not self._pods(namespace, name):
            if was:
                self._condition(job, "Suspended", "False", "TrainJob is resumed")
            self._make_pods(job)

    def run(self, name: str, namespace: str = "default") -> None:
        """Have the kubelet start all pods of a job."""
        for pod in self._pods(namespace, name):
            pod["status"] = {
                "phase": "Running",
                "containerStatuses": [self._container({"running": {"startedAt": self._now()}})],
            }

    def say(self, name: str, *lines: str, node: int = 0, namespace: str = "default") -> None:
        """Have a node write lines."""
        pod = self._pods(namespace, name)[node]["metadata"]["name"]
        with self.lock:
            self.said.setdefault(pod, []).extend(f"{self._now()} {line}" for line in lines)

    def leave(self, name: str, code: int, node: int = 0, namespace: str = "default") -> None:
        """Have a node's container leave with an exit code; no controller has seen it yet."""
        over = {"exitCode": code, "finishedAt": self._now(), "reason": "Error"}
        self._pods(namespace, name)[node]["status"] = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [self._container({"terminated": over})],
        }

    def end(self, name: str, code: int, node: int = 0, namespace: str = "default") -> None:
        """Have a node's container leave with an exit code, and the controllers see it."""
        self.leave(name, code, node, namespace)
        job, pods = self.objects["trainjobs", namespace, name], self._pods(namespace, name)
        if code:
            rule = _exit_rule(self._spec(job), code)
            self._job_failed(job, f"failed with exit code {code}", rule)
        elif all(one["status"]["phase"] == "Succeeded" for one in pods):
            self._condition(job, "Complete", "True", "jobset completed successfully")

    def evict(self, name: str, node: int = 0, namespace: str = "default") -> None:
        """Have a node's pod go because its node is drained."""
        job = self.objects["trainjobs", namespace, name]
        self._pods(namespace, name)[node]["status"]["phase"] = "Failed"
        rules = self._spec(job)["podFailurePolicy"]["rules"]
        places = [place for place, rule in enumerate(rules) if "onPodConditions" in rule]
        self._job_failed(job, "has condition DisruptionTarget", places[0] if places else None)

    def progress(self, name: str, namespace: str = "default", **told: Any) -> None:
        """Note what rank 0 says of the run, as Trainer's status server does."""
        job = self.objects["trainjobs", namespace, name]
        job.setdefault("status", {})["trainerStatus"] = {"lastUpdatedTime": self._now(), **told}
        assert [] == crds.faults(job)

    def note(self, kind: str, name: str, reason: str, message: str) -> None:
        """Note an event of the default namespace."""
        count = self._tick()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"event-{count}", "namespace": "default"},
            "involvedObject": {"kind": kind, "name": name, "namespace": "default"},
            "reason": reason,
            "message": message,
            "firstTimestamp": self._now(),
        }
        self.make("events", "default", event)

    def runs(self, pod: str) -> bool:
        found = (
            one
            for (kind, _, name), one in list(self.objects.items())
            if (kind, name) == ("pods", pod)
        )
        return any(one["status"]["phase"] == "Running" for one in found)

    def _job_failed(self, job: dict[str, Any], what: str, rule: int | None) -> None:
        """Do what the JobSet's failure policy says, as JobSet's controller does."""
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        message, reason = f"Pod {what}", "BackoffLimitExceeded"
        if rule is not None:
            message += f" matching FailJob rule at index {rule}"
            reason = "PodFailurePolicy"
        policy = self._runtime(job)["spec"]["template"]["spec"]["failurePolicy"]
        action = next(
            (
                one["action"]
                for one in policy["rules"]
                if reason in one.get("onJobFailureReasons", [reason])
                and any(
                    re.search(pattern, message)
                    for pattern in one.get("onJobFailureMessagePatterns", [""])
                )
            ),
            "RestartJobSet",
        )
        counted = self._counted.setdefault(name, 0)
        if action == "RestartJobSet":
            self._counted[name] = counted + 1
        if action == "FailJobSet" or self._counted[name] > policy["maxRestarts"]:
            self._condition(job, "Failed", "True", f"jobset failed: {message}")
            return
        self.restarts[name] = self.restarts.get(name, 0) + 1
        self._end_pods(namespace, name)
        self._make_pods(job)

    def _condition(self, job: dict[str, Any], kind: str, holds: str, message: str) -> None:
        status = job.setdefault("status", {})
        others = [one for one in status.get("conditions", []) if one["type"] != kind]
        made = {"type": kind, "status": holds, "reason": kind, "message": message}
        status["conditions"] = [*others, made | {"lastTransitionTime": self._now()}]
        assert [] == crds.faults(job)

    def _runtime(self, job: dict[str, Any]) -> Any:
        wanted = job["spec"]["runtimeRef"]
        resource = wanted.get("kind", "ClusterTrainingRuntime").lower() + "s"
        place = "" if resource.startswith("cluster") else job["metadata"].get("namespace", "")
        return self.objects.get((resource, place, wanted["name"]))

    def _spec(self, job: dict[str, Any]) -> Any:
        (replicated,) = self._runtime(job)["spec"]["template"]["spec"]["replicatedJobs"]
        return replicated["template"]["spec"]

    def _make_pods(self, job: dict[str, Any]) -> None:
        """Make a pod for each node, from the runtime and what the job says over it."""
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        trainer, template = job["spec"]["trainer"], self._spec(job)["template"]
        for node in range(trainer["numNodes"]):
            labels = template["metadata"]["labels"] | {
                "jobset.sigs.k8s.io/jobset-name": name,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(node),
            }
            spec = copy.deepcopy(template["spec"])
            (container,) = spec["containers"]
            container |= {key: trainer[key] for key in ("image", "command") if key in trainer}
            container["resources"] = trainer["resourcesPerNode"]
            said = {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": trainer["resourcesPerNode"]["requests"]["cpu"],
                "PET_NODE_RANK": str(node),
                "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
                "PET_MASTER_PORT": "29500",
            }
            _patch(spec, job["spec"].get("runtimePatches", []))
            container["env"] += [{"name": key, "value": value} for key, value in said.items()]
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{name}-node-0-{node}-{self._tick()}", "labels": labels},
                "spec": spec,
            }
            self.make("pods", namespace, pod)["status"] = {"phase": "Pending"}

    def _pods(self, namespace: str, name: str) -> list[dict[str, Any]]:
        pods = self.all("pods", namespace, f"jobset.sigs.k8s.io/jobset-name={name}")
        index = "batch.kubernetes.io/job-completion-index"
        return sorted(pods, key=lambda pod: pod["metadata"]["labels"][index])

    def _end_pods(self, namespace: str, name: str) -> None:
        for pod in self._pods(namespace, name):
            del self.objects["pods", namespace, pod["metadata"]["name"]]

    def _container(self, state: dict[str, Any]) -> dict[str, Any]:
        one = {"name": "node", "ready": True, "restartCount": 0, "image": "", "imageID": ""}
        return one | {"state": state}

    def _tick(self) -> int:
        with self.lock:
            self._ticks += 1
            return self._ticks

    def _now(self) -> str:
        """Return a time that is later at every call."""
        tick = self._tick()
        return f"2026-01-05T{tick // 3600:02}:{tick // 60 % 60:02}:{tick % 60:02}Z"


def _true(job: dict[str, Any], kind: str) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def _exit_rule(spec: dict[str, Any], code: int) -> int | None:
    """Return the place of the first rule of a Job that an exit code meets."""
    for place, rule in enumerate(spec["podFailurePolicy"]["rules"]):
        if code in rule.get("onExitCodes", {}).get("values", []):
            return place
    return None


def _patched(patches: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for patch in patches:
        template = patch.get("trainingRuntimeSpec", {}).get("template", {})
        for job in template.get("spec", {}).get("replicatedJobs", []):
            spec = job["template"]["spec"]["template"]["spec"]
            yield from [*spec.get("containers", []), *spec.get("initContainers", [])]


def _patch(spec: dict[str, Any], patches: list[dict[str, Any]]) -> None:
    """Give the containers of a pod the variables that patches have for them."""
    containers = {one["name"]: one for one in spec["containers"] + spec.get("initContainers", [])}
    for one in _patched(patches):
        containers[one["name"]].setdefault("env", []).extend(one.get("env", []))


def _selected(one: dict[str, Any], selector: str) -> bool:
    """Tell whether labels meet a selector: `a=b`, `a`, and `a in (b, c)`."""
    labels = one["metadata"].get("labels", {})
    for key, values, value in re.findall(
        r"([^\s,=()]+)(?: in \(([^)]*)\)|=([^,]*))?(?:,|$)", selector
    ):
        allowed = re.split(r",\s*", values) if values else [value] if value else None
        if key not in labels or (allowed and labels[key] not in allowed):
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        place = self._place()
        if place["part"] == "log":
            self._answer("get", "pods/log", lambda: self._log(place))
        elif place["name"]:
            self._do("get", self.server.api.find)
        else:
            self._do("list", self._list)

    def do_POST(self) -> None:
        body = self._body()
        self._do("create", lambda *place: self.server.api.make(*place, body))

    def do_PATCH(self) -> None:
        body = self._body()
        self._do("patch", lambda *place: self.server.api.change(*place, body))

    def do_DELETE(self) -> None:
        self._do("delete", self.server.api.remove)

    def _place(self) -> dict[str, str]:
        found = PATH.match(urlsplit(self.path).path)
        assert found, self.path
        return {key: value or "" for key, value in found.groupdict().items()}

    def _list(self, resource: str, namespace: str) -> dict[str, Any]:
        found = self.server.api.all(resource, namespace, self._query("labelSelector"))
        return {"kind": f"{KINDS[resource]}List", "metadata": {}, "items": found}

    def _do(self, verb: str, act: Callable[..., dict[str, Any]]) -> None:
        """Answer with what an act on a place of the store made."""
        place = self._place()
        where = [place["resource"], place["namespace"], place["name"]]

        def answer() -> None:
            made = act(*where[: 3 if place["name"] else 2])
            group = TRAINER if place["group"] else "v1"
            kind = KINDS[place["resource"]]
            self._send(200, json.dumps({"kind": kind, "apiVersion": group} | made).encode())

        self._answer(verb, place["resource"], answer)

    def _answer(self, verb: str, resource: str, answer: Callable[[], None]) -> None:
        try:
            with self.server.api.lock:
                self._admit(verb, resource)
                if resource != "pods/log":
                    answer()
            if resource == "pods/log":
                answer()
        except Refused as refused:
            told = {"kind": "Status", "code": refused.code, "message": refused.message}
            self._send(refused.code, json.dumps(told).encode())

    def _admit(self, verb: str, resource: str) -> None:
        api = self.server.api
        api.asked.append(f"{verb} {resource}")
        if api.busy:
            api.busy -= 1
            raise Refused(503, "the server is currently unable to handle the request")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            raise Refused(401, "Unauthorized")
        if (verb, resource) in api.forbidden:
            raise Refused(403, f'{resource} is forbidden: User "me" cannot {verb} {resource}')

    def _log(self, place: dict[str, str]) -> None:
        """Send what a pod said, or with `follow` what it says until it ends."""
        api, pod = self.server.api, place["name"]
        api.find("pods", place["namespace"], pod)
        if self._query("follow").lower() == "true":
            self._stream(pod)
            return
        lines = self._told(pod)
        if limit := self._query("tailLines"):
            lines = lines[-int(limit) :]
        self._send(200, "".join(lines).encode(), "text/plain")

    def _stream(self, pod: str) -> None:
        api = self.server.api
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        limit, sent, over = api.breaks.pop(0) if api.breaks else None, 0, False
        while not over:
            # Asked before its lines are: once it has ended, those are all.
            over = not api.runs(pod)
            for line in self._told(pod)[sent:]:
                if sent == limit:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.wfile.write(f"{len(line.encode()):x}\r\n{line}\r\n".encode())
                sent += 1
            time.sleep(0.02)
        self.wfile.write(b"0\r\n\r\n")

    def _told(self, pod: str) -> list[str]:
        stamped = self._query("timestamps").lower() == "true"
        lines = self.server.api.said.get(pod, [])
        return [f"{line if stamped else line.partition(' ')[2]}\n" for line in lines]

    def _query(self, name: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(name, [""])[0]

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _send(self, code: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass
