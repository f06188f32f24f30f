"""The recipe's expectations as Great Expectations suites: exported, or run with its engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import great_expectations as gx
import pandas as pd
import pyarrow as pa
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.row_conditions import Column

from feastrain.artifacts import write_json
from feastrain.dataset.checks import Check, TableName, TrainingSet, list_checks
from feastrain.dataset.validate import example_rows
from feastrain.dataset.verdict import EXAMPLES, Verdict
from feastrain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from feastrain.expectations import Expectation


def write_suites(
    subject: TrainingSet, expectations: Sequence[Expectation], directory: Path, name: str
) -> list[Path]:
    """Write one suite for each table that is checked: `NAME-rows.json` and `NAME-known.json`.

    Raises:
        RecipeError: an expectation does not fit the training set.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for table, groups in _grouped(list_checks(subject, expectations)).items():
        path = directory / f"{name}-{table}.json"
        write_json(path, _suite(f"{name}-{table}", groups).to_json_dict())
        written.append(path)
    return written


def validate_with_gx(subject: TrainingSet, expectations: Sequence[Expectation]) -> list[Verdict]:
    """Check every expectation with Great Expectations, in memory, telling nobody.

    Raises:
        DataError: Great Expectations fails on an expectation.
        RecipeError: an expectation does not fit the training set.
    """
    checks = list_checks(subject, expectations)
    verdicts: dict[int, Verdict] = {}
    for table, groups in _grouped(checks).items():
        for result in _run(_suite("recipe", groups), subject.table(table)):
            for place, number in enumerate(result.expectation_config.meta["numbers"]):
                verdicts[number] = _verdict(checks[number], result, place, subject)
    return [verdicts[number] for number in range(len(checks))]


Group = dict[int, Check]
"""The checks that one expectation makes, by their number in the recipe."""


def _grouped(checks: list[Check]) -> dict[TableName, list[Group]]:
    """Return the checks by table, all quantiles of one column together.

    Great Expectations answers a second expectation on the quantiles of a column with those
    of the first.
    """
    groups: dict[TableName, dict[object, Group]] = {}
    for number, check in enumerate(checks):
        key = check.columns if check.kind == "quantile" else number
        groups.setdefault(check.table, {}).setdefault(key, {})[number] = check
    return {table: list(of_table.values()) for table, of_table in groups.items()}


def _run(suite: Any, table: pa.Table) -> list[Any]:
    """Return what Great Expectations answers, in an order of its own."""
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )
    asset = context.data_sources.add_pandas("training_set").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch(
        {"dataframe": _frame(table)}
    )
    summary = {"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES}
    return list(batch.validate(suite, result_format=summary).results)


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return a table with integers that may be null, and UTC without saying so."""
    nullable = {
        pa.int64(): pd.Int64Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get)
    for field in table.schema:
        if pa.types.is_timestamp(field.type) and field.type.tz is not None:
            frame[field.name] = frame[field.name].dt.tz_convert(None)
    return frame


def _suite(name: str, groups: list[Group]) -> Any:
    expectations = []
    for group in groups:
        checks = list(group.values())
        kind, arguments = _EXPECTATIONS[checks[0].kind](checks)
        error = any(check.severity == "error" for check in checks)
        told = "; ".join(f"{check.column}: {check.expects}" for check in checks)
        expectations.append(
            {
                "type": kind,
                "kwargs": arguments,
                "severity": "critical" if error else "warning",
                "meta": {"numbers": list(group), "feastrain": told},
            }
        )
    return gx.ExpectationSuite(name=name, expectations=expectations)


_TYPES = {
    "integer": [
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *("Int32Dtype", "Int64Dtype"),
    ],
    "float": ["float16", "float32", "float64"],
    "string": ["str", "StringDtype"],
    "boolean": ["bool", "BooleanDtype"],
    "timestamp": [f"datetime64[{unit}]" for unit in ("s", "ms", "us", "ns")],
}


def _type(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    (check,) = checks
    arguments = {"column": check.columns[0], "type_list": _TYPES[check.value]}
    return "expect_column_values_to_be_in_type_list", arguments


def _range(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    (check,) = checks
    arguments = {"column": check.columns[0], "min_value": check.low, "max_value": check.high}
    return "expect_column_values_to_be_between", arguments


def _allowed(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    (check,) = checks
    arguments = {"column": check.columns[0], "value_set": list(check.value)}
    return "expect_column_values_to_be_in_set", arguments


def _nulls(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    (check,) = checks
    arguments = {"column": check.columns[0], "mostly": 1 - check.high}
    return "expect_column_values_to_not_be_null", arguments


def _mean(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    (check,) = checks
    arguments = {"column": check.columns[0], "min_value": check.low, "max_value": check.high}
    return "expect_column_mean_to_be_between", arguments


def _quantile(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    ranges = {
        "quantiles": [check.value for check in checks],
        "value_ranges": [[check.low, check.high] for check in checks],
    }
    arguments = {"column": checks[0].columns[0], "quantile_ranges": ranges}
    return "expect_column_quantile_values_to_be_between", arguments


def _unique(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    (check,) = checks
    if len(check.columns) == 1:  # the expectation of several columns refuses one
        return "expect_column_values_to_be_unique", {"column": check.columns[0]}
    arguments = {"column_list": list(check.columns), "ignore_row_if": "any_value_is_missing"}
    return "expect_compound_columns_to_be_unique", arguments


def _rows(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    (check,) = checks
    arguments = {"min_value": check.low, "max_value": check.high}
    return "expect_table_row_count_to_be_between", arguments


def _freshness(checks: list[Check]) -> tuple[str, dict[str, Any]]:
    (check,) = checks
    column, oldest = check.columns[0], check.low.replace(tzinfo=None).isoformat()
    arguments: dict[str, Any] = {"column": "event_timestamp", "min_value": oldest}
    if column != "event_timestamp":
        arguments["row_condition"] = Column(column).is_not_null()
    return "expect_column_max_to_be_between", arguments


_EXPECTATIONS: dict[str, Callable[[list[Check]], tuple[str, dict[str, Any]]]] = {
    "type": _type,
    "range": _range,
    "allowed": _allowed,
    "nulls": _nulls,
    "mean": _mean,
    "quantile": _quantile,
    "unique": _unique,
    "rows": _rows,
    "freshness": _freshness,
}


def _verdict(check: Check, result: Any, place: int, subject: TrainingSet) -> Verdict:
    """Return the verdict of one check, the one at `place` among those of its expectation."""
    if result.exception_info.get("raised_exception", True) is not False:
        message = (
            f"Great Expectations cannot check {check.column!r} ({check.expects}): "
            f"{' '.join(str(result.exception_info).split())}"
        )
        raise DataError(message)
    table, answer = subject.table(check.table), result.result
    if check.kind not in {"range", "allowed", "nulls", "unique"}:
        holds, found = result.success, answer.get("observed_value")
        if check.kind == "quantile":
            holds, found = answer["details"]["success_details"][place], found["values"][place]
        failures = 0 if holds else 1
        return Verdict(check.column, check.expects, check.severity, failures, 1, found=str(found))
    failures = 0 if result.success else int(answer["unexpected_count"])
    examples: tuple[Any, ...] = ()
    if failures and check.kind != "unique":
        at = answer.get("partial_unexpected_index_list") or []
        examples = example_rows(table, subject.keys(check.table), check.columns[0], at)
    return Verdict(check.column, check.expects, check.severity, failures, len(table), examples)
