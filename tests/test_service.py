"""A feature service as a recipe reads it: the files behind it, and rows joined in order."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drivers_project import write_drivers
from feast_repos import hours, write
from feastrain import Project
from feastrain.artifacts import file_digest
from feastrain.dataset.parts import PartedRows
from feastrain.dataset.retrieve import _in_order
from feastrain.dataset.service import Service, resolve_service
from feastrain.dataset.snapshot import part_name
from feastrain.errors import DataError, ProjectError, RecipeError
from feastrain.settings import Settings
from feastrain.stores.asof.views import plan_joins
from tiny_snapshot import COLUMNS


def service_of(sources: dict[str, Path], elsewhere: dict[str, str]) -> Service:
    """Return a service whose views read these files, or what is none on this machine."""
    return Service(COLUMNS, (), (), (), sources, elsewhere, {})


def test_a_pattern_stands_for_the_files_that_it_fits(tmp_path: Path) -> None:
    """Each has a digest under its own name; a file beside them has none."""
    january, february, other = (
        Path(write(tmp_path / name, {"sold": [number]}))
        for number, name in enumerate(["sold-01.parquet", "sold-02.parquet", "other.parquet"])
    )
    service = service_of({"sales": tmp_path / "sold-*.parquet", "other": other}, {})
    assert {
        "sales": {path.name: file_digest(path) for path in (january, february)},
        "other": {other.name: file_digest(other)},
    } == service.source_digests()


def test_what_lies_elsewhere_cannot_be_fingerprinted(tmp_path: Path) -> None:
    """One line names the view, what it reads, and what to do."""
    sold = Path(write(tmp_path / "sold.parquet", {"sold": [1]}))
    service = service_of({"sales": sold}, {"prices": "PostgreSQLSource 'prices'"})
    told = "view 'prices' reads PostgreSQLSource 'prices': only Parquet files .* export it"
    with pytest.raises(ProjectError, match=told):
        service.source_digests()


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    """A view whose file was taken away after the repo was applied is refused in one line."""
    root = write_drivers(tmp_path / "drivers")
    project = Project(root, Settings())
    store = project.features("drivers")
    gone = root / "feature_repo" / "data" / "driver_stats.parquet"
    shutil.move(gone, tmp_path)
    told = r"reads .*/driver_stats\.parquet, which does not exist; make it first"
    with pytest.raises(ProjectError, match=told):
        resolve_service(store, project.recipe("drivers"))


ASKS = "RequestSource(name='asked', schema=[Field(name='bonus', dtype=Float64)])"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "[driver_stats_fv, driver",
            "[driver_stats_fv.with_name('hourly'), driver",
            "another name",
        ),
        (
            "[driver_stats_fv,",
            "[driver_stats_fv.with_join_key_map({'driver_id': 'rider'}),",
            "'driver_hourly_stats' under another name or with other join keys",
        ),
        (
            "sources=[driver_stats_fv]",
            f"sources=[driver_stats_fv, {ASKS}]",
            r"'transformed_conv_rate' needs data of a request \(asked\), which nobody has",
        ),
    ],
)
def test_what_no_forecast_can_ask_for_is_refused(
    tmp_path: Path, before: str, after: str, told: str
) -> None:
    """A view under another name, and data of a request, in one line of the service."""
    root = write_drivers(tmp_path / "drivers")
    definitions = root / "feature_repo" / "definitions.py"
    text = definitions.read_text().replace("import Entity,", "import Entity, RequestSource,")
    definitions.write_text(text.replace(before, after))
    project = Project(root, Settings())
    with pytest.raises(RecipeError, match=told):
        resolve_service(project.features("drivers"), project.recipe("drivers"))


@pytest.mark.parametrize(
    ("dtype", "told"),
    [
        (
            "Array(Float32)",
            r"'acc_rate' of view 'driver_hourly_stats' is Array\(Float32\), which no",
        ),
        ("UnixTimestamp", r"is UnixTimestamp, which no model can read; give it the role unused"),
    ],
)
def test_what_no_model_reads_is_refused_before_anything_is_joined(
    tmp_path: Path, dtype: str, told: str
) -> None:
    """A list or a time; but not where its role is unused."""
    root = write_drivers(tmp_path / "drivers")
    definitions = root / "feature_repo" / "definitions.py"
    text = definitions.read_text().replace(
        "import Float32,", "import Array, UnixTimestamp, Float32,"
    )
    definitions.write_text(text.replace('"acc_rate", dtype=Float32', f'"acc_rate", dtype={dtype}'))
    definitions.write_text(
        definitions.read_text().replace(
            'inputs["conv_rate"] * inputs["acc_rate"]', 'inputs["conv_rate"]'
        )
    )
    project = Project(root, Settings())
    store = project.features("drivers")
    with pytest.raises(RecipeError, match=told):
        resolve_service(store, project.recipe("drivers"))
    recipe = root / "recipes" / "drivers.yaml"
    recipe.write_text(recipe.read_text().replace("  roles:\n", "  roles:\n    acc_rate: unused\n"))
    service = resolve_service(store, project.recipe("drivers"))
    assert ("driver_hourly_stats:acc_rate",) == service.unused_features


@pytest.mark.parametrize("column", ["created", "event_timestamp", "driver_id"])
def test_a_view_that_answers_nothing_is_refused(tmp_path: Path, column: str) -> None:
    """A table that was loaded after every cut-off, or has other keys, gives no feature a value."""
    root = write_drivers(tmp_path / "drivers")
    path = root / "feature_repo" / "data" / "driver_stats.parquet"
    stats = pd.read_parquet(path)
    stats[column] += 10_000 if column == "driver_id" else pd.Timedelta(days=1_000)
    stats.to_parquet(path)
    told = r"view 'driver_hourly_stats' answers nothing: .* null in all 1,195 rows; its keys are"
    with pytest.raises(DataError, match=told):
        Project(root, Settings()).build("drivers")
    assert not list((root / "artifacts" / "snapshots").glob("*"))


def test_a_registry_that_is_damaged_is_named(tmp_path: Path) -> None:
    """It is a file of Feast's, which can be made anew."""
    project = Project(write_drivers(tmp_path / "drivers"), Settings())
    project.features("drivers")
    registry = project.root / "feature_repo" / "data" / "registry.db"
    registry.write_bytes(b"\1\2 nonsense")
    told = f"the registry {registry} is damaged: .*; remove it, and it is made anew"
    with pytest.raises(ProjectError, match=told):
        project.features("drivers")
    registry.unlink()
    assert ["driver_activity"] == [
        service.name for service in project.features("drivers").list_feature_services()
    ]


def test_a_view_whose_source_lacks_its_key_is_refused(tmp_path: Path) -> None:
    """Feast registers it as one without an entity, and would answer one row for every driver."""
    root = write_drivers(tmp_path / "drivers")
    path = root / "feature_repo" / "data" / "driver_stats.parquet"
    pd.read_parquet(path).drop(columns="driver_id").to_parquet(path)
    project = Project(root, Settings())
    store = project.features("drivers")
    told = "'driver_hourly_stats' is of 'driver', and its source had none of their join keys"
    with pytest.raises(DataError, match=told):
        resolve_service(store, project.recipe("drivers"))
    view = store.get_feature_view("driver_hourly_stats")
    with pytest.raises(DataError, match=told):
        plan_joins([view], ["driver_hourly_stats:acc_rate"], full_names=False)


def test_columns_with_a_value_are_told_by_the_files(tmp_path: Path) -> None:
    """Of a dotted name and of a list too; one that is null in every part is not among them."""
    for part in (0, 1):
        nulls = pa.nulls(2, pa.float64())
        table = {"a.b": [1.0, None] if part else nulls, "c": nulls, "d": [[1], None]}
        pq.write_table(pa.table(table), tmp_path / f"{part_name(part)}.parquet")
    assert {"a.b", "d"} == PartedRows(tmp_path).filled() & {"a.b", "c", "d"}


WANTED = pa.table({"shop": [2, 1, 2], "event_timestamp": hours(1, 0, 0)})


def test_an_answer_is_put_in_the_order_that_was_asked_for() -> None:
    """Whatever the order in which an offline store returns its rows."""
    answer = WANTED.append_column("sold", pa.array([21, 10, 20]))
    assert [21, 10, 20] == _in_order(answer.take(pa.array([2, 0, 1])), WANTED)["sold"].to_pylist()


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 2, 2], [0, 1, 1]])
def test_an_answer_of_other_rows_is_refused(rows: list[int]) -> None:
    """A row that is lost, added or taken for another is an error, not a feature."""
    answer = WANTED.append_column("sold", pa.array([21, 10, 20])).take(pa.array(rows))
    told = f"answered {len(rows)} rows that are not the 3 entity rows it was asked for; use"
    with pytest.raises(DataError, match=told):
        _in_order(answer, WANTED)
