"""A project on a Feast repo that is there already, from its definitions to a forecast."""

import re
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feast_repos import hours, write
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


UNUSABLE = """
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Bytes, Float64

shop = Entity(name="shop", join_keys=["shop"])


def view(name, path, *, entities=(shop,), schema=(Field(name="units", dtype=Float64),)):
    source = FileSource(name=f"{name}_source", path=path, timestamp_field="at")
    return FeatureView(name=name, entities=list(entities), schema=list(schema), source=source)


absent = view("absent", "data/absent.parquet")
remote = view("remote", "s3://bucket/sales.parquet")
damaged = view("damaged", "data/damaged.parquet")
timeless = view("timeless", "data/timeless.parquet")
alone = view("alone", "data/sales.parquet", entities=())
pictures = view("pictures", "data/sales.parquet", schema=(Field(name="picture", dtype=Bytes),))
"""


def test_a_repo_without_a_view_to_use_says_why_of_each(tmp_path: Path) -> None:
    """Every view is named with what is wrong with it."""
    write(tmp_path / "data" / "timeless.parquet", {"shop": ["a"], "units": [1.0]})
    columns = {"shop": ["a"], "units": [1.0], "picture": [b""], "at": hours(0)}
    write(tmp_path / "data" / "sales.parquet", columns)
    (tmp_path / "data" / "damaged.parquet").write_text("no Parquet")
    (tmp_path / "feature_store.yaml").write_text(
        "{project: shops, provider: local, registry: registry.db, "
        "entity_key_serialization_version: 3}"
    )
    (tmp_path / "features.py").write_text(UNUSABLE)
    with pytest.raises(ProjectError, match="no feature view to forecast from") as caught:
        Project.adopt(tmp_path / "forecast", tmp_path)
    told = str(caught.value)
    for name, why in {
        "absent": r"it reads .*/data/absent\.parquet, which does not exist",
        "remote": r"it reads s3://bucket/sales\.parquet; copy that to this machine first",
        "damaged": r"it reads .*/data/damaged\.parquet, which DuckDB refuses: ",
        "timeless": r".*/data/timeless\.parquet has no column with the time of a row",
        "alone": "it has no entity, and a forecast is made for each series of one",
        "pictures": "it has no number and no text",
    }.items():
        assert re.search(f"{name}: {why}", told), told
    assert not (tmp_path / "forecast").exists()
