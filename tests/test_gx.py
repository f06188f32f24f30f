"""Great Expectations takes seconds to import, so that everything about it is here."""

import json
from pathlib import Path
from typing import Any

import great_expectations as gx
import pyarrow as pa
import pytest

from feastrain import Project
from feastrain.cli import app
from feastrain.dataset.gx_suite import validate_with_gx, write_suites
from feastrain.dataset.validate import validate
from feastrain.dataset.verdict import Verdict
from feastrain.errors import DataError
from feastrain.expectations import Expectation
from test_validate import training_set

GOOD = training_set(
    size=[1.0, 5.0, None, 8.0, 3.0],
    kind=["A", "B", "A", None, "B"],
    stock=pa.array([1, None, 3, 4, 5], pa.int64()),
    is_open=[True, None, True, False, True],
)
BAD = training_set(
    size=[-4.0, None, None, 900.0, None],
    kind=["A", "Z", "", None, "Z"],
    stock=pa.array([9, 9, 9, None, -1], pa.int64()),
    is_open=[None, None, None, None, None],
)
EXPECTATIONS = tuple(
    Expectation.model_validate(content)
    for content in (
        {"column": "size", "type": "float", "minimum": 0, "maximum": 10, "max_null_fraction": 0.4},
        {"column": "size", "mean": [1, 5], "quantiles": {0.5: [1, 5], 1.0: [None, 10]}},
        {"column": "kind", "type": "string", "allowed": ["A", "B"], "max_null_fraction": 0.2},
        {"column": "kind", "type": "integer", "allowed": ["A", "Z"], "severity": "warn"},
        {"column": "size", "quantiles": {0.0: [-5, 0]}, "severity": "warn"},
        {"column": "stock", "type": "integer", "minimum": 0, "maximum": 5, "freshness_periods": 1},
        {"column": "stock", "type": "float"},
        {"column": "is_open", "max_null_fraction": 0.5, "freshness_periods": 1},
        {"column": "event_timestamp", "type": "timestamp"},
        {"column": "holiday", "allowed": [""]},
        {"unique": ["shop", "event_timestamp"]},
        {"unique": ["shop", "stock"]},
        {"unique": ["stock"]},
        {"unique": ["event_timestamp", "step"]},
        {"rows": [5, 5]},
        {"rows": [6, None]},
        {"freshness_periods": 1},
        {"rows": [5, 5]},
    )
)


def _outcome(verdicts: list[Verdict]) -> list[tuple[Any, ...]]:
    return [(v.column, v.expectation, v.severity, v.failures, v.rows, v.holds) for v in verdicts]


@pytest.mark.parametrize("subject", [GOOD, BAD], ids=["good", "bad"])
def test_both_engines_give_the_same_verdicts(subject: Any) -> None:
    """Every check has the same outcome and the same counts with pandera as with GX."""
    ours, theirs = validate(subject, EXPECTATIONS), validate_with_gx(subject, EXPECTATIONS)
    assert _outcome(ours) == _outcome(theirs)
    of_rows = [number for number, v in enumerate(ours) if v.rows > 1 and v.expectation != "unique"]
    assert [ours[n].examples for n in of_rows] == [theirs[n].examples for n in of_rows]


def test_good_and_bad_data_differ() -> None:
    """The data of the comparison holds and breaks enough for the comparison to mean something."""
    good = [verdict.holds for verdict in validate(GOOD, EXPECTATIONS)]
    bad = [verdict.holds for verdict in validate(BAD, EXPECTATIONS)]
    assert [(25, 5), (13, 17)] == [(sum(holds), len(holds) - sum(holds)) for holds in (good, bad)]


def test_what_great_expectations_cannot_check_is_one_line() -> None:
    """A quantile of whole numbers that are all null, which we say has no value."""
    subject = training_set(stock=pa.array([None, None], pa.int32()))
    asked = (Expectation.model_validate({"column": "stock", "quantiles": {0.5: [0, 1]}}),)
    assert ["no value"] == [verdict.found for verdict in validate(subject, asked)]
    told = r"Great Expectations cannot check 'stock' \(0\.5 quantile in \[0, 1\]\): "
    with pytest.raises(DataError, match=told) as caught:
        validate_with_gx(subject, asked)
    assert "\n" not in str(caught.value)


def test_an_exported_suite_is_one_of_great_expectations(tmp_path: Path) -> None:
    """Each table has a suite that Great Expectations reads back and runs to the same end."""
    written = write_suites(GOOD, EXPECTATIONS, tmp_path / "gx", "shops")
    assert ["shops-rows.json", "shops-known.json"] == [path.name for path in written]
    suites = [gx.ExpectationSuite(**json.loads(path.read_text())) for path in written]
    assert [26, 2] == [len(suite.expectations) for suite in suites]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.enable_analytics(enable=False)
    context.suites.add(suites[0])
    batch = (
        context.data_sources.add_pandas("source")
        .add_dataframe_asset("asset")
        .add_batch_definition_whole_dataframe("whole")
        .get_batch({"dataframe": BAD.rows.to_pandas()})
    )
    told = {
        result.expectation_config.meta["feastrain"]: result.success
        for result in batch.validate(suites[0]).results
    }
    assert (False, True) == (told["size: >= 0"], told["shop, event_timestamp: unique"])


def test_a_project_has_the_same_verdicts_with_either(
    demand: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference application's recipe, checked by both; the suites are written where asked."""
    ours, theirs = demand.validate("smoke"), demand.validate("smoke", engine="gx")
    assert _outcome(ours) == _outcome(theirs)
    app(
        ["validate", "smoke", "-C", str(demand.root), "--export-gx", str(tmp_path / "suites")],
        standalone_mode=False,
    )
    assert "smoke-rows.json" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "suites").iterdir())
    assert ["smoke-known.json", "smoke-rows.json"] == names
