"""A project on a Feast repo that is there already, from its definitions to a forecast."""

import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feastrain import Project
from feastrain.adopt.guessing import Proposal
from feastrain.errors import ProjectError, UsageError
from pages import DOCS, run_page
from retail_repo import write_retail

SALES = "data/sales.parquet.units"
PAGE = DOCS / "how-to" / "use-my-feast-repo.md"
TRIPS = "driver_hourly_stats.avg_daily_trips"


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `feast init` writes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast.repo_operations import init_repo

        folder = tmp_path_factory.mktemp("feast")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            init_repo("drivers", "local")
    return folder / "drivers"


@pytest.fixture(scope="module")
def grocer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo of daily retail."""
    return write_retail(tmp_path_factory.mktemp("grocer") / "repo")


@pytest.fixture(scope="module")
def retail(grocer: Path) -> tuple[Project, Proposal]:
    """A project on the daily retail."""
    return Project.adopt(grocer.parent / "forecast", grocer, SALES)


def forecast(project: Project) -> int:
    """Take a project to its forecasts and return how many there are."""
    recipe = project.root / "recipes" / "mlp.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 10", "epochs: 1"))
    project.train("mlp")
    project.materialize("mlp")
    return len(pq.read_table(project.predict("mlp").path))


def test_the_template_of_feast_is_taken_to_forecasts(drivers: Path) -> None:
    """Feast's own template gives a forecast of each driver for every hour of a day."""
    project, _ = Project.adopt(drivers.parent / "forecast", drivers, TRIPS)
    assert forecast(project) == 5 * 24


def test_the_commands_of_the_page_end_in_forecasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command of use-my-feast-repo.md works on daily retail with labels outside Feast."""
    write_retail(tmp_path / "my_feast_repo")
    monkeypatch.chdir(tmp_path)
    run_page(PAGE, monkeypatch)
    (made,) = tmp_path.glob("forecast/artifacts/forecasts/*/forecasts.parquet")
    assert len(pq.read_table(made)) == 6 * 7


def test_views_and_columns_get_their_roles(retail: tuple[Project, Proposal]) -> None:
    """Roles come from what the rows do: change, stay, name periods, move from step to step."""
    project, _ = retail
    recipe = project.recipe("mlp")
    assert recipe.entities == ("shop_code", "ean")
    assert recipe.features.roles == {
        "recent_sales": "observed",
        "articles": "static",
        "promotions": "known_ahead",
    }
    assert recipe.features.period_key == "day"
    assert recipe.features.stepped == ("units_week_before",)
    assert recipe.features.unit == ("units_mean_28",)
    assert (recipe.season, recipe.horizon) == (7, 7)


def test_every_guess_has_a_reason(retail: tuple[Project, Proposal]) -> None:
    """Nothing is decided without saying why; what is left out is named too."""
    _, proposal = retail
    whys = {guess.what: guess.why for guess in proposal.guesses}
    assert all(whys.values())
    assert whys["visits"] == "keyed by visitor_id, which the label has not"
    assert whys["promotions"].endswith("35 days before its own")


def test_creation_times_count_only_where_they_tell_something(
    drivers: Path, tmp_path: Path, retail: tuple[Project, Proposal]
) -> None:
    """A table written at one go has none, else every feature would be null; others keep theirs."""
    _, of_template = Project.adopt(tmp_path / "new", drivers, TRIPS)
    assert [view.table.created for view, _ in of_template.views] == [None]
    created = {view.name: view.table.created for view, _ in retail[1].views}
    assert created == {"articles": None, "promotions": None, "recent_sales": "loaded_at"}


def test_a_feast_repo_is_only_read(grocer: Path, retail: tuple[Project, Proposal]) -> None:
    """No registry and no online store appears in a repo that was adopted and built from."""
    project, _ = retail
    project.build("mlp")
    assert not list((grocer / "data").glob("*.db"))


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (None, "say what to forecast with --label SOURCE.COLUMN; there is "),
        ("recent_sales.nothing", "--label 'recent_sales.nothing' names nothing to forecast"),
        ("data/none.parquet.units", "data/none.parquet does not exist"),
        ("data/sales.parquet.none", "needs a number of that name and the join keys of the repo"),
    ],
)
def test_a_label_that_is_none_is_refused(
    grocer: Path, tmp_path: Path, label: str | None, told: str
) -> None:
    """The error says what could be forecast, and no folder appears."""
    with pytest.raises(UsageError) as caught:
        Project.adopt(tmp_path / "new", grocer, label)
    assert told in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_repo_is_refused(tmp_path: Path) -> None:
    """The error names the file that is missing."""
    with pytest.raises(ProjectError, match=r"it has no feature_store\.yaml"):
        Project.adopt(tmp_path / "new", tmp_path, SALES)
