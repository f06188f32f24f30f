"""Training under real torchrun processes, killed for real."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import InterruptedRun, UsageError
from feastrain.jobs.job import Gang
from feastrain.jobs.train import train
from feastrain.models.bundle import load_bundle
from feastrain.recipe import Training
from feastrain.training.loop import learning_rate
from feastrain.training.shutdown import StopRequest
from tiny_snapshot import tiny_recipe, tiny_snapshot

EPOCHS = 40
ON_ONE_CORE = """
import os, runpy
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
runpy.run_module("feastrain.training.run", run_name="__main__")
"""
LAUNCH = """
import sys
from pathlib import Path
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import FeastrainError
from feastrain.jobs.train import train
try:
    train(Path(sys.argv[1]), Snapshot.open(Path(sys.argv[2])), Path(sys.argv[3]))
except FeastrainError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot) -> Path:
    """The bundle of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    return train(tiny_recipe(folder, EPOCHS), snapshot, folder / "artifacts").path


@contextmanager
def _training(folder: Path, snapshot: Snapshot) -> Iterator[subprocess.Popen[str]]:
    """Start `feastrain train` in a process of its own and wait for its second checkpoint."""
    recipe = tiny_recipe(folder, EPOCHS)
    command = [sys.executable, "-c", LAUNCH, str(recipe), str(snapshot.path)]
    process = subprocess.Popen(
        [*command, str(folder / "artifacts")], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob("artifacts/runs/*/epoch-000[2-9]-*")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline, "no second checkpoint within a minute"
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def _workers(folder: Path) -> list[int]:
    """Return the processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(str(folder) in word for word in command) and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def _weights(bundle: Path) -> dict[str, torch.Tensor]:
    return load_file(bundle / "model.safetensors")


def _same(one: Path, other: Path) -> bool:
    before, after = _weights(one), _weights(other)
    return before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )


@pytest.mark.distributed
def test_two_processes_land_a_bundle_that_learned(quiet: Path, snapshot: Snapshot) -> None:
    """Two ranks publish one bundle whose error on the validation rows is that of a model."""
    bundle = load_bundle(quiet)
    assert (2, EPOCHS) == (bundle.lineage["world_size"], bundle.metrics["epochs"])
    labels = snapshot.rows("validation")["label_1"].drop_null().to_numpy()
    assert bundle.metrics["validation_wmae"] < 0.3 * abs(labels).mean()


@pytest.mark.distributed
def test_same_inputs_are_a_cache_hit(quiet: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    """A run that has finished is not run again."""
    again = train(tiny_recipe(tmp_path, EPOCHS), snapshot, quiet.parent.parent)
    assert (True, quiet) == (again.cached, again.path)


@pytest.mark.distributed
def test_two_runs_of_one_seed_are_one_model(
    quiet: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    """The weights of two undisturbed runs are equal bit for bit."""
    other = train(tiny_recipe(tmp_path, EPOCHS), snapshot, tmp_path / "artifacts")
    assert not other.cached
    assert _same(quiet, other.path)


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties workers to their launcher")
def test_killed_run_resumes_to_the_same_weights(
    quiet: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    """SIGKILL in the middle; no worker survives; the same command ends in the same weights."""
    with _training(tmp_path, snapshot) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 5
        while _workers(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [] == _workers(tmp_path)
    (run,) = (tmp_path / "artifacts" / "runs").iterdir()
    assert not (tmp_path / "artifacts" / "bundles" / run.name).exists()
    resumed = train(tiny_recipe(tmp_path, EPOCHS), snapshot, tmp_path / "artifacts")
    assert _same(quiet, resumed.path)


@pytest.mark.distributed
def test_sigterm_is_75_and_resumes(quiet: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    """SIGTERM is exit code 75; even from a truncated newest checkpoint the run resumes exactly."""
    with _training(tmp_path, snapshot) as process:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    (run,) = (tmp_path / "artifacts" / "runs").iterdir()
    last = run / _newest_name(run)
    last.write_bytes(last.read_bytes()[:-1])  # and the newest checkpoint is lost
    assert InterruptedRun.exit_code == process.returncode, told
    assert "resumes" in told.splitlines()[-1]
    resumed = train(tiny_recipe(tmp_path, EPOCHS), snapshot, tmp_path / "artifacts")
    assert _same(quiet, resumed.path)


@pytest.mark.distributed
def test_second_launcher_in_a_run_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    """Two commands at once do not share a run; the later one says who is there."""
    with _training(tmp_path, snapshot) as process:
        process.send_signal(signal.SIGSTOP)  # or it may be done before the other begins
        with pytest.raises(UsageError, match="another `feastrain train` is at work"):
            train(tiny_recipe(tmp_path, EPOCHS), snapshot, tmp_path / "artifacts")


@pytest.mark.distributed
def test_fresh_run_forgets_earlier_checkpoints(snapshot: Snapshot, tmp_path: Path) -> None:
    """A run that starts over keeps its own checkpoints, and the caller's signal handlers stay."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    recipe = tiny_recipe(tmp_path, 3)
    first = train(recipe, snapshot, tmp_path / "artifacts")
    folder = tmp_path / "artifacts" / "runs" / first.path.name
    for stale in list(folder.glob("epoch-*")):
        stale.rename(folder / stale.name.replace("epoch-000", "epoch-010"))
    again = train(recipe, snapshot, tmp_path / "artifacts", fresh=True)
    assert (
        {"epoch-0002", "epoch-0003"}
        <= {p.name[:10] for p in folder.glob("epoch-*")}
        < {f"epoch-000{epoch}" for epoch in range(4)}
    )
    assert not again.cached
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_worker_leaves_when_its_launcher_is_gone(tmp_path: Path) -> None:
    """A worker that starts after its launcher has died writes nothing."""
    command = [sys.executable, "-m", "feastrain.training.run", "--launcher", "1"]
    for name in ("recipe", "snapshot", "folder", "bundle"):
        command += [f"--{name}", str(tmp_path / name)]
    assert 1 == subprocess.run(command, check=False).returncode
    assert [] == list(tmp_path.iterdir())


def test_a_second_signal_does_what_it_does_by_default() -> None:
    """The first one is noted; a process that was asked twice is not held up by it any more."""
    request = StopRequest()
    before = signal.signal(signal.SIGURG, request)  # which ends no process
    try:
        handlers = []
        for _ in range(2):
            signal.raise_signal(signal.SIGURG)
            assert request.received
            handlers.append(signal.getsignal(signal.SIGURG))
    finally:
        signal.signal(signal.SIGURG, before)
    assert [request, signal.SIG_DFL] == handlers


def test_learning_rate_rises_then_falls_to_nearly_nothing() -> None:
    """The schedule peaks at the recipe's rate after its warm-up and ends near zero."""
    training = Training(learning_rate=0.01)
    rates = [learning_rate(training, done, 100) for done in range(1, 101)]
    assert 0.01 == pytest.approx(max(rates))
    assert 15 == 1 + rates.index(max(rates))
    assert rates[-1] < 0.0001
    assert all(rate > 0 for rate in rates)


@pytest.mark.distributed
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.faults)])
def test_kills_at_any_moment_end_in_the_same_weights(
    snapshot: Snapshot, tmp_path: Path, kills: int
) -> None:
    """SIGKILL in steps, saves and starts: each command resumes, and the last lands the bundle."""
    often = "processes: 1, checkpoint_s: 0.001"
    recipe = tiny_recipe(tmp_path, 60, training=often, batch_rows=8)
    folders = {name: tmp_path / name for name in ("quiet", "killed")}
    commands = {
        name: [
            *(sys.executable, "-c", ON_ONE_CORE, "--recipe", str(recipe)),
            *("--snapshot", str(snapshot.path), "--folder", str(folder), "--bundle", f"{folder}.b"),
        ]
        for name, folder in folders.items()
    }
    subprocess.run(commands["quiet"], check=True, capture_output=True)
    chance = random.Random(0)
    for _ in range(kills):
        before = _newest_name(folders["killed"])
        with subprocess.Popen(commands["killed"], stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while _newest_name(folders["killed"]) == before:
                assert process.poll() is None, "the run ended before it was killed"
                assert time.monotonic() < deadline, "no checkpoint within a minute"
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
        assert -signal.SIGKILL == process.returncode
    subprocess.run(commands["killed"], check=True, capture_output=True)
    assert _same(*(Path(f"{folder}.b") for folder in folders.values()))


def _newest_name(folder: Path) -> str:
    return max((path.name for path in folder.glob("epoch-*")), default="")


@pytest.mark.distributed
def test_another_number_of_processes_goes_on_at_the_same_row(
    snapshot: Snapshot, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run of two ranks that was stopped is finished by one, which says what that changes."""
    with _training(tmp_path, snapshot) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    (run,) = (tmp_path / "artifacts" / "runs").iterdir()
    alone = Gang(nodes=1, processes=1)
    recipe = tiny_recipe(tmp_path, EPOCHS)
    bundle = train(recipe, snapshot, tmp_path / "artifacts", gang=alone).path
    _, epoch, row, *_ = _newest_name(run).split("-")
    assert (EPOCHS, 0) == (int(epoch), int(row))
    assert (1, EPOCHS) == (
        load_bundle(bundle).lineage["world_size"],
        load_bundle(bundle).metrics["epochs"],
    )
    assert "not bit for bit: world_size was 2, is 1" in capfd.readouterr().err
