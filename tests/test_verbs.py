"""Verbs of the command line, as they are typed: what they print, write and refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from feastrain import Project, doctor
from feastrain.cli import app
from feastrain.errors import UsageError
from feastrain.jobs.overlay import DEPLOY
from feastrain.settings import Settings, share_metrics
from feastrain.training.tuning import Tried, Tuned
from retail_repo import write_retail

SALES = "data/sales.parquet.units"


def told(*words: str, code: int = 0) -> str:
    """Return what a command prints."""
    result = CliRunner().invoke(app, words)
    assert code == result.exit_code, result.output
    return result.stdout


def test_what_was_guessed_of_a_repo_is_told_to_programs(tmp_path: Path) -> None:
    """Each guess with its reason."""
    repo = write_retail(tmp_path / "repo")
    words = ["init", str(tmp_path / "forecast"), "--from", str(repo), "--label", SALES, "--json"]
    answer = json.loads(told(*words))
    assert str(tmp_path / "forecast") == answer["project"]
    assert {"what", "taken", "why"} == set(answer["guesses"][0])


def test_a_label_goes_with_a_repo(tmp_path: Path) -> None:
    """Without one there is nothing to look for it in."""
    with pytest.raises(UsageError, match="--label and --service go with --from FEAST_REPO"):
        app(["init", str(tmp_path / "new"), "--label", SALES], standalone_mode=False)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_best_of_a_search_is_copied_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """Beside what is shown of it."""
    (tmp_path / "best.yaml").write_text("name: best\n")
    tuned = Tuned(tmp_path, (Tried(0, "finished", 12.5, 3, {"training.epochs": 3}),))
    monkeypatch.setattr(Project, "tune", lambda *_: tuned)
    shown = told("tune", "mlp", "--out", str(tmp_path / "copy.yaml"), *["--json"] * as_json)
    assert ('"recipe": ' if as_json else "12.50") in shown
    assert "name: best\n" == (tmp_path / "copy.yaml").read_text()


def test_all_of_a_cluster_is_printed() -> None:
    """As one stream of objects, for kubectl."""
    if not DEPLOY.is_dir():
        pytest.skip("no deploy/ here")
    kinds = {one["kind"] for one in yaml.safe_load_all(told("render", "--overlay", "dev"))}
    assert {"Deployment", "CronJob", "NetworkPolicy"} < kinds


def test_a_moment_may_be_told_to_the_minute(demand: Project) -> None:
    """A date is its last moment; a time without a zone is UTC."""
    root = str(demand.root)
    ends = {
        "2011-12-31": "2011-12-31T23:59:59.999999+00:00",
        "2011-12-31T12:00": "2011-12-31T12:00:00+00:00",
        "2011-12-31T12:00+02:00": "2011-12-31T12:00:00+02:00",
    }
    for written, moment in ends.items():
        answer = json.loads(told("plan", "smoke", "-C", root, "--as-of", written, "--json"))
        (change,) = answer["changed"]
        assert ("as_of", moment) == (change["key"], change["after"])


def test_help_imports_no_stage() -> None:
    """It is there at once."""
    program = (
        "import sys; sys.argv = ['feastrain', '--version']\n"
        "from feastrain.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print('feast' in sys.modules, 'torch' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "False False" == run.stdout.splitlines()[-1]


def test_a_package_that_is_not_installed_is_named(
    demand: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it; doctor looks at nothing that needs it."""
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'feastrain\[gx\]'$"):
        demand._gx()
    assert [] == [found for found in doctor._service(Settings()) if "who may ask" in found.what]


def test_what_was_set_before_is_set_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts processes whose metrics are kept together may be one of such itself."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "before")
    monkeypatch.delenv("PROMETHEUS_MULTIPROCESS_DIR", raising=False)
    with share_metrics(tmp_path):
        assert str(tmp_path) == os.environ["PROMETHEUS_MULTIPROCESS_DIR"]
    names = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")
    assert ["before", None] == [os.environ.get(name) for name in names]
