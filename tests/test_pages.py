"""What the tutorial and the how-tos tell to type ends as they say."""

from functools import partial
from pathlib import Path

import pytest

from feastrain import Project
from pages import DOCS, run_notebook, run_page


def test_the_tutorial_ends_in_forecasts(
    small_tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an empty folder; on small tables, for time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEASTRAIN_WALMART_DIR", str(small_tables))
    run_page(DOCS / "tutorial" / "first-forecast.md", monkeypatch)
    (forecasts,) = (tmp_path / "demand" / "artifacts" / "forecasts").glob("*/forecasts.parquet")
    assert forecasts.is_file()


def test_a_run_goes_on_in_the_background(own_demand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name that it has."""
    run_page(DOCS / "how-to" / "resume-a-run.md", monkeypatch)
    jobs = Project(own_demand).jobs()
    (job,) = jobs.all()
    assert "Complete" == jobs.wait(job.name, 120).state


def test_a_candidate_is_promoted(
    demand: Project, own_demand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same recipe gives the same bundle, which is as good as itself."""
    run_page(DOCS / "how-to" / "roll-back-a-model.md", monkeypatch)
    assert demand.bundle("smoke").fingerprint == Project(own_demand).bundle("smoke").fingerprint


def test_a_feature_is_added_and_a_leaky_one_refused(
    demand: Project, own_demand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model reads one feature more; of the one that knows the future there is no snapshot."""
    run_page(DOCS / "how-to" / "add-a-feature.md", monkeypatch)
    before, after = demand.snapshot("smoke"), Project(own_demand).snapshot("smoke")
    more = {*after.columns.observed} - {*before.columns.observed}
    assert {"dept_sales_mean_4"} == more
    kept = {
        path.resolve().parent.name
        for path in own_demand.glob("artifacts/snapshots/*/manifest.json")
    }
    assert {before.fingerprint, after.fingerprint} == kept


def test_the_notebook_runs(
    small_tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell; whatever a cell ends in shows itself as HTML. On small tables, for time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Project, "init", partial(Project.init, data=small_tables))
    shown = run_notebook(DOCS / "notebooks" / "first-forecast.ipynb")
    pages = [one._repr_html_() for one in shown if hasattr(one, "_repr_html_")]
    assert len(shown) == len(pages) == 7
    assert all("<table" in page for page in pages)
