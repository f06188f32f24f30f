import json
import re
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from feastrain import Project
from feastrain.cli import main
from feastrain.dataset.checks import TrainingSet
from feastrain.dataset.validate import validate
from feastrain.dataset.verdict import Verdict, require
from feastrain.errors import ExpectationError, RecipeError
from feastrain.expectations import Expectation
from feastrain.recipe import FeatureColumns
from feastrain.report import show_verdicts

START = datetime(2024, 1, 5, tzinfo=UTC)
TIMESTAMP = pa.timestamp("us", tz="UTC")
COLUMNS = FeatureColumns(
    entities=("shop",),
    static=(),
    observed=("size", "kind"),
    stepped=(),
    known_ahead=("holiday",),
    known_keys=(),
    categorical=(),
    label_units=(),
    unit=(),
    horizon=1,
)


def training_set(**columns: Any) -> TrainingSet:
    """Rows of one shop, week after week, with the given columns."""
    length = len(next(iter(columns.values())))
    weeks = pa.array([START + timedelta(weeks=week) for week in range(length)], TIMESTAMP)
    rows = pa.table({"shop": [7] * length, "event_timestamp": weeks} | columns)
    known = pa.table({"event_timestamp": weeks, "step": [1] * length, "holiday": [""] * length})
    now = START + timedelta(weeks=length)
    return TrainingSet(rows, known, COLUMNS, timedelta(weeks=1), now)


SMALL = training_set(size=[1.0, 5.0, None, 90.0], kind=["A", "B", "A", "Z"])


def verdicts_of(subject: TrainingSet, **expectation: object) -> list[Verdict]:
    return validate(subject, (Expectation.model_validate(expectation),))


def found(**expectation: object) -> list[tuple[int, list[Any]]]:
    """Failures and the values of the examples, for every check."""
    return [
        (verdict.failures, [example["value"] for example in verdict.examples])
        for verdict in verdicts_of(SMALL, **expectation)
    ]


def test_range_counts_the_values_outside_it() -> None:
    """A value beyond either bound fails; a null is no value."""
    assert [(1, [1.0]), (1, [90.0])] == found(column="size", minimum=2, maximum=50)


def test_allowed_values_name_the_others() -> None:
    """A value that is not allowed is counted and shown."""
    assert [(1, ["Z"])] == found(column="kind", allowed=["A", "B"])


def test_null_share_counts_the_nulls_when_there_are_too_many() -> None:
    """Nulls up to the share hold; beyond it every null fails."""
    assert [(0, [])] == found(column="size", max_null_fraction=0.25)
    assert [(1, [None])] == found(column="size", max_null_fraction=0.2)


def test_an_example_is_the_row_and_its_value() -> None:
    """An example names the entities, the cut-off and the value, in plain JSON values."""
    (verdict,) = verdicts_of(SMALL, column="size", maximum=50)
    key = {"shop": 7, "event_timestamp": "2024-01-26T00:00:00+00:00"}
    assert [{"key": key, "value": 90.0}] == verdict.to_json()["examples"]


FRESH = "2024-01-26T00:00:00+00:00, oldest allowed 2024-01-26T00:00:00+00:00"


@pytest.mark.parametrize(
    ("expectation", "holds", "told"),
    [
        ({"column": "size", "type": "float"}, True, "double"),
        ({"column": "size", "type": "integer"}, False, "double"),
        ({"column": "kind", "type": "string"}, True, "string"),
        ({"column": "shop", "type": "integer"}, True, "int64"),
        ({"column": "event_timestamp", "type": "timestamp"}, True, "timestamp[us, tz=UTC]"),
        ({"column": "kind", "type": "boolean"}, False, "string"),
        ({"column": "size", "mean": [30, 35]}, True, "32"),
        ({"column": "size", "mean": [None, 31]}, False, "32"),
        ({"column": "size", "quantiles": {0.5: [5, 5]}}, True, "5"),
        ({"column": "size", "quantiles": {0.9: [None, 80]}}, False, "90"),
        ({"rows": [4, None]}, True, "4"),
        ({"rows": [None, 3]}, False, "4"),
        ({"freshness_periods": 1}, True, FRESH),
        ({"column": "holiday", "freshness_periods": 1}, True, FRESH),
    ],
)
def test_a_check_of_the_whole_says_what_it_found(
    expectation: dict[str, Any], *, holds: bool, told: str
) -> None:
    """Type, mean, quantile, row count and age look at one thing, and tell it either way."""
    (verdict,) = verdicts_of(SMALL, **expectation)
    assert (holds, told, 1) == (verdict.holds, verdict.found, verdict.rows)


def test_freshness_of_a_column_is_of_its_newest_value() -> None:
    """A feature that is no longer delivered is stale, however full it was before."""
    subject = training_set(size=[1.0, 2.0, float("nan"), None])
    (fresh,) = verdicts_of(subject, column="size", freshness_periods=3)
    (stale,) = verdicts_of(subject, column="size", freshness_periods=2)
    assert (True, False) == (fresh.holds, stale.holds)
    (empty,) = verdicts_of(training_set(size=[None]), column="size", freshness_periods=9)
    assert (False, "no value") == (empty.holds, empty.found)


def test_a_column_without_a_value_has_no_quantile() -> None:
    """Neither has it a mean: both fail, whatever the bounds are."""
    subject = training_set(size=pa.array([None, float("nan")], pa.float64()))
    told = verdicts_of(subject, column="size", mean=[None, 9], quantiles={0.5: [None, 9]})
    assert [(False, "no value")] * 2 == [(verdict.holds, verdict.found) for verdict in told]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.struct([("part", pa.int64())])])
def test_what_holds_several_values_is_no_key(kind: pa.DataType) -> None:
    """A list or a record of values cannot be told to be unique; one line names the column."""
    subject = training_set(parts=pa.nulls(2, kind))
    with pytest.raises(RecipeError, match=r"column 'parts' is .* and cannot be part of a key"):
        verdicts_of(subject, unique=["shop", "parts"])


def test_rows_that_share_a_key_are_counted() -> None:
    """Every row of a repeated key fails, and an example is the key and how often it is there.

    A key with a null in it is no key.
    """
    subject = training_set(size=[1.0, 1.0, None, None, 3.0, 2.0, 3.0, 3.0])
    (verdict,) = verdicts_of(subject, unique=["shop", "size"])
    told = [
        {"key": {"shop": 7, "size": 1.0}, "value": "2 rows"},
        {"key": {"shop": 7, "size": 3.0}, "value": "3 rows"},
    ]
    assert (5, 8, told) == (verdict.failures, verdict.rows, list(verdict.examples))
    (verdict,) = verdicts_of(subject, unique=["event_timestamp", "step"])
    assert verdict.holds


def test_a_broken_error_stops_and_a_broken_warning_does_not() -> None:
    """Severity decides whether the build stops; the message counts and shows."""
    require(verdicts_of(SMALL, column="size", maximum=50, severity="warn"))
    told = r"'size': <= 50 fails in 1 of 4 rows, e\.g\. shop 7, 2024-01-26T00:00:00\+00:00: 90"
    with pytest.raises(ExpectationError, match=told) as caught:
        require(verdicts_of(SMALL, column="size", maximum=50))
    assert 3 == caught.value.exit_code
    with pytest.raises(ExpectationError, match=r"'size': mean <= 9 does not hold \(found 32\)"):
        require(verdicts_of(SMALL, column="size", mean=[None, 9]))


def test_a_column_of_failures_is_told_at_once() -> None:
    """A column that fails throughout is counted in full, and its examples are capped."""
    length = 400_000
    rows = pa.table({"shop": range(length), "x": [float(value) for value in range(length)]})
    subject = TrainingSet(rows, SMALL.known, COLUMNS, timedelta(weeks=1), START)
    (verdict,) = verdicts_of(subject, column="x", maximum=-1)
    assert (length, 10) == (verdict.failures, len(verdict.examples))
    again = TrainingSet(pa.concat_tables([rows, rows]), rows, COLUMNS, timedelta(weeks=1), START)
    (verdict,) = verdicts_of(again, unique=["shop"])
    assert (2 * length, 10) == (verdict.failures, len(verdict.examples))


@pytest.mark.parametrize(
    ("expectation", "told"),
    [
        ({"column": "sise", "minimum": 0}, "no column 'sise'"),
        ({"unique": ["shop", "dept"]}, "no column 'dept'"),
        ({"unique": ["size", "holiday"]}, "no one table of the training set has size, holiday"),
        ({"column": "kind", "minimum": 0}, "column 'kind' is string, no number"),
        ({"column": "event_timestamp", "mean": [0, 1]}, "is timestamp.* no number"),
    ],
)
def test_what_cannot_be_checked_is_a_recipe_error(expectation: dict[str, Any], told: str) -> None:
    """An expectation on a column that is nowhere, or is no number, is the recipe's fault."""
    with pytest.raises(RecipeError, match=told):
        verdicts_of(SMALL, **expectation)


@pytest.mark.parametrize(
    ("expectation", "told"),
    [
        ({"column": "size"}, "of column 'size' checks nothing"),
        ({"severity": "warn"}, "without a column checks nothing"),
        ({"minimum": 0}, "minimum is about one column: name it as `column`"),
        ({"column": "size", "rows": [1, 2]}, "rows is about the whole table"),
        ({"column": "size", "minimum": 2, "maximum": 1}, r"the bounds \[2, 1\] hold nothing"),
        ({"column": "size", "mean": [2, 1]}, r"the bounds \[2, 1\] hold nothing"),
        ({"rows": [None, None]}, "bounds need a least or a greatest value"),
        ({"column": "size", "allowed": []}, "at least 1 item"),
        ({"column": "size", "quantiles": {1.5: [0, 1]}}, "less than or equal to 1"),
        ({"column": "size", "type": "text"}, "Input should be 'integer'"),
        ({"column": "size", "minimun": 0}, "Extra inputs"),
    ],
)
def test_an_expectation_that_checks_nothing_is_refused(
    expectation: dict[str, Any], told: str
) -> None:
    """No limit, a limit that nothing meets, or one in the wrong place does not pass as a check."""
    with pytest.raises(ValidationError, match=told):
        Expectation.model_validate(expectation)


def test_both_verbs_show_the_table_and_publish_nothing(
    demand: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`validate` and `build` tell every verdict, end in 3 on an error, and publish nothing."""
    root = tmp_path / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    recipe = root / "recipes" / "smoke.yaml"
    broken = "expectations:\n  - {column: dept, maximum: 1}\n  - {rows: [null, 7]}"
    recipe.write_text(recipe.read_text().replace("expectations:", broken, 1))
    snapshots = sorted((root / "artifacts" / "snapshots").iterdir())
    for verb in ("validate", "build"):
        monkeypatch.setattr(sys, "argv", ["feastrain", verb, "smoke", "-C", str(root), "--json"])
        with pytest.raises(SystemExit) as left:
            main()
        assert 3 == left.value.code
        told, said = capsys.readouterr()
        verdicts = json.loads(told)
        if verb == "build":
            verdicts = verdicts["verdicts"]
        assert ["<= 1", "rows <= 7"] == [v["expectation"] for v in verdicts if not v["holds"]]
        assert ["store", "dept", "event_timestamp"] == [*verdicts[0]["examples"][0]["key"]]
        assert "column 'dept': <= 1 fails in" in said
    assert snapshots == sorted((root / "artifacts" / "snapshots").iterdir())


def test_a_verdict_reads_as_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """The table counts what fails and shows the rows, the broken ones first."""
    verdicts = verdicts_of(SMALL, column="size", minimum=0, maximum=50)
    show_verdicts([verdict.to_json() for verdict in verdicts])
    text = capsys.readouterr().out
    assert text.index("<= 50") < text.index(">= 0")
    assert "1 of 4" in text
    assert "size: <= 50" in text
    assert ["7", "2024-01-26T00:00:00+00:00", "90.0"] == re.split(r"[ │]+", text.splitlines()[-2])[
        1:4
    ]
