"""The manifests of deploy/, as each overlay has them."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import crds
from feastrain import Project
from feastrain.errors import FeastrainError, UsageError
from feastrain.jobs.overlay import DEPLOY, render_overlay

OVERLAYS = ("dev", "prod", "openshift")
UNCHECKED = {"cert-manager.io/v1"}
"""What there is no schema of; their fields were read from their documentation."""
SECRET = re.compile(r"PASSWORD|TOKENS?$|SECRET|_KEY$")

Thing = dict[str, Any]


@cache
def things(overlay: str) -> list[Thing]:
    """Return all objects of an overlay; skips without kustomize."""
    try:
        return list(yaml.safe_load_all(render_overlay(overlay)))
    except UsageError as error:
        pytest.skip(str(error))


class Workload(NamedTuple):
    """What makes pods."""

    name: str
    kind: str
    replicas: int
    labels: dict[str, str]
    pod: Thing

    @property
    def serves(self) -> bool:
        """Whether it goes on until it is stopped."""
        return self.kind in {"Deployment", "StatefulSet"}


def workloads(overlay: str) -> Iterator[Workload]:
    """Yield all that is not an operator's to make."""
    scaled = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["minReplicas"]
        for one in things(overlay)
        if one["kind"] == "HorizontalPodAutoscaler"
    }
    for thing in things(overlay):
        name, kind, spec = thing["metadata"]["name"], thing["kind"], thing.get("spec", {})
        if kind in {"Deployment", "StatefulSet"}:
            replicas = scaled.get(name, spec.get("replicas", 1))
            template = spec["template"]
            yield Workload(name, kind, replicas, template["metadata"]["labels"], template["spec"])
        elif kind == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
            yield Workload(name, kind, 1, template["metadata"]["labels"], template["spec"])
        elif kind == "ClusterTrainingRuntime":
            (job,) = spec["template"]["spec"]["replicatedJobs"]
            template = job["template"]["spec"]["template"]
            yield Workload(name, kind, 1, {}, template["spec"])


def containers(overlay: str) -> Iterator[tuple[Workload, Thing]]:
    """Yield each container with what makes it."""
    for workload in workloads(overlay):
        for container in (*workload.pod["containers"], *workload.pod.get("initContainers", [])):
            yield workload, container


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_api_server_refuses_nothing(overlay: str) -> None:
    """Unknown fields and CEL rules included, of every object whose schema there is."""
    crds.require_crds()
    faults = {
        f"{one['kind']} {one['metadata']['name']}": found
        for one in things(overlay)
        if one["apiVersion"] not in UNCHECKED
        for found in [crds.faults(one)]
        if found
    }
    assert {} == faults


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_may_do_more_than_it_must(overlay: str) -> None:
    """As the pod security standard `restricted` asks, and a root that cannot be written to."""
    for workload, container in containers(overlay):
        pod, own = workload.pod["securityContext"], container["securityContext"]
        assert (True, "RuntimeDefault") == (pod["runAsNonRoot"], pod["seccompProfile"]["type"])
        assert pod.get("runAsUser", 1) != 0
        assert overlay != "openshift" or "runAsUser" not in pod, workload.name
        assert {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        } == own, workload.name
        kinds = {key for volume in workload.pod.get("volumes", []) for key in volume} - {"name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & workload.pod.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_has_limits_and_what_serves_has_probes(overlay: str) -> None:
    """Those of a training job's node are asked for by the job itself."""
    for workload, container in containers(overlay):
        if workload.kind != "ClusterTrainingRuntime" or container["name"] != "node":
            limits = container["resources"]["limits"]
            assert {"cpu", "memory"} == limits.keys(), workload.name
        if workload.serves:
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), workload.name
        assert ":latest" not in container["image"]
        assert ":" in container["image"].rpartition("/")[2]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_what_asks_the_api_server_has_a_token_for_it(overlay: str) -> None:
    """One job sends training jobs."""
    told = {w.name for w in workloads(overlay) if w.pod["automountServiceAccountToken"]}
    assert {"retrain"} == told


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_is_asked_in_tls_by_the_name_of_its_certificate(overlay: str) -> None:
    """By the ingress, which verifies it, by Prometheus and by the kubelet."""
    named = {(one["kind"], one["metadata"]["name"]): one for one in things(overlay)}
    certificate = named["Certificate", "serve-server"]["spec"]
    (serve,) = (w for w in workloads(overlay) if w.name == "serve")
    (container,) = serve.pod["containers"]
    (held,) = (v["secret"] for v in serve.pod["volumes"] if v["name"] == "serve")
    assert certificate["secretName"] == held["secretName"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert ["HTTPS"] * 3 == [probe["scheme"] for probe in probes]
    (endpoint,) = named["ServiceMonitor", "feastrain-serve"]["spec"]["endpoints"]
    assert "https" == endpoint["scheme"]
    assert endpoint["tlsConfig"]["serverName"] in certificate["dnsNames"]
    assert certificate["secretName"] == endpoint["tlsConfig"]["ca"]["secret"]["name"]
    told = named["Ingress", "serve"]["metadata"]["annotations"]
    if overlay == "openshift":
        route = "route.openshift.io/"
        assert "reencrypt" == told[f"{route}termination"]
        trusted = told[
            f"{route}destination-ca-certificate-secret"
        ]  # the router reads its `tls.crt`
        issuer = named[certificate["issuerRef"]["kind"], certificate["issuerRef"]["name"]]
        assert trusted == issuer["spec"]["ca"]["secretName"]
        assert named["Certificate", trusted]["spec"]["isCA"]
        assert "feastrain" == named["Certificate", trusted]["metadata"]["namespace"]
    else:
        nginx = "nginx.ingress.kubernetes.io/"
        assert ("HTTPS", "on") == (
            told[f"{nginx}backend-protocol"],
            told[f"{nginx}proxy-ssl-verify"],
        )
        assert told[f"{nginx}proxy-ssl-name"] in certificate["dnsNames"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_written_down(overlay: str) -> None:
    """Secrets are referenced by name; External Secrets, or somebody, makes them."""
    kinds = {one["kind"] for one in things(overlay)}
    assert "Secret" not in kinds
    for _, container in containers(overlay):
        for variable in container.get("env", []):
            mounted = str(variable.get("value", "")).startswith("/run/")
            if SECRET.search(variable["name"]) and not mounted:
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]
    wild = [
        (one["kind"], rule)
        for one in things(overlay)
        for rule in one.get("rules") or []
        if "*" in str(rule) or "secrets" in rule["resources"]
    ]
    assert [] == wild


@pytest.mark.parametrize("overlay", ["prod", "openshift"])
def test_nothing_that_serves_is_alone(overlay: str) -> None:
    """Three of each, on several nodes, of which one at a time may be drained."""
    budgets = [
        one["spec"]["selector"]["matchLabels"]
        for one in things(overlay)
        if one["kind"] == "PodDisruptionBudget"
    ]
    serving = [w for w in workloads(overlay) if w.serves and w.name != "feastrain-pushgateway"]
    assert {"serve", "redis", "sentinel"} == {w.name for w in serving}
    for workload in serving:
        assert workload.replicas >= 3, workload.name
        assert any(labels.items() <= workload.labels.items() for labels in budgets)
        spread = {one["topologyKey"] for one in workload.pod["topologySpreadConstraints"]}
        assert "kubernetes.io/hostname" in spread
    (cluster,) = (one for one in things(overlay) if one["kind"] == "Cluster")
    synchronous = cluster["spec"]["postgresql"]["synchronous"]
    assert (3, 1, "required") == (
        cluster["spec"]["instances"],
        synchronous["number"],
        synchronous["dataDurability"],
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_server_may_drain_before_it_is_killed(overlay: str) -> None:
    """The grace period is longer than the drain, and what comes after it."""
    (serve,) = (w for w in workloads(overlay) if w.name == "serve")
    env = {one["name"]: one.get("value") for one in serve.pod["containers"][0]["env"]}
    assert serve.pod["terminationGracePeriodSeconds"] > float(env["FEASTRAIN_DRAIN_SECONDS"]) + 4


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_do_not_overlap_and_end(overlay: str) -> None:
    """Two runs of one job never write at once, and none runs for ever."""
    crons = [one["spec"] for one in things(overlay) if one["kind"] == "CronJob"]
    assert len(crons) == 2
    for cron in crons:
        assert "Forbid" == cron["concurrencyPolicy"]
        assert cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= 43_200


# Who may talk to whom --------------------------------------------------------------------------

APP = {"app.kubernetes.io/name": "feastrain"}
PODS = {
    "serve": ("feastrain", APP | {"app.kubernetes.io/component": "serve"}),
    "job": ("feastrain", APP | {"app.kubernetes.io/component": "job"}),
    "retrain": (
        "feastrain",
        APP | {"app.kubernetes.io/component": "job", "feastrain.dev/submits": "true"},
    ),
    "train": ("feastrain", APP | {"app.kubernetes.io/component": "train"}),
    "pushgateway": ("feastrain", APP | {"app.kubernetes.io/component": "pushgateway"}),
    "postgres": ("feastrain-data", {"cnpg.io/cluster": "postgres"}),
    "pooler": ("feastrain-data", {"app.kubernetes.io/name": "postgres-pooler"}),
    "redis": ("feastrain-data", {"app.kubernetes.io/name": "redis"}),
    "sentinel": ("feastrain-data", {"app.kubernetes.io/name": "sentinel"}),
    "feast": ("feastrain-feast", {"feast.dev/name": "demand"}),
    "prometheus": ("monitoring", {}),
    "ingress": ("ingress", {}),
    "cnpg": ("cnpg-system", {}),
    "trainer": ("kubeflow-system", {}),
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
    "api": ("kube-system", {}),
    "client": ("shops", {}),
    "stranger": ("default", {}),
}
OUTSIDE = {"prometheus", "ingress", "cnpg", "trainer", "dns", "api", "client", "stranger"}
"""Pods of others, whose own policies are not ours to say."""
NAMESPACES = {"shops": {"feastrain.dev/feast": "client"}}
"""Labels of namespaces, beside their name."""
ANY = 50_000
"""A port that nobody names: where it is open, all are."""
NAMED = (53, 443, 5432, 6379, 6443, 6567, 6571, 8000, 8080, 8081, 9091, 9127, 9187, 10443, 26379)
PORTS = (*NAMED, ANY)
READERS = ("serve", "job", "retrain", "feast")
FLOWS = {
    *((who, "pooler", 5432) for who in READERS),
    *((who, "redis", 6379) for who in (*READERS, "redis", "sentinel")),
    *((who, "sentinel", 26379) for who in (*READERS, "redis", "sentinel")),
    *((who, "dns", 53) for who in PODS if who not in OUTSIDE),
    *(("prometheus", *where) for where in [("serve", 8080), ("train", 8081), ("postgres", 9187)]),
    *(("prometheus", *where) for where in [("pooler", 9127), ("pushgateway", 9091)]),
    ("prometheus", "feast", 8000),
    ("ingress", "serve", 8080),
    *(("train", "train", port) for port in PORTS),
    *(("train", "trainer", port) for port in (443, 10443)),
    *((who, "pushgateway", 9091) for who in ("job", "retrain")),
    ("pooler", "postgres", 5432),
    *(("postgres", "postgres", port) for port in (5432, 8000)),
    *(("cnpg", "postgres", port) for port in (5432, 8000)),
    *(("client", "feast", port) for port in (6567, 6571)),
}
"""Every connection there is between pods: who, to whom, at which port."""
WIDE = {"retrain", "postgres", "pooler", "feast"}
"""Who asks the API server, or an object store, at 443 and 6443: no selector can name them."""


def allowed(overlay: str) -> set[tuple[str, str, int]]:
    """Return the connections that the network policies let through."""
    policies = [one for one in things(overlay) if one["kind"] == "NetworkPolicy"]
    found = set()
    for source, target, port in itertools.product(PODS, PODS, PORTS):
        out = _lets(policies, PODS[source], PODS[target], port, "Egress")
        into = _lets(policies, PODS[target], PODS[source], port, "Ingress")
        if out and into and not {source, target} <= OUTSIDE:
            found.add((source, target, port))
    return found


Pod = tuple[str, dict[str, str]]


def _lets(policies: list[Thing], pod: Pod, other: Pod, port: int, way: str) -> bool:
    """Tell whether a pod's own policies let it talk to another one, or be talked to."""
    mine = [
        one["spec"]
        for one in policies
        if one["metadata"]["namespace"] == pod[0]
        and way in one["spec"]["policyTypes"]
        and _selects(one["spec"]["podSelector"], pod[1])
    ]
    peers, key = ("to", "egress") if way == "Egress" else ("from", "ingress")
    rules = [rule for spec in mine for rule in spec.get(key, [])]
    return not mine or any(
        any(port == one["port"] for one in rule.get("ports", [{"port": port}]))
        and any(_is(peer, pod[0], other) for peer in rule.get(peers, [{}]))
        for rule in rules
    )


def _is(peer: Thing, namespace: str, other: Pod) -> bool:
    if not peer:
        return True
    own = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    labels = NAMESPACES.get(other[0], {}) | {"kubernetes.io/metadata.name": other[0]}
    there = _selects(peer.get("namespaceSelector", own), labels)
    return there and _selects(peer.get("podSelector", {}), other[1])


def _selects(selector: Thing, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


def test_every_connection_is_let_through_and_no_other() -> None:
    """What is not in the table of flows is closed, in both directions."""
    wide = {flow for flow in allowed("prod") if flow[0] in WIDE and flow[2] in {443, 6443}}
    assert OUTSIDE >= {target for _, target, _ in wide}
    missing, unexpected = FLOWS - allowed("prod"), allowed("prod") - wide - FLOWS
    assert (set(), set()) == (missing, unexpected)


# What is generated, and what is run --------------------------------------------------------------


def test_the_runtimes_are_those_that_render_prints(tmp_path: Path) -> None:
    """Else run deploy/runtimes.sh."""
    environment = os.environ | {"FEASTRAIN": f"{sys.executable} -m feastrain"}
    subprocess.run([DEPLOY / "runtimes.sh", tmp_path], env=environment, check=True)
    for name in ("train", "train-openshift"):
        made = (tmp_path / name / "runtimes.yaml").read_text()
        assert made == (DEPLOY / "apps" / name / "runtimes.yaml").read_text()


def test_an_unknown_overlay_is_said() -> None:
    """One line names those there are."""
    with pytest.raises(UsageError, match="no overlay 'stage'; there are dev, openshift, prod"):
        render_overlay("stage")


def test_an_overlay_that_kustomize_refuses_is_said(tmp_path: Path) -> None:
    """With what kustomize says of it."""
    mine = tmp_path / "overlays" / "mine"
    mine.mkdir(parents=True)
    (mine / "kustomization.yaml").write_text("resources: [absent.yaml]\n")
    things("dev")  # or kustomize is not here
    with pytest.raises(FeastrainError, match=r"kubectl kustomize deploy/overlays/mine: .*absent"):
        render_overlay("mine", tmp_path)


def test_manifests_need_kubectl(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with what it is needed for."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UsageError, match="kubectl is not found, whose `kustomize` puts manifests"):
        render_overlay("dev")


def test_manifests_need_a_checkout(tmp_path: Path) -> None:
    """A wheel has none."""
    with pytest.raises(UsageError, match="clone it"):
        render_overlay("prod", tmp_path)


@pytest.mark.walk
def test_retraining_ends_with_a_model_that_is_served(demand: Project, tmp_path: Path) -> None:
    """The script of the cluster's job, here: what it makes first is served, for nothing was.

    How far the features have moved is measured where there was a training set before; where that
    cannot be read, it goes on without.
    """
    root, tools = tmp_path / "demand", tmp_path / "tools"
    shutil.copytree(demand.root, root, symlinks=True)
    (root / "artifacts" / "bundles" / "smoke").unlink()
    snapshots = root / "artifacts" / "snapshots"
    (snapshots / "smoke.previous").symlink_to((snapshots / "smoke").resolve().name)
    tools.mkdir()
    (tools / "feastrain").write_text(f'#!/bin/sh\nexec {sys.executable} -m feastrain "$@"\n')
    (tools / "feastrain").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "ON": "here"}
    environment |= {"PROJECT": str(root), "RECIPE": "smoke"}
    script = DEPLOY / "apps" / "jobs" / "retrain.sh"

    def run() -> tuple[str, str]:
        done = subprocess.run(
            ["sh", script], env=environment, capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stderr
        return " ".join(done.stdout.split()), done.stderr

    assert "from smoke.previous to smoke" in run()[0]
    assert demand.bundle("smoke").fingerprint == Project(root).bundle("smoke").fingerprint
    spoilt = shutil.copytree(snapshots / "smoke", snapshots / "spoilt")
    (spoilt / "manifest.json").write_text("{")
    (snapshots / "smoke.previous").unlink()
    (snapshots / "smoke.previous").symlink_to("spoilt")
    told, errors = run()
    assert "the drift was not measured" in errors
    assert "from smoke.previous to smoke" not in told
