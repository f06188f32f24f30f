"""The recipe's expectations, checked with pandera and Arrow, told as one verdict table."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandera.pandas as pa_checks
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.dataset.checks import Check, TrainingSet, list_checks
from feastrain.dataset.verdict import EXAMPLES, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from feastrain.expectations import Expectation


def validate(subject: TrainingSet, expectations: Sequence[Expectation]) -> list[Verdict]:
    """Check every expectation, each on the table that has its columns.

    Raises:
        RecipeError: an expectation names a column that no table has, or asks for numbers of
            what is none.
    """
    return [_run(check, subject) for check in list_checks(subject, expectations)]


def example_rows(table: pa.Table, keys: list[str], column: str, at: Any) -> tuple[Any, ...]:
    """Return the rows at the first few positions `at` as examples of the column's values."""
    chosen = list(dict.fromkeys([*keys, column]))
    rows = table.select(chosen).take(pa.array(at[:EXAMPLES], pa.int64()))
    values = rows[column].to_pylist()
    return tuple(
        {"key": {name: _plain(part) for name, part in key.items()}, "value": _plain(value)}
        for key, value in zip(rows.select(keys).to_pylist(), values, strict=True)
    )


def _run(check: Check, subject: TrainingSet) -> Verdict:
    table = subject.table(check.table)
    if check.kind in _ROW_CHECKS:
        return _of_rows(check, table, subject.keys(check.table))
    if check.kind == "unique":
        return _unique(check, table)
    holds, found = _WHOLE_CHECKS[check.kind](check, table)
    failures = 0 if holds else 1
    return Verdict(check.column, check.expects, check.severity, failures, 1, found=found)


def _of_rows(check: Check, table: pa.Table, keys: list[str]) -> Verdict:
    series = table[check.columns[0]].to_pandas()
    values, rule, found = _ROW_CHECKS[check.kind](check, series)
    # A Check alone answers row by row; a whole schema builds a report of every failing row,
    # which takes minutes when a column fails throughout.
    failing = values.index[~rule(values).check_output].to_numpy()
    return Verdict(
        check.column,
        check.expects,
        check.severity,
        len(failing),
        len(series),
        example_rows(table, keys, check.columns[0], failing),
        found,
    )


def _range(check: Check, series: pd.Series[Any]) -> tuple[pd.Series[Any], Any, str]:
    least = check.high is None
    rule = pa_checks.Check.ge(check.low) if least else pa_checks.Check.le(check.high)
    return series.dropna(), rule, ""


def _allowed(check: Check, series: pd.Series[Any]) -> tuple[pd.Series[Any], Any, str]:
    return series.dropna(), pa_checks.Check.isin(check.value), ""


def _nulls(check: Check, series: pd.Series[Any]) -> tuple[pd.Series[Any], Any, str]:
    share = float(series.isna().mean()) if len(series) else 0.0
    rule = pa_checks.Check(lambda values: values.notna() | (share <= check.high), ignore_na=False)
    return series, rule, f"{share:.1%}"


def _unique(check: Check, table: pa.Table) -> Verdict:
    """Count the rows that share their key with another; a key with a null in it is no key.

    Grouped by Arrow: pandera's own report takes minutes.
    """
    columns = list(check.columns)
    keyed = table.select(columns).drop_null()
    groups = keyed.group_by(columns).aggregate([([], "count_all")])
    repeated = groups.filter(pc.greater(groups["count_all"], 1))
    repeated = repeated.sort_by([(name, "ascending") for name in columns])
    failures = int(pc.sum(repeated["count_all"]).as_py() or 0)
    examples = tuple(
        {
            "key": {name: _plain(row[name]) for name in columns},
            "value": f"{row['count_all']} rows",
        }
        for row in repeated.slice(0, EXAMPLES).to_pylist()
    )
    return Verdict(check.column, check.expects, check.severity, failures, len(table), examples)


_TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    "integer": pa.types.is_integer,
    "float": pa.types.is_floating,
    "string": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "boolean": pa.types.is_boolean,
    "timestamp": pa.types.is_timestamp,
}


def _type(check: Check, table: pa.Table) -> tuple[bool, str]:
    kind = table.schema.field(check.columns[0]).type
    return _TYPES[check.value](kind), str(kind)


def _rows(check: Check, table: pa.Table) -> tuple[bool, str]:
    return _inside(check, len(table)), f"{len(table):,}"


def _mean(check: Check, table: pa.Table) -> tuple[bool, str]:
    values = _present(check, table)
    mean = float(values.mean()) if len(values) else math.nan
    return _inside(check, mean), f"{mean:,.6g}" if len(values) else "no value"


def _quantile(check: Check, table: pa.Table) -> tuple[bool, str]:
    values = _present(check, table)
    if not len(values):
        return False, "no value"
    value = float(np.quantile(values, check.value, method="nearest"))
    return _inside(check, value), f"{value:,.6g}"


def _freshness(check: Check, table: pa.Table) -> tuple[bool, str]:
    read = table.select(list(dict.fromkeys([check.columns[0], "event_timestamp"])))
    valued = read.filter(pc.invert(pc.is_null(read[check.columns[0]], nan_is_null=True)))
    newest = pc.max(valued["event_timestamp"]).as_py()
    if newest is None:
        return False, "no value"
    return newest >= check.low, f"{newest.isoformat()}, oldest allowed {check.low.isoformat()}"


def _present(check: Check, table: pa.Table) -> NDArray[Any]:
    values = table[check.columns[0]].to_pandas().dropna().to_numpy()
    return np.asarray(values)


def _inside(check: Check, value: float) -> bool:
    """Tell whether a number lies within the bounds; NaN does not."""
    above = check.low is None or value >= check.low
    return above and (check.high is None or value <= check.high)


_ROW_CHECKS = {"range": _range, "allowed": _allowed, "nulls": _nulls}
_WHOLE_CHECKS = {
    "type": _type,
    "rows": _rows,
    "mean": _mean,
    "quantile": _quantile,
    "freshness": _freshness,
}


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it: no NaN, no time, no decimal."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
