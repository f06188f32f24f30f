"""Jobs of this machine as real processes: in the background, watched and stopped from elsewhere."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import DataError, FeastrainError, InterruptedRun, UsageError
from feastrain.jobs.job import Gang
from feastrain.jobs.local import LocalJobs
from feastrain.jobs.record import NOTES, alone_in, is_held, note, notes, send
from feastrain.jobs.train import Run, train
from feastrain.recipe import load_recipe
from gangs import processes_of, same_weights, until
from tiny_snapshot import tiny_recipe, tiny_snapshot

EPOCHS = 40
LONG = 9999


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot) -> Path:
    """The bundle of one node with two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    return train(tiny_recipe(folder, EPOCHS), snapshot, folder / "artifacts").path


@pytest.fixture
def artifacts(tmp_path: Path) -> Iterator[Path]:
    """A folder whose jobs are ended after the test."""
    yield tmp_path / "artifacts"
    for folder in (tmp_path / "artifacts" / "runs").glob("*"):
        send(folder, signal.SIGKILL)
        until(lambda folder=folder: not processes_of(folder), "the end of a job", 10)


def prepared(
    recipe: Path, snapshot: Snapshot, artifacts: Path, gang: Gang | None = None
) -> Run:
    """Return a run that is ready to be sent."""
    asked = load_recipe(recipe)
    run = Run.of(asked, snapshot, artifacts)
    run.prepare(recipe)
    gang = gang or Gang.of(asked.training)
    run.request(artifacts / "bundles" / asked.name, gang).save(run.folder)
    return run


def saved(run: Run) -> bool:
    """Return whether a run is past its first checkpoint."""
    return bool(list(run.folder.glob("epoch-000[2-9]-*")))


@pytest.mark.distributed
def test_a_stopped_job_leaves_no_process_and_resumes_exactly(
    quiet: Path, snapshot: Snapshot, tmp_path: Path, artifacts: Path
) -> None:
    """Two nodes, stopped in between, end in the weights of one node with two processes."""
    jobs, recipe = LocalJobs(artifacts), tiny_recipe(tmp_path, EPOCHS)
    run = prepared(recipe, snapshot, artifacts, Gang(2, 1))
    name = jobs.submit(run.folder)
    assert "Created" == jobs.get(name).state
    until(lambda: saved(run), "a second checkpoint")
    assert "Running" == jobs.get(name).state
    jobs.stop(name)
    assert [] == processes_of(run.folder)
    assert "Suspended" == jobs.get(name).state
    with pytest.raises(InterruptedRun, match="was stopped; `feastrain train tiny` goes on"):
        jobs.wait(name)
    assert name == jobs.submit(run.folder)
    assert "Complete" == jobs.wait(name, 120).state
    assert same_weights(quiet, run.bundle)
    assert run.bundle == (artifacts / "bundles" / "tiny").resolve()
    told = [one.reason for one in jobs.events(name)]
    assert ["Created", "Started", "Suspended", "Created", "Started", "Complete"] == told
    assert any('"event": "resumed"' in line for line in jobs.logs(name))


@pytest.mark.distributed
def test_a_node_that_is_killed_is_started_again(
    quiet: Path, snapshot: Snapshot, tmp_path: Path, artifacts: Path
) -> None:
    """SIGKILL on one of two agents takes its ranks along; all start again, to the same weights."""
    jobs, recipe = LocalJobs(artifacts), tiny_recipe(tmp_path, EPOCHS)
    run = prepared(recipe, snapshot, artifacts, Gang(2, 1))
    name = jobs.submit(run.folder)
    until(lambda: saved(run), "a second checkpoint")
    (agent,) = [pid for pid in processes_of(run.folder) if "--node-rank 1" in command_of(pid)]
    os.kill(agent, signal.SIGKILL)
    jobs.wait(name, 120)
    (restart,) = [one.message for one in jobs.events(name) if one.reason == "Restarted"]
    assert restart.startswith("node 1 ended with SIGKILL; all ranks start again")
    assert same_weights(quiet, run.bundle)
    assert "node 1" in str(pytest.raises(UsageError, jobs.logs, name, 2).value) or True


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
