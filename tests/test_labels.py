from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feastrain.dataset.labels import read_labels
from feastrain.dataset.spine import make_spine
from feastrain.dataset.split import Split
from feastrain.errors import DataError, ProjectError
from feastrain.recipe import Features, Label, Recipe

START = datetime(2024, 1, 5, 23, 59, 59, tzinfo=UTC)
RECIPE = Recipe(
    name="labels",
    entities=("shop", "item"),
    frequency="1w",
    horizon=2,
    label=Label(source="labels.parquet", column="sold", weight="weight"),
    features=Features(repo="repo", service="service", roles={}),
)


def _rows(*rows: tuple[int, int, int, float]) -> dict[str, list[Any]]:
    """Make label rows of (shop, item, week, sold)."""
    return {
        "shop": [row[0] for row in rows],
        "item": [row[1] for row in rows],
        "event_timestamp": [START + timedelta(weeks=row[2]) for row in rows],
        "sold": [row[3] for row in rows],
        "weight": [1.0 for _ in rows],
    }


def _write(path: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), path / "labels.parquet")
    return path / "labels.parquet"


def test_panel_is_a_grid_of_series_and_periods(tmp_path: Path) -> None:
    """A skipped week is a hole in its series, and every week between first and last is there."""
    source = _write(tmp_path, _rows((1, 11, 0, 5.0), (1, 11, 2, 7.0), (11, 1, 1, -3.0)))
    panel = read_labels(source, RECIPE)
    np.testing.assert_array_equal([[5.0, np.nan, 7.0], [np.nan, -3.0, np.nan]], panel.label_SP)
    assert [{"shop": 1, "item": 11}, {"shop": 11, "item": 1}] == panel.series.to_pylist()
    assert START + timedelta(weeks=2) == panel.last_period


def test_as_of_hides_later_labels(tmp_path: Path) -> None:
    """A label of a period that closes after `as_of` does not exist yet."""
    source = _write(tmp_path, _rows((1, 1, 0, 5.0), (1, 1, 1, 7.0)))
    panel = read_labels(source, RECIPE, START + timedelta(days=6))
    assert [[5.0]] == panel.label_SP.tolist()


def test_spine_keeps_every_series_with_a_label_ahead(tmp_path: Path) -> None:
    """A cut-off has a row when any label of its horizon was observed; holes are null."""
    source = _write(tmp_path, _rows((1, 1, 0, 5.0), (1, 1, 2, 7.0), (2, 1, 3, 9.0)))
    panel = read_labels(source, RECIPE)
    spine = make_spine(panel, Split(range(1), range(1, 2), range(2, 3)), RECIPE.horizon)
    rows = zip(
        spine["shop"].to_pylist(),
        [(moment - START).days // 7 for moment in spine["event_timestamp"].to_pylist()],
        spine["split"].to_pylist(),
        spine["label_1"].to_pylist(),
        spine["label_2"].to_pylist(),
        strict=True,
    )
    expected = [
        (1, 0, "train", None, 7.0),
        (1, 1, "validation", 7.0, None),
        (2, 1, "validation", None, 9.0),
        (2, 2, "test", 9.0, None),
    ]
    assert expected == list(rows)


def _without(name: str) -> dict[str, list[Any]]:
    columns = _rows((1, 1, 0, 5.0), (1, 1, 1, 6.0))
    del columns[name]
    return columns


def _with(name: str, value: Any) -> dict[str, list[Any]]:
    columns = _rows((1, 1, 0, 5.0), (1, 1, 1, 6.0))
    columns[name][1] = value
    return columns


def _all(name: str, value: Any) -> dict[str, list[Any]]:
    return _rows((1, 1, 0, 5.0), (1, 1, 1, 6.0)) | {name: [value, value]}


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (_without("sold"), "has no column 'sold'; it has shop, item"),
        (_without("weight"), "has no column 'weight'"),
        (_rows((1, 1, 0, 5.0), (1, 1, 0, 6.0)), "1 rows repeat a key of shop, item"),
        (_with("shop", None), "1 rows have no shop"),
        (_with("sold", float("nan")), "1 rows have no finite number in 'sold'"),
        (_with("sold", None), "1 rows have no finite number in 'sold'"),
        (_with("weight", -1.0), "'weight' holds a negative weight"),
        (_with("event_timestamp", START + timedelta(days=8)), "not a whole number of periods"),
        (_with("event_timestamp", None), "1 rows have no event_timestamp"),
        (_all("event_timestamp", "soon"), "cannot be read as labels: .*soon"),
        (_all("sold", "many"), "cannot be read as labels: .*many"),
        (_all("shop", 1.0), "the key 'shop' is double; make it whole numbers or text"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, columns: dict[str, list[Any]], told: str) -> None:
    """Each fault of a label source is one line that says how many rows and what to do."""
    with pytest.raises(DataError, match=told) as caught:
        read_labels(_write(tmp_path, columns), RECIPE)
    assert "\n" not in str(caught.value)


def test_as_of_before_all_labels_is_refused(tmp_path: Path) -> None:
    """A source without a label by `as_of` cannot be laid out."""
    source = _write(tmp_path, _rows((1, 1, 0, 5.0)))
    with pytest.raises(DataError, match="holds no label at or before"):
        read_labels(source, RECIPE, START - timedelta(days=1))


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    """A CSV under another name, for one."""
    source = tmp_path / "labels.parquet"
    source.write_text("shop,item,event_timestamp,sold\n1,1,2024-01-05,3\n")
    with pytest.raises(DataError, match=r"labels\.parquet cannot be read as labels: .*bytes"):
        read_labels(source, RECIPE)


def test_missing_source_is_a_project_error(tmp_path: Path) -> None:
    """A label source that is not there is named with the key of the recipe that names it."""
    with pytest.raises(ProjectError, match=r"label\.source"):
        read_labels(tmp_path / "none.parquet", RECIPE)
