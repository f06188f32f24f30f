"""A run as Kubernetes objects: rendered, refused by nobody, and executed here as nodes run it."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crds
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import UsageError
from feastrain.jobs.cluster import Size, as_yaml, inside, job_name, render
from feastrain.jobs.runtimes import GRACE_SECONDS, SHUTDOWN_SECONDS, runtimes
from feastrain.jobs.train import Run, train
from feastrain.recipe import load_recipe
from feastrain.settings import Cluster
from gangs import started, until
from tiny_snapshot import tiny_recipe, tiny_snapshot

GOLDEN = Path(__file__).parent / "golden"
RUN = "3f6b0c9d2a417e58"
ARGUMENTS = ["--recipe", "/feastrain/artifacts/runs/3f6b0c9d2a417e58/recipe.yaml"]
ARGUMENTS += ["--snapshot", "/feastrain/artifacts/snapshots/0123456789abcdef"]
PLACES = {
    "plain": Cluster(),
    "openshift-kueue": Cluster(openshift=True, queue="research", namespace="retail"),
    "volcano": Cluster(gang="volcano"),
    "coscheduling": Cluster(gang="coscheduling"),
    "fetch": Cluster(fetch=True, fetch_from="s3://shop/snapshots", node_cache=Path("/var/feast")),
}


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    return load_recipe(tiny_recipe(tmp_path))


@pytest.mark.parametrize("place", PLACES)
def test_an_api_server_refuses_nothing(place: str, recipe: Any) -> None:
    """Every runtime, and every object of small and large jobs, fits the real schemas and rules."""
    crds.require_crds()
    objects = runtimes(PLACES[place])
    for size in (Size(), Size(nodes=4, processes=2, gpus=2, memory="64Gi", cpu=16)):
        objects += render(recipe, RUN, ARGUMENTS, size, PLACES[place])
    assert {} == {one["metadata"]["name"]: crds.faults(one) for one in objects if crds.faults(one)}


def test_the_schemas_refuse_what_is_wrong(recipe: Any) -> None:
    """An unknown field, another type and a broken CEL rule are each found."""
    crds.require_crds()
    wrong = []
    for place, value in (("probe", {}), ("image", 3)):
        (runtime, *_) = runtimes(Cluster())
        (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        container[place] = value
        wrong += crds.faults(runtime)
    (runtime, *_) = runtimes(Cluster())
    runtime["spec"]["mlPolicy"]["mpi"] = {}
    wrong += crds.faults(runtime)
    (_, budget) = render(recipe, RUN, ARGUMENTS, Size(nodes=2), Cluster())
    budget["spec"]["minimum"] = 1
    wrong += crds.faults(budget)
    told = ("'probe' was unexpected", "3 is not of type", "Only one of the policy", "'minimum'")
    assert len(told) == len(wrong)
    assert all(part in fault for part, fault in zip(told, wrong, strict=True))


@pytest.mark.parametrize(
    ("name", "size", "place"),
    [
        ("job-cpu", Size(nodes=2, processes=2, cpu=4, memory="8Gi"), "plain"),
        ("job-gpu", Size(gpus=1, memory="32Gi"), "openshift-kueue"),
        ("job-fetch", Size(), "fetch"),
    ],
)
def test_a_job_is_as_the_golden_file_says(
    name: str, size: Size, place: str, recipe: Any, golden: Any
) -> None:
    """What is sent is read in a review of the file that says so."""
    golden(name, as_yaml(render(recipe, RUN, ARGUMENTS, size, PLACES[place])))


@pytest.mark.parametrize("place", ["plain", "openshift-kueue", "fetch"])
def test_runtimes_are_as_the_golden_file_says(place: str, golden: Any) -> None:
    """What is applied to a cluster is read in a review of the file that says so."""
    golden(f"runtimes-{place}", as_yaml(runtimes(PLACES[place])))


@pytest.fixture
def golden() -> Any:
    """Compare with a file; WRITE_GOLDEN=1 makes the files anew."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.yaml"
        if os.environ.get("WRITE_GOLDEN"):
            path.write_text(text)
        assert path.read_text() == text

    return compare


def test_the_command_line_prints_the_runtimes() -> None:
    """Without a recipe and a project, as the settings of the cluster say."""
    command = [sys.executable, "-m", "feastrain", "render"]
    environment = {**os.environ, "FEASTRAIN_CLUSTER_OPENSHIFT": "true"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (GOLDEN / "runtimes-openshift-kueue.yaml").read_text() == told.stdout


@given(st.text(max_size=80), st.text("0123456789abcdef", min_size=16, max_size=16))
def test_a_job_has_a_name_that_kubernetes_takes(recipe: str, run: str) -> None:
    """RFC 1035, whatever the recipe is called; runs of one recipe differ."""
    name = job_name(recipe, run)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 63
    assert name.endswith(run[:12])


def test_ranks_that_would_share_a_gpu_are_refused(recipe: Any) -> None:
    """One line says what to do."""
    with pytest.raises(UsageError, match="2 processes on a node cannot share 1 GPU; lower"):
        render(recipe, RUN, ARGUMENTS, Size(processes=2, gpus=1), Cluster())


def test_paths_outside_the_shared_folder_are_refused(tmp_path: Path) -> None:
    """Pods see the artifacts folder, where the volume is mounted, and nothing else."""
    place = Cluster(artifacts=Path("/mnt/shop"))
    assert "/mnt/shop/runs/a" == inside(tmp_path / "runs" / "a", tmp_path, place)
    with pytest.raises(UsageError, match="pods see the folder"):
        inside(Path("/etc/passwd"), tmp_path, place)


def test_a_snapshot_that_nodes_fetch_is_read_from_their_disk(tmp_path: Path) -> None:
    """All else is where the shared folder is mounted."""
    place = Cluster(fetch=True)
    assert "/feastrain/snapshots/a" == inside(tmp_path / "snapshots" / "a", tmp_path, place)
    assert "/feastrain/artifacts/runs/a" == inside(tmp_path / "runs" / "a", tmp_path, place)


def test_a_pod_outlives_the_last_checkpoint() -> None:
    """Kubelet's patience is longer than torchrun's, and both are said in the runtime."""
    for runtime in runtimes(Cluster()):
        (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        pod = job["template"]["spec"]["template"]["spec"]
        told = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        assert str(SHUTDOWN_SECONDS) == told["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
        assert GRACE_SECONDS == pod["terminationGracePeriodSeconds"] > SHUTDOWN_SECONDS


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("ends", "expected"), [("00", 0), ("93", 3), ("90", 69), ("K0", 69), ("50", 75)]
)
def test_a_node_leaves_with_the_code_of_the_rank_that_failed(
    tmp_path: Path, ends: str, expected: int
) -> None:
    """Bad data (3) stays bad data; a lost rank (69) or one that was killed means: start again."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, sys, time\n"
        f"end = {ends!r}[int(os.environ['RANK'])]\n"
        "time.sleep(0.3 if end == '3' and os.environ['RANK'] == '1' else 0)\n"
        "if end == 'K': os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.exit({'9': 69, '5': 75}.get(end) or int(end))\n"
    )
    command = [sys.executable, "-m", "feastrain.jobs.node", "--nproc-per-node", "2"]
    command += ["--max-restarts", "0", "--monitor-interval", "2", "--master-port", str(_port())]
    assert expected == subprocess.run([*command, str(script)], check=False).returncode


@pytest.mark.distributed
def test_two_nodes_of_a_cluster_end_in_the_weights_of_this_machine(tmp_path: Path) -> None:
    """The rendered command, with what Kubeflow's controller sets, in two agents of a rank each."""
    snapshot = tiny_snapshot(tmp_path)
    path = tiny_recipe(tmp_path, 2)
    here = train(path, snapshot, tmp_path / "here").path
    away, commands = _rendered(path, snapshot, tmp_path / "away", nodes=2)
    nodes = [
        subprocess.Popen(["taskset", "-c", "0", *command], env=_of_controller(rank, port))
        for port in [_port()]
        for rank, command in enumerate(commands)
    ]
    assert [0, 0] == [node.wait() for node in nodes]
    weights = "model.safetensors"
    assert (here / weights).read_bytes() == (away.bundle / weights).read_bytes()


@pytest.mark.distributed
def test_a_node_that_is_asked_to_stop_saves_and_says_so(tmp_path: Path) -> None:
    """SIGTERM to torchrun, as the kubelet sends it, ends in 75; the same command goes on."""
    snapshot, path = tiny_snapshot(tmp_path), tiny_recipe(tmp_path, 400)
    run, (command,) = _rendered(path, snapshot, tmp_path / "away", nodes=1)
    environment = _of_controller(0, _port(), nodes=1)
    with started(command, **environment) as node:
        until(lambda: list(run.folder.glob("*.safetensors")), "a checkpoint")
        node.send_signal(signal.SIGTERM)
        assert 75 == node.wait()
    assert not run.bundle.exists()


def _rendered(
    path: Path, snapshot: Snapshot, artifacts: Path, nodes: int
) -> tuple[Run, list[list[str]]]:
    """Return a run, and the command of each of its pods with this interpreter as their `python`."""
    artifacts.mkdir()
    (artifacts / "snapshots").symlink_to(snapshot.path.parent)
    recipe = load_recipe(path)
    run = Run.of(recipe, snapshot, artifacts)
    run.prepare(path, recipe)
    objects = render(recipe, run.fingerprint, run.arguments(str), Size(nodes), Cluster())
    (python, *rest) = objects[0]["spec"]["trainer"]["command"]
    assert "python" == python
    return run, [[sys.executable, *rest]] * nodes


def _of_controller(rank: int, port: int, nodes: int = 2) -> dict[str, str]:
    """Return the environment of a node's container."""
    return {
        **os.environ,
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": "auto",
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
