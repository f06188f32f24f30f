"""Results as a person reads them on a terminal."""

import io
import re
from pathlib import Path

import pytest

from feastrain import Project
from feastrain.adopt.candidates import Candidate
from feastrain.adopt.reading import Guess, Table
from feastrain.cli import app
from feastrain.dataset.diff import Change, Difference
from feastrain.dataset.drift import Drift, FeatureDrift
from feastrain.demo import run_demo
from feastrain.errors import ProjectError
from feastrain.report import (
    ask_for_label,
    show_difference,
    show_drift,
    show_guesses,
    show_trials,
    show_verdicts,
)
from feastrain.training.tuning import Tried, Tuned

SALES = Table("sales", Path("sales.parquet"), "at", None, {}, {})


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, with single blanks and without borders."""
    return " ".join(re.sub("[\u2500-\u257f]+", " ", capsys.readouterr().out).split())


def test_the_label_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number, until the answer is one of those that are shown."""
    monkeypatch.setattr("sys.stdin", io.StringIO("3\n2\n"))
    candidates = [Candidate(SALES, name, f"{name} changes") for name in ("units", "revenue")]
    assert "sales.revenue" == ask_for_label(candidates)
    assert "1 sales.units units changes 2 sales.revenue revenue changes" in said(capsys)


def test_brackets_in_data_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """A guess that looks like a colour is read as it is."""
    show_guesses([Guess("[red]a", "b[/red]", "[c]")], Path("made"))
    told = said(capsys)
    assert "[red]a b[/red] [c]" in told
    assert "feastrain build mlp -C made" in told


def test_trials_are_shown_with_their_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Of one that failed there is no error to show."""
    trials = (
        Tried(1, "finished", 1234.5, 3, {"training.rate": 0.00012345, "model.hidden": [8, 8]}),
        Tried(0, "failed", None, 0, {"training.rate": 0.1, "model.hidden": [4]}),
    )
    show_trials(Tuned(Path("study"), trials))
    told = said(capsys)
    assert "1 1,234.50 3 finished 0.0001234 [8, 8] 0 0 failed 0.1 [4]" in told
    assert "best recipe: study/best.yaml" in told


def test_broken_expectations_are_first_and_show_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """A null is called one; a verdict on the table as a whole counts no rows."""
    about = {"severity": "error", "found": "-1", "rows": 10}
    verdicts = [
        {"column": "(rows)", "expectation": "at least 5", "holds": True, "failures": 0}
        | {**about, "found": "10", "rows": 1, "examples": []},
        {"column": "price", "expectation": "min 0", "holds": False, "failures": 2}
        | {
            **about,
            "examples": [
                {"key": {"store": 1}, "value": -1},
                {"key": {"store": 2}, "value": None},
            ],
        },
    ]
    show_verdicts(verdicts)
    told = said(capsys)
    assert "price min 0 error 2 of 10 -1 (rows) at least 5 holds 10" in told
    assert told.endswith("price: min 0 store value 1 -1 2 null")


def test_drift_names_what_only_one_side_has(capsys: pytest.CaptureFixture[str]) -> None:
    """A text has no Kolmogorov-Smirnov distance; its new categories are named with their share."""
    features = (
        FeatureDrift("kind", "category", 0.5, None, 0.0, 0.25, ("new", "newer"), 0.125),
        FeatureDrift("price", "number", 0.0, 0.1, 0.0, 0.0),
    )
    show_drift(Drift(features, ("added",), ("gone",), 1000, 8), "Drift")
    told = said(capsys)
    assert "kind category 0.500 0.0% 25.0% new, newer (12.5% of rows)" in told
    assert "price number 0.000 0.100 0.0% 0.0%" in told
    assert told.endswith("1,000 rows before, 8 after only before: gone only after: added")


def test_a_difference_shows_what_each_side_has(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing for a key that a side lacks; long values are cut short."""
    changes = (Change("horizon", 4, 8), Change("note", None, "x" * 300))
    show_difference(Difference("one", "other", changes, ()))
    told = said(capsys)
    assert "horizon 4 8 note xxx" in told
    assert "x…" in told
    assert told.endswith("What came of it: no difference")


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (["diff", "smoke", "smoke"], "What they were made from: no difference"),
        (["drift", "smoke", "smoke"], "Drift of the train rows from smoke to smoke"),
        (["metrics"], "| `feastrain_drift_ks_distance{service,feature}` | gauge |"),
        (["sbom", "--licences"], "feast 0."),
        (["build", "smoke", "--json"], '"row_features"'),
        (["backtest", "smoke", "--json"], '"report"'),
    ],
)
def test_a_verb_says_what_it_found(
    own_demand: Path, capsys: pytest.CaptureFixture[str], verb: list[str], expected: str
) -> None:
    """On standard output, in a table or as JSON."""
    app(verb, standalone_mode=False)
    assert expected in said(capsys), own_demand


def test_the_chain_in_one_command(
    own_demand: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes on with a project that is there, and says what it made; not with other tables."""
    monkeypatch.delenv("FEASTRAIN_WALMART_DIR", raising=False)
    app(["demo", str(own_demand), "--recipe", "smoke", "--no-serve"], standalone_mode=False)
    told = said(capsys)
    for word in ("seasonal-naive", "forecasts", "snapshot", "Made from Kaggle's tables in"):
        assert word in told
    assert list(Project(own_demand).artifacts.glob("forecasts/*/forecasts.parquet"))
    with pytest.raises(ProjectError, match="name another folder, or remove this one"):
        run_demo(own_demand, tmp_path, "smoke")
