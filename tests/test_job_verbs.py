"""The command line of jobs, on a real project and on jobs that were written by hand."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import crds
from feastrain import Project
from feastrain.cli import app
from feastrain.errors import UsageError
from feastrain.jobs import places
from feastrain.jobs.job import Gang
from feastrain.jobs.record import note
from feastrain.recipe import load_recipe
from tiny_snapshot import tiny_recipe


def told(*words: str, code: int = 0) -> str:
    """Return what a command prints."""
    result = CliRunner().invoke(app, words)
    assert code == result.exit_code, result.output
    return result.stdout


def test_a_dry_run_shows_what_each_node_runs(demand: Project) -> None:
    """One process on each of two nodes; the lines can be run by hand."""
    shown = told("train", "smoke", "-C", str(demand.root), "--nodes", "2", "--dry-run")
    nodes = [shlex.split(line) for line in shown.splitlines()]
    assert ["0", "1"] == [line[line.index("--node-rank") + 1] for line in nodes]
    assert ["1", "1"] == [line[line.index("--nproc-per-node") + 1] for line in nodes]
    run = Path(nodes[0][nodes[0].index("--folder") + 1])
    assert {"feastrain.jobs.node", "feastrain.training.run"} < set(nodes[0])
    assert (run / "recipe.yaml").is_file()


def test_a_dry_run_for_a_cluster_is_refused_by_nobody(
    demand: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be sent fits the real schemas, and asks for what was said."""
    crds.require_crds()
    monkeypatch.setenv("FEASTRAIN_CLUSTER_NAMESPACE", "retail")
    words = ("--on", "kubernetes", "--nodes", "2", "--memory", "8Gi", "--dry-run")
    shown = told("train", "smoke", "-C", str(demand.root), *words)
    objects = list(yaml.safe_load_all(shown))
    assert [] == [fault for one in objects for fault in crds.faults(one)]
    trainer = objects[0]["spec"]["trainer"]
    assert (2, "8Gi") == (trainer["numNodes"], trainer["resourcesPerNode"]["limits"]["memory"])
    assert "retail" == objects[0]["metadata"]["namespace"]


def test_a_job_of_a_cluster_does_not_start_over(demand: Project) -> None:
    """Its pods are started again by the same object, which would each time; one line says so."""
    words = ("train", "smoke", "-C", str(demand.root), "--on", "kubernetes", "--dry-run", "--fresh")
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, UsageError)
    assert str(refused).startswith("--fresh is for runs here; a job of a cluster goes on from its")


def test_a_job_asks_for_the_memory_that_it_needs(demand: Project) -> None:
    """Where nobody says how much; the object says why."""
    root = str(demand.root)
    shown = told("train", "smoke", "-C", root, "--on", "kubernetes", "--nodes", "2", "--dry-run")
    job = next(iter(yaml.safe_load_all(shown)))
    needed = demand.size("smoke", processes=2).memory_of_node(1)
    limits = job["spec"]["trainer"]["resourcesPerNode"]["limits"]
    assert needed == (limits["memory"], job["metadata"]["annotations"]["feastrain.dev/memory"])


def test_what_is_trained_is_not_sent(demand: Project) -> None:
    """In the background or not: its bundle is told."""
    told_now = json.loads(told("train", "smoke", "-C", str(demand.root), "--no-follow", "--json"))
    assert str(demand.bundle("smoke").path) == told_now["bundle"]
    (job,) = json.loads(told("jobs", "list", "-C", str(demand.root), "--json"))
    assert ("smoke", "Complete") == (job["recipe"], job["state"])


def test_the_verbs_show_jobs(tmp_path: Path) -> None:
    """List, get, events, logs and delete, of a job that another process has run."""
    name, folder = "tiny-0123456789ab", tmp_path / "artifacts" / "runs" / "0123456789abcdef"
    folder.mkdir(parents=True)
    note(folder, "Created", name=name, recipe="tiny", run=folder.name, nodes=1)
    note(folder, "Failed", "rows are missing", code=3)
    (folder / "node-0.log").write_text("one\ntwo\n")
    (folder / "epoch-0001.safetensors").touch()
    project = ("-C", str(tmp_path))
    assert name in told("jobs", "list", *project)
    job = json.loads(told("jobs", "get", name, *project, "--json"))
    assert ("Failed", "rows are missing") == (job["state"], job["why"])
    assert "one\ntwo\n" == told("jobs", "logs", name, *project)
    assert "one\ntwo\n" == told("jobs", "logs", "-f", name, *project)
    assert "run 0123456789abcdef: Failed: rows are missing" in told(
        "jobs", "events", name, *project
    )
    told("jobs", "wait", name, *project, code=1)  # an error, which `main` tells in one line
    told("jobs", "delete", name, *project)
    assert [] == json.loads(told("jobs", "list", *project, "--json"))
    assert ["epoch-0001.safetensors"] == [path.name for path in folder.iterdir()]


def test_nodes_share_out_the_recipes_processes(tmp_path: Path) -> None:
    """So that the weights are those of one node, unless each is to have as many as said."""
    training = load_recipe(tiny_recipe(tmp_path, training="processes: 4")).training
    gangs = [Gang.of(training), Gang.of(training, 2), Gang.of(training, 8), Gang.of(training, 2, 3)]
    assert [Gang(1, 4), Gang(2, 2), Gang(8, 1), Gang(2, 3)] == gangs


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs here need no Kubeflow; elsewhere one line says how to get it."""
    monkeypatch.setattr(places.importlib.util, "find_spec", lambda _: None)
    assert [] == places.jobs_of("here", tmp_path).all()
    with pytest.raises(
        UsageError, match=r"need Kubeflow's client: pip install 'feastrain\[jobs\]'"
    ):
        places.jobs_of("kubernetes", tmp_path)
