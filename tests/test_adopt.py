"""A project on a Feast repo that is there already, from its definitions to a forecast."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from feast_repos import hours, write
from feastrain import Project
from feastrain.adopt.candidates import Candidate, find_candidates, find_label
from feastrain.adopt.guessing import Proposal, propose
from feastrain.adopt.reading import read_repo
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


SHOPS = """
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, LabelView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

shop = Entity(name="shop", join_keys=["shop"])
visitor = Entity(name="visitor", join_keys=["visitor"])


def source(name, **options):
    return FileSource(name=name, path=f"data/{name}.parquet", timestamp_field="at", **options)


def view(name, *fields, entity=shop, ttl=None, **options):
    schema = [Field(name=field, dtype=Float64) for field in fields]
    read = source(name, **options)
    return FeatureView(name=name, entities=[entity], schema=schema, source=read, ttl=ttl)


"""


def rows(periods: int = 40, apart: float = 24.0, key: str = "shop") -> dict[str, Any]:
    """Return two series of so many periods, so many hours apart."""
    at = [step * apart for step in range(periods)]
    units = np.random.default_rng(0).uniform(50, 150, 2 * periods)
    return {key: ["a"] * periods + ["b"] * periods, "at": hours(*at, *at), "units": units}


def write_shops(root: Path, definitions: str, **tables: dict[str, Any]) -> Path:
    """Write a Feast repo of shops."""
    for name, columns in tables.items():
        write(root / "data" / f"{name}.parquet", columns)
    (root / "feature_store.yaml").write_text(
        "{project: shops, provider: local, registry: registry.db, "
        "entity_key_serialization_version: 3}"
    )
    (root / "definitions.py").write_text(SHOPS + definitions)
    return root


def proposed(repo: Path, label: str = "sales.units") -> Proposal:
    """Return what is proposed for a label of a repo."""
    found = read_repo(repo)
    return propose(found, find_label(found, label), None)


def test_the_label_is_the_one_that_is_chosen(grocer: Path, tmp_path: Path) -> None:
    """Of all that there are; one that is a feature too has a name of its own."""

    def choose(candidates: Sequence[Candidate]) -> str:
        return next(one.name for one in candidates if one.column == "units_lag_1")

    project, proposal = Project.adopt(tmp_path / "new", grocer, choose=choose)
    assert "recent_sales.units_lag_1" == proposal.label.name
    assert "target_units_lag_1" == project.recipe("mlp").label.column


def test_a_service_that_is_none_is_refused(grocer: Path, tmp_path: Path) -> None:
    """The error says which there are, and no folder appears."""
    with pytest.raises(UsageError, match="no feature service 'sales'; there is replenishment"):
        Project.adopt(tmp_path / "new", grocer, SALES, service="sales")
    assert not list(tmp_path.iterdir())


def test_what_feast_calls_a_label_is_the_likeliest(tmp_path: Path) -> None:
    """Then a column that is no feature, and what a view has the past of at last."""
    definitions = """
sales = view("sales", "units")
returns = LabelView(
    name="returns", source=source("returns"), entities=[shop], labeler_field="by",
    schema=[Field(name="units", dtype=Float64), Field(name="by", dtype=String)],
)
"""
    sales = rows() | {"margin": rows()["units"]}
    repo = write_shops(tmp_path, definitions, sales=sales, returns=rows())
    assert [
        ("returns.units", "a label view of Feast reads it"),
        ("sales.margin", "no feature view has it"),
        ("sales.units", "a feature view has its past, read as of the cut-off"),
    ] == [(candidate.name, candidate.why) for candidate in find_candidates(read_repo(repo))]


def test_a_label_that_no_view_fits_is_refused(tmp_path: Path) -> None:
    """The error says of each view why it was left out."""
    definitions = """
sales, visits = view("sales", "units"), view("visits", "minutes", entity=visitor)
of_visits = FeatureService(name="of_visits", features=[visits])
"""
    visits = rows(key="visitor") | {"minutes": rows()["units"]}
    repo = write_shops(tmp_path, definitions, sales=rows(), visits=visits)
    told = (
        "service 'of_visits' has no view to forecast sales.units from: "
        "visits: keyed by visitor, which the label has not"
    )
    with pytest.raises(UsageError, match=told):
        proposed(repo)


@pytest.mark.parametrize(
    ("sales", "told"),
    [
        (rows(apart=0.5), "rows of sales lie 1800 seconds apart for a series; a period is a whole"),
        (rows(periods=1), "rows of sales lie 0 seconds apart for a series"),
        (rows(periods=7), "the label has 7 periods; at least 8 are needed"),
    ],
    ids=["half hours", "one period", "seven periods"],
)
def test_a_label_without_periods_is_refused(
    tmp_path: Path, sales: dict[str, Any], told: str
) -> None:
    """Whole hours apart, and enough of them to have some to test on."""
    repo = write_shops(tmp_path, 'sales = view("sales", "units")\n', sales=sales)
    with pytest.raises(UsageError, match=told):
        proposed(repo)


def test_a_view_that_expires_within_a_period_is_told(tmp_path: Path) -> None:
    """It is read all the same, and much of it may be null."""
    definitions = 'sales = view("sales", "units", ttl=timedelta(hours=1))\n'
    proposal = proposed(write_shops(tmp_path, definitions, sales=rows()))
    whys = {guess.what: guess.why for guess in proposal.guesses}
    told = "its ttl of 1:00:00 is less than a period, so much of it may read as null"
    assert whys["sales"].endswith(told)


def test_a_name_alone_makes_no_unit(tmp_path: Path) -> None:
    """What is named like the label and a thousand times smaller is not in its unit."""
    definitions = 'stock = view("stock", "units_share", "units_sold")\n'
    definitions += 'sales = source("sales")\n'
    units = rows()["units"]
    both = rows() | {"units_share": units / 1000, "units_sold": units * 2}
    shares = write_shops(tmp_path / "both", definitions, sales=rows(), stock=both)
    assert ("units_sold",) == proposed(shares).label_units
    small = both | {"units_sold": units / 2000}
    proposal = proposed(write_shops(tmp_path / "small", definitions, sales=rows(), stock=small))
    assert () == proposal.label_units
    assert "in the label's unit" not in {guess.taken for guess in proposal.guesses}


INFERRED = """
sales = view("sales", field_mapping={"price_raw": "price"})


@on_demand_feature_view(sources=[sales], schema=[Field(name="twice", dtype=Float64)])
def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"twice": inputs["price"] * 2})
"""


@pytest.fixture(scope="module")
def inferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo whose view leaves it to its table what its features are."""
    sales = rows()
    count = len(sales["units"])
    sales |= {
        "price_raw": sales["units"].astype(np.float32),
        "stock": np.arange(count),
        "kind": ["a", "b"] * (count // 2),
        "picture": [b""] * count,
    }
    return write_shops(tmp_path_factory.mktemp("inferred") / "repo", INFERRED, sales=sales)


def test_a_view_without_a_schema_has_what_its_table_has(inferred: Path) -> None:
    """Neither keys nor times, by the names that Feast gives them, in types that a model reads."""
    found = read_repo(inferred)
    (view,) = found.views
    assert {
        "units": "Float64",
        "price": "Float32",
        "stock": "Int64",
        "kind": "String",
    } == view.features
    told = "it is computed on demand: copy its definition to feature_repo/features.py to use it"
    assert {"doubled": told} == {guess.what: guess.why for guess in found.left_out}


def test_a_column_that_is_renamed_is_renamed_in_the_project(inferred: Path) -> None:
    """The definitions that are written read the same column under the same name."""
    project, _ = Project.adopt(inferred.parent / "forecast", inferred, "sales.units")
    (view,) = read_repo(project.root / "feature_repo").views
    assert {"price_raw": "price"} == view.table.renamed
    assert "price" in view.features
