"""The images as podman runs them: the server of the manifests, and the chain where one trains."""

import http.client
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from certificates import make_certificate
from feastrain import Project
from feastrain.errors import UsageError
from feastrain.jobs.overlay import render_overlay
from gangs import free_port

TOKEN = "of-a-planner-0123456789abcdef"
STARTS_S = 60
CONTAINER = "serve-pod-0-serve"


def podman(*words: str) -> str:
    """Return what podman says; a failure is shown."""
    done = subprocess.run(["podman", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logs() -> str:
    """Return what the container said, on both of its streams."""
    done = subprocess.run(
        ["podman", "logs", CONTAINER], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def require(image: str, target: str) -> None:
    """Skip where an image cannot be run."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    if subprocess.run(["podman", "image", "exists", image], check=False).returncode:
        build = f"podman build -f deploy/Containerfile --target {target} -t {image} ."
        pytest.skip(f"no {image}: {build}")


def deployment() -> dict[str, Any]:
    """Return the manifest; skips where its image cannot be run."""
    try:
        things = yaml.safe_load_all(render_overlay("dev"))
    except UsageError as error:
        pytest.skip(str(error))
    (serve,) = (
        one for one in things if (one["kind"], one["metadata"]["name"]) == ("Deployment", "serve")
    )
    (container,) = serve["spec"]["template"]["spec"]["containers"]
    require(container["image"], "serve")
    found: dict[str, Any] = serve
    return found


def on_this_machine(serve: dict[str, Any], folders: dict[str, Path], port: int) -> None:
    """Give the pod folders for its claims and secrets, and a port of ours.

    The project's own stores know no passwords, and are described where it lies.
    """
    pod = serve["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    kept = [one for one in pod["volumes"] if one["name"] != "feature-store"]
    pod["volumes"] = [
        {"name": name, "hostPath": {"path": str(folders[name]), "type": "Directory"}}
        if name in folders
        else one
        for one in kept
        for name in [one["name"]]
    ]
    container["volumeMounts"] = [
        one for one in container["volumeMounts"] if one["name"] != "feature-store"
    ]
    container["args"] = ["smoke" if word == "best" else word for word in container["args"]]
    given = {v["name"]: v["value"] for v in container["env"] if "valueFrom" not in v}
    given["FEASTRAIN_PORT"] = str(port)
    del given["FEASTRAIN_MAX_FEATURE_AGE_SECONDS"]  # the tables end in the past
    container["env"] = [{"name": name, "value": value} for name, value in given.items()]
    del container["ports"]  # the network is that of the machine
    serve["spec"]["replicas"] = 1


@pytest.fixture
def played(own_demand: Path, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Play it; its port and its certificate."""
    serve, port = deployment(), free_port()
    folders = {"project": own_demand, "artifacts": own_demand / "artifacts"}
    for name in ("store", "serve", "tokens"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    certificate, key = make_certificate(tmp_path, "serve")
    (folders["serve"] / "tls.crt").write_bytes(certificate.read_bytes())
    (folders["serve"] / "tls.key").write_bytes(key.read_bytes())
    (folders["tokens"] / "tokens").write_text(f"{TOKEN}\n")
    on_this_machine(serve, folders, port)
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump(serve))
    try:
        podman("play", "kube", "--network", "host", str(file))
        yield port, certificate
    finally:
        subprocess.run(["podman", "play", "kube", "--down", str(file)], check=False)


def answer(port: int, trusted: Path, method: str, path: str, body: object = None) -> Any:
    """Return the status and what was said, or None before anybody listens."""
    context = ssl.create_default_context(cafile=str(trusted))
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body), headers)
        told = connection.getresponse()
        return told.status, json.loads(told.read())
    except OSError:
        return None
    finally:
        connection.close()


def test_the_server_of_the_manifests_forecasts(played: tuple[int, Path], demand: Project) -> None:
    """As a user who is not root, on a root that cannot be written to, without any capability."""
    port, certificate = played
    until = time.monotonic() + STARTS_S
    while (ready := answer(port, certificate, "GET", "/healthz/ready")) is None or ready[0] != 200:
        assert time.monotonic() < until, (ready, logs())
        time.sleep(0.5)
    key = demand.snapshot("smoke").labels().select(["store", "dept"]).slice(0, 1)
    asked = {"series": key.to_pylist()}
    status, said = answer(port, certificate, "POST", "/v1/forecasts", asked)
    assert 200 == status, said
    bundle = demand.bundle("smoke")
    assert bundle.fingerprint == said["bundle"]
    assert "ok" == said["series"][0]["status"]
    assert bundle.columns.horizon == len(said["series"][0]["steps"])
    (about,) = json.loads(podman("inspect", CONTAINER))
    assert about["HostConfig"]["ReadonlyRootfs"]
    assert [] == about["EffectiveCaps"] or about["EffectiveCaps"] is None
    process = Path(f"/proc/{about['State']['Pid']}/status").read_text()
    assert {"Uid:\t1000\t1000\t1000\t1000", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"} <= {
        *process.splitlines()
    }


@pytest.mark.walk
def test_the_image_that_trains_runs_the_chain() -> None:
    """From raw tables to forecasts, as the same user, with one folder for what it makes."""
    image = "ghcr.io/feastrain/train-cpu:0.1.0"
    require(image, "train-cpu")
    told = podman(
        "run", "--rm", "--network", "host", "--read-only", "--user", "1000:0", "--cap-drop", "all",
        "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:rw,size=4g,mode=1777", image,
        "demo", "/tmp/demand", "--recipe", "smoke", "--no-serve", "--json",
    )  # fmt: skip
    assert json.loads(told)["forecasts"].startswith("/tmp/demand/artifacts/forecasts/")
