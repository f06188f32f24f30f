"""Results as a person reads them on a terminal."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from feastrain import Project
from feastrain.adopt.candidates import Candidate
from feastrain.adopt.reading import Guess, Table
from feastrain.cli import app
from feastrain.dataset.audit.report import AuditReport
from feastrain.dataset.diff import Change, Difference
from feastrain.dataset.drift import Drift, FeatureDrift
from feastrain.dataset.skew.report import Example, Finding, SkewReport
from feastrain.demo import run_demo
from feastrain.errors import ProjectError
from feastrain.evaluation.explain import Shares
from feastrain.report import (
    ask_for_label,
    show_audit,
    show_difference,
    show_drift,
    show_explanation,
    show_guesses,
    show_leaderboard,
    show_plan,
    show_skew,
    show_trials,
    show_verdicts,
)
from feastrain.training.tuning import Tried, Tuned
from feastrain.version import __version__

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


def test_a_recipe_that_expects_nothing_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence, and no table without rows."""
    show_verdicts([])
    told = "The recipe has no `expectations`, which say what data build refuses."
    assert told == said(capsys)


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


def test_a_system_that_is_not_installed_is_named_with_its_command(
    demand: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets in the command are no markup; what does not beat the bar has a star."""
    found = demand.backtest("smoke")
    (bar,) = [entry for entry in found.scores if entry.system == "seasonal-naive-growth"]
    worse = replace(bar, system="worse", beats_growth=False)
    tables = [row | {"system": "worse"} for row in found.tables if row["system"] == bar.system]
    show_leaderboard(replace(found, scores=(worse,), tables=tuple(tables), missing=("lightgbm",)))
    told = said(capsys)
    assert "* no better than seasonal-naive-growth" in told
    assert "lightgbm is not installed: pip install 'feastrain[baselines]'" in told
    better = replace(worse, beats_growth=True)
    show_leaderboard(replace(found, scores=(better,), tables=tuple(tables), missing=()))
    assert "no better" not in said(capsys)


def test_the_notes_of_an_audit_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """What the proof rests on stands under it."""
    show_audit(AuditReport("smoke", "sales", (), 0, (), notes=("one [table] was not changed",)))
    assert "one [table] was not changed" in said(capsys)


@pytest.mark.parametrize(
    ("special", "end"),
    [
        ({"special": 0.5, "ordinary": 0.25}, "draws 50.00%, an ordinary one 25.00%"),
        (None, "on the periods ahead: 50.0%"),
    ],
)
def test_special_periods_are_told_where_there_are_some(
    capsys: pytest.CaptureFixture[str], special: dict[str, float] | None, end: str
) -> None:
    """The shares of variables, of each lag, and of special periods."""
    one = {"price": 1.0}
    show_explanation(Shares("tft", "test", 8, one, one, one, [[0.25, 0.25, 0.5]], special))
    told = said(capsys)
    assert "Means over 8 test rows" in told
    assert told.endswith(end)


def test_skew_names_the_worst_value_of_each_cause(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing differs, how many values were compared."""
    example = Example({"store": 1}, "5", "6", "", "")
    finding = Finding("shelf", "units", "late write", 3, (example,))
    at = "2012-10-26T23:59:59+00:00"
    show_skew(SkewReport("smoke", "sales", at, "sqlite", 2, {"shelf": 10}, (finding,)))
    assert "shelf units late write 3 store 1 5 6" in said(capsys)
    show_skew(SkewReport("smoke", "sales", at, "sqlite", 2, {"shelf": 10}, ()))
    told = said(capsys)
    assert told.startswith("0 of 10 values of 2 series differ as of 2012-10-26T23:59:59")
    assert told.endswith("shelf 0 of 10")


def test_a_plan_shows_what_has_changed(demand: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Each input that is not that of the last snapshot, before and now."""
    show_plan(replace(demand.plan("smoke"), changed=(Change("recipe.horizon", 4, 8),)))
    assert "Changed since the last snapshot" in said(capsys)


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (["diff", "smoke", "smoke"], "What they were made from: no difference"),
        (["drift", "smoke", "smoke"], "Drift of the train rows from smoke to smoke"),
        (["--version"], f"feastrain {__version__}"),
        (["doctor"], "feastrain doctor"),
        (["doctor", "--json"], '"what": "Python 3.11 or newer"'),
        (["demo", ".", "--recipe", "smoke", "--no-serve", "--json"], '"forecasts": "'),
        (["render"], "kind: ClusterTrainingRuntime"),
        (["metrics"], "| `feastrain_drift_ks_distance{service,feature}` | gauge |"),
        (["sbom", "--licences"], "feast 0."),
        (["build", "smoke", "--json"], '"row_features"'),
        (["backtest", "smoke", "--json"], '"report"'),
    ],
)
def test_a_verb_says_what_it_found(
    own_demand: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: list[str],
    expected: str,
) -> None:
    """On standard output, in a table or as JSON."""
    monkeypatch.delenv("FEASTRAIN_WALMART_DIR", raising=False)
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
