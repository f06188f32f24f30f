"""The rendered command on two nodes with a network between them: what pods do, without a cluster.

Each node is a network namespace with its own address and host name; the variables are those that
Kubeflow's controller sets, and signals those of the kubelet.
"""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from feastrain.jobs.cluster import Size, job_name, render
from feastrain.jobs.job import Gang
from feastrain.jobs.train import Run, train
from feastrain.recipe import load_recipe
from feastrain.settings import Cluster
from gangs import until
from tiny_snapshot import tiny_recipe, tiny_snapshot
from two_nodes import TwoNodes, ends, kill, require_namespaces

pytestmark = pytest.mark.distributed

EPOCHS = 40
LOST, SILENT, ASKED = 69, 70, 75
Node = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `train --on here --nodes 2`."""
    require_namespaces()
    folder = tmp_path_factory.mktemp("here")
    recipe, snapshot = tiny_recipe(folder, EPOCHS), tiny_snapshot(folder)
    return train(recipe, snapshot, folder / "artifacts", gang=Gang(2, 1)).path


@pytest.fixture
def run(here: Path, tmp_path: Path) -> Run:
    """The same run, on the volume that pods share."""
    snapshot, path = tiny_snapshot(tmp_path / "snapshots"), tiny_recipe(tmp_path, EPOCHS)
    recipe = load_recipe(path)
    made = Run.of(recipe, snapshot, tmp_path)
    made.prepare(path, recipe)
    return made


@pytest.fixture
def command(run: Run, tmp_path: Path) -> list[str]:
    """What the container of each node runs."""
    recipe = load_recipe(run.folder / "recipe.yaml")
    job, *_ = render(recipe, run.fingerprint, run.arguments(str), Size(nodes=2), Cluster())
    told: list[str] = job["spec"]["trainer"]["command"]
    return told


@pytest.fixture
def nodes(run: Run) -> Iterator[TwoNodes]:
    with TwoNodes(job_name("tiny", run.fingerprint)).up() as made:
        yield made


@contextmanager
def _drained(_: TwoNodes, started: list[Node]) -> Iterator[None]:
    """The kubelet asks a node to leave: SIGTERM to the first process of its container alone."""
    started[1].send_signal(signal.SIGTERM)
    yield


@contextmanager
def _lost(_: TwoNodes, started: list[Node]) -> Iterator[None]:
    kill(started[1])
    yield


@contextmanager
def _cut(nodes: TwoNodes, _: list[Node]) -> Iterator[None]:
    with nodes.cut():
        yield


def test_a_run_outlives_its_nodes_and_their_network(
    nodes: TwoNodes, command: list[str], run: Run, here: Path
) -> None:
    """A drained node, a lost one, a cut link; then the bundle of this machine, bit for bit.

    Each time both nodes leave with what the runtime starts again.
    """
    strikes = {_drained: {LOST, ASKED}, _lost: {LOST, -signal.SIGKILL}, _cut: {SILENT}}
    for strike, codes in strikes.items():
        before = saved(run)
        with nodes.running(command) as started:
            until(lambda known=before: saved(run) - known, f"a checkpoint before {strike}")
            with strike(nodes, started):
                assert codes >= set(ends(started))
        assert not run.bundle.exists()
    with nodes.running(command) as started:
        assert [0, 0] == ends(started)
    files = {path.name: path.read_bytes() for path in here.iterdir()}
    assert files == {path.name: path.read_bytes() for path in run.bundle.iterdir()}


def saved(run: Run) -> set[str]:
    """Return the names of the checkpoints of a run."""
    return {path.name for path in run.folder.glob("*.safetensors")}
