"""A project on a Feast repo that is there already, from its definitions to a forecast."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feastrain import Project
from feastrain.adopt.guessing import Proposal
from feastrain.cli import main
from feastrain.errors import ProjectError, UsageError
from feastrain.recipe import Recipe
from retail_repo import write_retail

SALES = "data/sales.parquet.units"
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
    project.backtest("mlp")
    project.materialize("mlp")
    return len(pq.read_table(project.predict("mlp").path))


def test_the_template_of_feast_is_taken_to_forecasts(drivers: Path) -> None:
    """Feast's own template gives a forecast of each driver for every hour of a day."""
    project, _ = Project.adopt(drivers.parent / "forecast", drivers, TRIPS)
    assert forecast(project) == 5 * 24


def test_a_daily_panel_is_taken_to_forecasts(retail: tuple[Project, Proposal]) -> None:
    """Other entities, another grain, labels outside Feast: a forecast of each series and day."""
    project, _ = retail
    assert forecast(project) == 6 * 7


def test_views_and_columns_get_their_roles(retail: tuple[Project, Proposal]) -> None:
    """Roles come from what the rows do: change, stay, name periods, move from step to step."""
    project, _ = retail
    recipe: Recipe = project.recipe("mlp")
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
    with pytest.raises(UsageError, match=".*") as caught:
        Project.adopt(tmp_path / "new", grocer, label)
    assert told in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_repo_is_refused(tmp_path: Path) -> None:
    """The error names the file that is missing."""
    with pytest.raises(ProjectError, match="it has no feature_store.yaml"):
        Project.adopt(tmp_path / "new", tmp_path, SALES)


@pytest.fixture
def _arguments(monkeypatch: pytest.MonkeyPatch, grocer: Path, tmp_path: Path) -> Iterator[None]:
    asked = ["init", str(tmp_path / "new"), "--from", str(grocer), "--label", SALES]
    monkeypatch.setattr("sys.argv", ["feastrain", *asked])
    return None


@pytest.mark.usefixtures("_arguments")
def test_the_command_line_says_what_was_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`init --from` prints each guess and what to do next."""
    with pytest.raises(SystemExit, match="0"):
        main()
    assert f"feastrain build mlp -C {tmp_path / 'new'}" in capsys.readouterr().out.replace("\n", "")
