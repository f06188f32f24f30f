"""What is computed on demand is served as it was trained on, from any of Feast's online stores."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from drivers_project import write_drivers
from feastrain import Project
from feastrain.dataset.retrieve import retrieve_rows
from feastrain.dataset.service import Service, resolve_service
from feastrain.errors import FeastrainError, ProjectError
from feastrain.settings import Settings
from feastrain.stores.online import TIMESTAMP, OnlineFeatures

if TYPE_CHECKING:
    from pathlib import Path

ASOF = "feastrain.stores.asof.AsofOfflineStore"
STORES: dict[str, dict[str, Any]] = {
    "Feast's": {"type": "sqlite", "path": "data/online_store.db"},
    "ours": {
        "type": "feastrain.stores.fallback.FallbackOnlineStore",
        "fallback": {"type": "sqlite", "path": "data/online.db"},
    },
}
EVERYTHING = "[driver_stats_fv, driver_stats_fresh_fv, transformed_conv_rate]"
COMPUTED = "transformed_conv_rate:conv_rate_of_accepted"
SMALL = "model: {kind: mlp, hidden: [8]}\ntraining: {epochs: 1}\n"


def project_on(root: Path, online_store: dict[str, Any], **replaced: str) -> Project:
    """Return the drivers' project on an online store; every row was known when it happened."""
    write_drivers(root)
    path = root / "feature_repo" / "feature_store.yaml"
    own = {"offline_store": {"type": ASOF}, "online_store": online_store}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | own))
    stats = root / "feature_repo" / "data" / "driver_stats.parquet"
    rows = pd.read_parquet(stats)
    rows["created"] = rows["event_timestamp"]
    # Feast does not apply the field mapping behind a push source when it materialises.
    rows["fresh_rate"] = rows["conv_rate"]
    rows.to_parquet(stats)
    definitions = root / "feature_repo" / "definitions.py"
    text = definitions.read_text()
    changes = {'            field_mapping={"conv_rate": "fresh_rate"},\n': "", **replaced}
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    definitions.write_text(text)
    recipe = root / "recipes" / "drivers.yaml"
    recipe.write_text(recipe.read_text() + SMALL)
    return Project(root, Settings())


def reading(project: Project) -> tuple[OnlineFeatures, Service]:
    """Return what reads the features of the recipe online, and the service they are of."""
    store, recipe = project.features("drivers"), project.recipe("drivers")
    service = resolve_service(store, recipe)
    first = datetime(2026, 1, 1, tzinfo=UTC)
    features = OnlineFeatures(
        store,
        service.columns,
        recipe,
        row_features=service.row_features,
        known_features=service.known_features,
        first_period=first,
    )
    return features, service


@pytest.mark.parametrize("kind", STORES)
def test_it_is_read_as_it_was_joined(tmp_path: Path, kind: str) -> None:
    """Every value is that of the offline join, to the bit; a driver nobody knows has none."""
    project = project_on(tmp_path / "drivers", STORES[kind])
    as_of = project.materialize("drivers")
    features, service = reading(project)
    drivers = pa.table({"driver_id": [1003, 1001, 9999, 1005]})
    online = features.read(drivers)
    spine = drivers.append_column("event_timestamp", pa.array([as_of] * 4, TIMESTAMP))
    offline = retrieve_rows(project.features("drivers"), service, spine)
    names = [reference.split(":")[1] for reference in service.row_features]
    assert "conv_rate_of_accepted" in names
    assert offline.select(names).to_pydict() == online.rows.select(names).to_pydict()
    assert [True, True, False, True] == online.found.tolist()
    last = int(as_of.timestamp() * 1_000_000)
    assert last == online.happened[0]


@pytest.mark.parametrize("kind", STORES)
def test_the_age_of_what_is_computed_is_that_of_its_inputs(tmp_path: Path, kind: str) -> None:
    """A service of nothing but what is computed knows its series and how old their rows are."""
    project = project_on(
        tmp_path / "drivers", STORES[kind], **{EVERYTHING: "[transformed_conv_rate]"}
    )
    recipe = project.root / "recipes" / "drivers.yaml"
    text = recipe.read_text().replace("    driver_hourly_stats: observed\n", "")
    recipe.write_text(text.replace("    driver_hourly_stats_fresh: observed\n", ""))
    stats = project.root / "feature_repo" / "data" / "driver_stats.parquet"
    rows = pd.read_parquet(stats)
    late = rows["event_timestamp"] > rows["event_timestamp"].max() - timedelta(hours=3)
    rows[~(late & (rows["driver_id"] == 1002))].to_parquet(stats)
    as_of = project.materialize("drivers")
    features, service = reading(project)
    assert (COMPUTED,) == service.row_features
    online = features.read(pa.table({"driver_id": [1001, 1002, 9999]}))
    assert ["driver_id", "event_timestamp", "conv_rate_of_accepted"] == online.rows.column_names
    assert [True, True, False] == online.found.tolist()
    ages = int(as_of.timestamp()) - online.happened // 1_000_000
    assert [0, 3 * 3600] == ages[:2].tolist()
    assert np.isfinite(online.rows["conv_rate_of_accepted"].to_numpy()[:2]).all()


def test_a_model_on_it_forecasts(tmp_path: Path) -> None:
    """From the feature service to the file of forecasts, as `init --from` says."""
    project = project_on(tmp_path / "drivers", STORES["ours"])
    project.train("drivers")
    project.materialize("drivers")
    assert 5 * 3 == project.predict("drivers").rows


def test_a_transform_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    """Offline with what was joined, online with what was computed; not for whom nobody knows."""
    fails_on_null = '1 // int(inputs["conv_rate"].notna().all()) * inputs["conv_rate"] *'
    project = project_on(
        tmp_path / "drivers", STORES["ours"], **{'inputs["conv_rate"] *': fails_on_null}
    )
    stats = project.root / "feature_repo" / "data" / "driver_stats.parquet"
    rows = pd.read_parquet(stats)
    rows.loc[rows["driver_id"] == 1002, "conv_rate"] = None
    rows.to_parquet(stats)
    project.materialize("drivers")
    features, service = reading(project)
    spine = pa.table(
        {"driver_id": [9999], "event_timestamp": pa.array([features.as_of()], TIMESTAMP)}
    )
    told = r"AsofOfflineStore\) cannot join .*, transformed_conv_rate: ZeroDivisionError: "
    with pytest.raises(FeastrainError, match=told):
        retrieve_rows(project.features("drivers"), service, spine)
    with pytest.raises(FeastrainError, match=r"^transformed_conv_rate cannot be computed: Zero"):
        features.read(pa.table({"driver_id": [1001, 1002]}))
    for drivers in ([9999, 1001, 9998], [9999]):
        rows = features.read(pa.table({"driver_id": drivers})).rows
        computed = rows["conv_rate_of_accepted"].to_pylist()
        assert [driver == 1001 for driver in drivers] == [value is not None for value in computed]
        assert pa.types.is_floating(rows["conv_rate_of_accepted"].type)


def test_a_view_that_is_kept_offline_is_named(tmp_path: Path) -> None:
    """It can be trained on, and not be served from: its definition has to say otherwise."""
    kept = {'    tags={"team": "driver_performance"},': "    online=False,"}
    project = project_on(tmp_path / "drivers", STORES["ours"], **kept)
    with pytest.raises(
        ProjectError, match=r"^'driver_hourly_stats' is kept offline, .*online=True"
    ):
        project.materialize("drivers")
