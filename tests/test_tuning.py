"""The search for a recipe's values: trials are compared, and outlive a kill."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import RecipeError, UsageError
from feastrain.recipe import load_recipe, with_values
from feastrain.settings import Settings
from feastrain.training.tuning import BEST, Tuned, tune
from tiny_snapshot import tiny_recipe, tiny_snapshot

pytest.importorskip("optuna")

SPACE = """
tune:
  training.learning_rate: {low: 0.003, high: 0.03, log: true}
  training.batch_rows: {low: 16, high: 64}
  model.hidden: {choices: [[8], [16, 8]]}
"""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"))


def searched(folder: Path, snapshot: Snapshot, space: str, trials: int, epochs: int = 2) -> Tuned:
    path = folder / "tiny.yaml"
    path.write_text(tiny_recipe(folder, epochs).read_text() + space)
    return tune(path, load_recipe(path), snapshot, folder, trials, settings=Settings())


def test_the_best_trial_comes_first_and_makes_a_recipe(snapshot: Snapshot, tmp_path: Path) -> None:
    """The first trial is the recipe as it is; the best values are written into a copy of it."""
    tuned = searched(tmp_path, snapshot, SPACE, trials=4)
    scores = [trial.wmae for trial in tuned.trials]
    assert scores == sorted(scores)
    as_is = next(trial for trial in tuned.trials if trial.number == 0)
    assert [0.01, 32, [16, 8]] == list(as_is.values.values())
    best, given = load_recipe(tuned.recipe), load_recipe(tmp_path / "tiny.yaml")
    expected = with_values(given, tuned.trials[0].values)
    assert "tiny-tuned" == best.name
    assert (expected.model, expected.training) == (best.model, best.training)
    assert given.data_section() == best.data_section()


def test_a_search_that_is_done_is_not_done_again(snapshot: Snapshot, tmp_path: Path) -> None:
    """The same call finds its trials; more trials are added to them, none drawn twice."""
    first = searched(tmp_path, snapshot, SPACE, trials=3)
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*")}
    assert first.trials == searched(tmp_path, snapshot, SPACE, trials=3).trials
    assert runs == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*")}
    more = searched(tmp_path, snapshot, SPACE, trials=6)
    assert {*map(repr, first.trials)} < {*map(repr, more.trials)}
    assert 6 == len({str(trial.values) for trial in more.trials})


def test_trials_worse_than_the_median_end_early(snapshot: Snapshot, tmp_path: Path) -> None:
    """A learning rate that learns nothing is not fitted for all epochs, and told as pruned."""
    space = "tune: {training.learning_rate: {low: 1.0e-7, high: 0.1, log: true}}"
    tuned = searched(tmp_path, snapshot, space, trials=10, epochs=4)
    pruned = [trial for trial in tuned.trials if trial.outcome == "pruned"]
    assert pruned
    assert all(2 <= trial.epochs < 4 for trial in pruned)
    assert all(trial.wmae > tuned.trials[0].wmae for trial in pruned)


def test_a_trial_that_diverges_is_told_and_the_search_goes_on(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    """A loss that is not finite fails the trial; the others are ranked before it."""
    space = "tune: {training.learning_rate: {choices: [0.01, 1.0e+30]}}"
    tuned = searched(tmp_path, snapshot, space, trials=5, epochs=1)
    outcomes = {trial.values["training.learning_rate"]: trial.outcome for trial in tuned.trials}
    assert {0.01: "finished", 1e30: "failed"} == outcomes
    assert "failed" == tuned.trials[-1].outcome


def test_a_search_in_which_nothing_can_be_fitted_has_no_recipe(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    """One line says where its trials are; the recipe's own value was not to be tried."""
    space = "tune: {training.learning_rate: {low: 1.0e+29, high: 1.0e+30}}"
    with pytest.raises(UsageError, match=r"none of 1 trials could be fitted; see .* widen `tune`"):
        searched(tmp_path, snapshot, space, trials=1, epochs=1)
    assert [] == list(tmp_path.glob(f"studies/*/{BEST}"))


def test_values_that_were_tried_before_are_not_fitted_again(
    snapshot: Snapshot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two values to choose from, three trials make two bundles at most, each fitted once."""
    space = "tune: {training.learning_rate: {choices: [0.01, 0.02]}}"
    tuned = searched(tmp_path, snapshot, space, trials=3, epochs=1)
    tried = {(trial.values["training.learning_rate"], trial.wmae) for trial in tuned.trials}
    assert 3 == len(tuned.trials)
    assert len(tried) == len(list(tmp_path.glob("bundles/*"))) <= 2
    assert len(tried) == capsys.readouterr().err.count('"stage": "fit"')


def test_a_search_without_optuna_is_refused(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"Optuna is not installed: pip install 'feastrain\[tun"):
        searched(tmp_path, snapshot, SPACE, trials=1)


DRIVER = """
import sys
from pathlib import Path
from feastrain.dataset.snapshot import Snapshot
from feastrain.recipe import load_recipe
from feastrain.settings import Settings
from feastrain.training.tuning import tune
path, snapshot, folder = map(Path, sys.argv[1:])
tune(path, load_recipe(path), Snapshot.open(snapshot), folder, 3, settings=Settings())
"""


def test_a_killed_search_goes_on(snapshot: Snapshot, tmp_path: Path) -> None:
    """After SIGKILL in mid-trial the finished trial stands, and the other resumes its run."""
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipe(tmp_path, 15).read_text() + SPACE)
    command = [sys.executable, "-c", DRIVER, path, snapshot.path, tmp_path]
    log = tmp_path / "log"
    with log.open("w") as file:
        killed = subprocess.Popen(command, stderr=file, start_new_session=True)
    try:
        _until(lambda: _checkpoints_of_second(tmp_path) >= 1, killed)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not list(tmp_path.glob(f"studies/*/{BEST}"))
    first = [line for line in log.read_text().splitlines() if "Trial " in line]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    again = [line for line in done.stderr.splitlines() if "Trial " in line]
    assert 2 == len(first)
    assert 2 == len(again)
    assert _values(first[1]) == _values(again[0])
    assert '"event": "resumed"' in done.stderr
    tuned = tune(path, load_recipe(path), snapshot, tmp_path, 3, settings=Settings())
    assert ["finished"] * 3 == [trial.outcome for trial in tuned.trials]


def _checkpoints_of_second(folder: Path) -> int:
    """Count the checkpoints of a run that is not finished, once another is."""
    finished = {path.parent.name for path in folder.glob("bundles/[!.]*/manifest.json")}
    if len(finished) != 1:
        return 0
    saved = folder.glob("runs/*/*.safetensors")
    return sum(path.parent.name not in finished for path in saved)


def _until(holds, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _values(line: str) -> str:
    return line.split(": ", 1)[1].split("Trial", 1)[1].split(": ", 1)[1]


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("", "does not say what to try"),
        ("tune: {training.rate: {low: 1, high: 2}}", "tune.training.rate: the recipe has no such"),
        ("tune: {horizon: {low: 1, high: 2}}", "tune.horizon: the recipe has no such key of model"),
        ("tune: {training.epochs: {low: 0, high: 2}}", "tune: training.epochs"),
        ("tune: {training.epochs: {low: 2, high: 1}}", "low 2 must be less than high 1"),
        ("tune: {model.hidden: {choices: [[8], [-1]]}}", "tune: model.mlp.hidden"),
    ],
)
def test_a_space_that_cannot_be_is_refused(
    snapshot: Snapshot, tmp_path: Path, space: str, told: str
) -> None:
    """One line says which key, before anything is fitted."""
    with pytest.raises(RecipeError, match=told):
        searched(tmp_path, snapshot, space, trials=1)
    assert not (tmp_path / "runs").exists()
