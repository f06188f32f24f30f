"""The feature repo of the reference application, applied to a real store."""

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from feastrain import Project
from feastrain.recipe import load_recipe
from feastrain.settings import Settings
from kaggle_tables import TEMPLATE

if TYPE_CHECKING:
    from feast import FeatureStore

TRANSFORMS = [
    "temperature_normalized",
    "holiday_markdown_interaction",
    "seasonal_sine",
    "seasonal_cosine",
]
STORED = [
    "sales_history_features",
    "seasonal_baseline_features",
    "store_external_features",
    "store_static_features",
    "calendar_features",
    "computed_features",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_tables: Path) -> Path:
    """A new project with its feature tables made and its feature repo applied."""
    root = tmp_path_factory.mktemp("repo") / "demand"
    Project.init(root, small_tables)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast calls its on-demand views experimental
        Project(root, Settings()).features("smoke")
    return root


@pytest.fixture(scope="module")
def store(project: Path) -> "FeatureStore":
    from feastrain.stores.feature_repo import open_store

    return open_store(project / "feature_repo")


def views_of(store: "FeatureStore", service: str) -> dict[str, list[str]]:
    """Return the features that a service offers, by view."""
    projections = store.get_feature_service(service).feature_view_projections
    return {view.name: [field.name for field in view.features] for view in projections}


def retrieved(store: "FeatureStore", rows: pd.DataFrame, service: str) -> pd.DataFrame:
    """Return the features of `service` for `rows`, in a fixed order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's own, about ibis and on-demand views
        job = store.get_historical_features(rows, store.get_feature_service(service))
        table: pd.DataFrame = job.to_df()
    return table.sort_values(["store", "dept", "event_timestamp"], ignore_index=True)


@pytest.fixture(scope="module")
def rows(project: Path) -> pd.DataFrame:
    """Some cut-offs of each series, each with the week four weeks on."""
    labels = pd.read_parquet(project / "data/features/labels.parquet")
    rows = labels[["store", "dept", "event_timestamp"]].sample(200, random_state=0)
    target = rows["event_timestamp"] + pd.Timedelta(weeks=4)
    return rows.assign(week=target.dt.strftime("%Y-%m-%d")).reset_index(drop=True)


def test_stored_transforms_equal_those_on_demand(store: "FeatureStore", rows: pd.DataFrame) -> None:
    """What features.sql stored is what the on-demand view computes, for every row."""
    expected = retrieved(store, rows, "demand_forecasting_on_demand")
    actual = retrieved(store, rows, "demand_forecasting_service")
    assert len(rows) == len(actual) == len(expected)
    for name in TRANSFORMS:
        assert actual[name].notna().all()
        np.testing.assert_allclose(
            actual[name].astype(float), expected[name].astype(float), rtol=1e-12, atol=1e-12
        )
    assert (actual["holiday_markdown_interaction"] > 0).any(), "no row tells the two apart"


def test_both_services_agree_on_what_both_offer(store: "FeatureStore", rows: pd.DataFrame) -> None:
    """Apart from the transforms, the service with the on-demand view gives the same values."""
    expected = retrieved(store, rows, "demand_forecasting_service")
    actual = retrieved(store, rows, "demand_forecasting_on_demand")
    on_demand = views_of(store, "demand_forecasting_on_demand")
    both = [name for view in STORED for name in on_demand.get(view, [])]
    assert {"sales_lag_1", "temperature", "store_type"} <= set(both)
    pd.testing.assert_frame_equal(expected[both], actual[both])


def test_a_read_at_the_cutoff_is_the_row_of_the_week_that_closed(
    store: "FeatureStore", project: Path, rows: pd.DataFrame
) -> None:
    """Lag 1 is the label of the cut-off itself, and the calendar's row is the target week's."""
    labels = pd.read_parquet(project / "data/features/labels.parquet")
    calendar = pd.read_parquet(project / "data/features/calendar.parquet").set_index("week")
    actual = retrieved(store, rows, "demand_forecasting_service")
    expected = actual.merge(labels, on=["store", "dept", "event_timestamp"])["weekly_sales"]
    assert list(expected) == list(actual["sales_lag_1"])
    assert list(calendar.loc[actual["week"], "holiday"]) == list(actual["holiday"])


def test_no_service_offers_the_label(store: "FeatureStore") -> None:
    """Neither the label nor a view on its table is in any service or any view."""
    label = load_recipe(TEMPLATE / "recipes/mlp.yaml").label
    for service in store.list_feature_services():
        for features in views_of(store, service.name).values():
            assert not {label.column, label.weight} & set(features)
    for view in store.list_feature_views():
        assert Path(view.batch_source.path).name != label.source.name


def test_no_feature_touches_the_target_of_its_own_week(store: "FeatureStore") -> None:
    """The features of the well-known example that divide the label are not here."""
    offered = {field.name for view in store.list_all_feature_views() for field in view.features}
    assert not offered & {"sales_normalized", "sales_per_sqft", "markdown_efficiency"}


def test_the_service_is_the_stored_views(store: "FeatureStore") -> None:
    """Nothing that training or serving reads is computed on demand."""
    offered = views_of(store, "demand_forecasting_service")
    assert STORED == list(offered)
    names = [name for features in offered.values() for name in features]
    assert len(names) == len(set(names)), "two views of the service share a name"
    assert "feature_transformations" in views_of(store, "demand_forecasting_on_demand")


def test_sources_are_found_from_any_folder(
    store: "FeatureStore", project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources are absolute, and registry and online store stay in the project."""
    from feastrain.stores.feature_repo import open_store

    monkeypatch.chdir(tmp_path)
    opened = open_store(Path(os.path.relpath(project / "feature_repo", tmp_path)).resolve())
    assert len(STORED) == len(opened.list_feature_views())
    for view in opened.list_feature_views():
        assert Path(view.batch_source.path).is_absolute()
        assert Path(view.batch_source.path).is_relative_to(project.resolve())
    assert (project / "feature_repo/data/registry.db").is_file()
    assert [] == list(tmp_path.iterdir())


def test_schemas_are_those_of_the_tables(store: "FeatureStore") -> None:
    """Every column of a feature table is a field of its view, a key or a time."""
    for view in store.list_feature_views():
        columns = set(pd.read_parquet(view.batch_source.path).columns)
        fields = {field.name for field in (*view.features, *view.entity_columns)}
        assert columns == fields | {"event_timestamp", "created_timestamp"}


@pytest.mark.parametrize("name", ["mlp", "smoke", "tft", "best"])
def test_a_recipe_fits_the_service(store: "FeatureStore", name: str) -> None:
    """Each feature has a role, and what a recipe names exists."""
    from feastrain.dataset.service import resolve_service

    recipe = load_recipe(TEMPLATE / "recipes" / f"{name}.yaml")
    columns = resolve_service(store, recipe).columns
    assert {"store_type", "store_size"} == set(columns.static)
    calendar = {"holiday", "is_holiday", "week_of_year"}
    assert ({"holiday"} if name == "best" else calendar) == calendar & set(columns.known_ahead)
    assert () == columns.known_keys
    in_dollars = {name for name in columns.observed if re.match(r"sales_|missed_\d", name)}
    assert in_dollars - {"sales_growth"} | set(columns.stepped) == set(columns.label_units)


def test_mlp_and_smoke_are_the_same_science() -> None:
    """The smoke recipe differs from the other in its name, model and training alone."""
    recipe, smoke = (load_recipe(TEMPLATE / "recipes" / f"{n}.yaml") for n in ("mlp", "smoke"))
    assert smoke.data_section() == recipe.data_section()
    assert 8 == recipe.horizon
    assert "holiday" == recipe.label.event
    assert (4, 1) == (recipe.split.validation_cutoffs, recipe.split.test_cutoffs)


def test_the_tft_differs_in_what_it_reads_alone() -> None:
    """Labels, split and limits are the MLP's, so that their scores compare."""
    sections = [
        load_recipe(TEMPLATE / "recipes" / f"{name}.yaml").data_section() for name in ("mlp", "tft")
    ]
    differing = {key for key, value in sections[0].items() if value != sections[1][key]}
    assert {"features"} == differing


def test_a_copied_project_leaves_its_origin_alone(demand: Project, tmp_path: Path) -> None:
    """Applying a changed copy of a project drops nothing from the online store it came from."""
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    shutil.copytree(demand.root, origin, symlinks=True)
    Project(origin).materialize("smoke")
    shutil.copytree(origin, copy, symlinks=True)
    path = copy / "feature_repo" / "features.py"
    path.write_text(path.read_text().replace('"sales_history_features"', '"other_features"'))
    Project(copy).features("smoke")
    assert 96 == Project(origin).predict("smoke").rows
