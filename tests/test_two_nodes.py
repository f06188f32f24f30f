"""The rendered command on two nodes with a network between them: what pods do, without a cluster.

Each node is a network namespace with its own address and host name; the variables are those that
Kubeflow's controller sets, and signals those of the kubelet.
"""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feastrain.jobs.cluster import Size, job_name, render
from feastrain.jobs.train import Run, train
from feastrain.recipe import load_recipe
from feastrain.settings import Cluster
from gangs import same_weights, until
from tiny_snapshot import tiny_recipe, tiny_snapshot
from two_nodes import TwoNodes, ends, kill, require_namespaces

pytestmark = pytest.mark.distributed

EPOCHS = 40
LOST, SILENT, ASKED = 69, 70, 75
Node = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that this machine makes by itself, in two ranks."""
    require_namespaces()
    folder = tmp_path_factory.mktemp("here")
    return train(tiny_recipe(folder, EPOCHS), tiny_snapshot(folder), folder / "artifacts").path


@pytest.fixture
def run(here: Path, tmp_path: Path) -> Run:
    """The same run, on the volume that pods share."""
    snapshot, path = tiny_snapshot(tmp_path / "snapshots"), tiny_recipe(tmp_path, EPOCHS)
    made = Run.of(load_recipe(path), snapshot, tmp_path)
    made.prepare(path)
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


def test_two_nodes_make_the_bundle_of_this_machine(
    nodes: TwoNodes, command: list[str], run: Run, here: Path
) -> None:
    """Every file of it, bit for bit."""
    with nodes.running(command) as started:
        assert [0, 0] == ends(started)
    files = {path.name: path.read_bytes() for path in here.iterdir()}
    assert files == {path.name: path.read_bytes() for path in run.bundle.iterdir()}


def _asked(node: Node) -> None:
    """The kubelet drains a node: SIGTERM to the first process of its container, no other."""
    node.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("strike", "codes"), [(_asked, {LOST, ASKED}), (kill, {LOST, -signal.SIGKILL})]
)
def test_a_node_that_goes_ends_both_and_the_run_goes_on(
    strike: Callable[[Node], None],
    codes: set[int],
    nodes: TwoNodes,
    command: list[str],
    run: Run,
    here: Path,
) -> None:
    """Both leave with what the runtime starts again, and end in the same weights."""
    with nodes.running(command) as started:
        until(lambda: any(run.folder.glob("*.safetensors")), "a checkpoint")
        strike(started[1])
        assert codes >= set(ends(started))
    assert not run.bundle.exists()
    with nodes.running(command) as started:
        assert [0, 0] == ends(started)
    assert same_weights(here, run.bundle)


def test_a_cut_link_ends_both_nodes_and_the_run_goes_on(
    nodes: TwoNodes, command: list[str], run: Run, here: Path
) -> None:
    """Neither waits longer than the limit for the other, and the weights are the same."""
    with nodes.running(command) as started:
        until(lambda: any(run.folder.glob("*.safetensors")), "a checkpoint")
        with nodes.cut():
            assert [SILENT, SILENT] == ends(started)
    with nodes.running(command) as started:
        assert [0, 0] == ends(started)
    assert same_weights(here, run.bundle)
