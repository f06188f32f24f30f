"""Forecasts written back to the online store: found there by series and week."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from feastrain import Project
from feastrain.errors import ProjectError, RecipeError
from feastrain.serving.batch import rows_to_push
from feastrain.settings import Settings
from feastrain.stores.feature_repo import open_store

if TYPE_CHECKING:
    from pathlib import Path

VIEW = """

from feast import PushSource

sales_forecasts = FeatureView(
    name="sales_forecasts",
    entities=[store, dept, week],
    ttl=UNLIMITED,
    source=PushSource(name="forecasts", batch_source=table("pushed_forecasts")),
    schema=[
        Field(name="store", dtype=Int64),
        Field(name="dept", dtype=Int64),
        Field(name="week", dtype=String),
        Field(name="q50", dtype=Float64),
        Field(name="step", dtype=Int64),
    ],
)
"""


def declared(demand: Project, folder: Path, view: str = VIEW) -> Project:
    """Copy a project and declare a view for its forecasts."""
    root = folder / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    path = root / "feature_repo" / "features.py"
    path.write_text(path.read_text() + view)
    project = Project(root, Settings())
    project.materialize("smoke")
    return project


def test_pushed_forecasts_are_read_by_series_and_week(demand: Project, tmp_path: Path) -> None:
    """Feast's own API answers the median that the file has, for every series and week."""
    project = declared(demand, tmp_path)
    made = project.predict("smoke", push="forecasts")
    forecasts = pq.read_table(made.path)
    recipe = project.recipe("smoke")
    weeks = [recipe.period_name(period) for period in forecasts["period"].to_pylist()]
    entities = {name: forecasts[name].to_pylist() for name in ("store", "dept")} | {"week": weeks}
    answer = (
        open_store(project.root / "feature_repo")
        .get_online_features(["sales_forecasts:q50", "sales_forecasts:step"], entities)
        .to_dict()
    )
    assert forecasts["q0.5"].to_pylist() == answer["q50"]
    assert forecasts["step"].to_pylist() == answer["step"]


def test_a_push_source_that_is_not_there_is_named(demand: Project, tmp_path: Path) -> None:
    """So is a column that forecasts lack; nothing is written."""
    project = declared(demand, tmp_path, VIEW.replace('"q50"', '"median"'))
    with pytest.raises(ProjectError, match="no view of the feature repo has a push source 'sale'"):
        project.predict("smoke", push="sale")
    with pytest.raises(ProjectError, match=r"'sales_forecasts' .* wants median; there are .* q50"):
        project.predict("smoke", push="forecasts")


def test_a_recipe_without_a_period_key_has_nothing_to_be_found_by(demand: Project) -> None:
    """It is refused in one line."""
    recipe = demand.recipe("smoke")
    features = recipe.features.model_copy(update={"period_key": None})
    forecasts = pq.read_table(demand.predict("smoke").path)
    with pytest.raises(RecipeError, match=r"has no features\.period_key"):
        rows_to_push(forecasts, recipe.model_copy(update={"features": features}))
