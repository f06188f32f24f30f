"""A recipe's expectations taken apart into checks of one limit each, which every engine reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc

from feastrain.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from feastrain.dataset.parts import PartedRows
    from feastrain.dataset.snapshot import Snapshot
    from feastrain.expectations import Expectation
    from feastrain.recipe import FeatureColumns, Recipe

Kind = Literal[
    "type", "range", "allowed", "nulls", "mean", "quantile", "unique", "rows", "freshness"
]
TableName = Literal["rows", "known"]


@dataclass(frozen=True)
class TrainingSet:
    """The tables of a training set, what keys their rows, and what their age is counted from."""

    rows: pa.Table | PartedRows
    known: pa.Table
    columns: FeatureColumns
    frequency: timedelta
    now: datetime
    """The moment everything is known up to: `as_of`, or the newest label's."""

    @classmethod
    def of_snapshot(cls, snapshot: Snapshot, recipe: Recipe, as_of: datetime | None) -> Self:
        """Return the training set that a snapshot holds."""
        now = as_of or pc.max(snapshot.labels()["event_timestamp"]).as_py()
        return cls(snapshot.rows(), snapshot.known(), snapshot.columns, recipe.frequency, now)

    def table(self, name: TableName) -> pa.Table:
        """Return one of the two tables."""
        return self.rows if name == "rows" else self.known

    def keys(self, name: TableName) -> list[str]:
        """Return the columns that key the rows of one of the two tables, as far as it has them."""
        keys = {
            "rows": (*self.columns.entities, "event_timestamp"),
            "known": (*self.columns.known_keys, "event_timestamp", "step"),
        }
        return [key for key in keys[name] if key in self.table(name).column_names]


@dataclass(frozen=True)
class Check:
    """One limit on one column or table.

    `low` and `high` are what is least and most allowed (of a value, a count, a mean, a
    share of nulls, a moment); `value` is the type, the allowed values or the quantile.
    """

    kind: Kind
    table: TableName
    columns: tuple[str, ...]
    expects: str
    severity: str
    low: Any = None
    high: Any = None
    value: Any = None

    @property
    def column(self) -> str:
        """The column, the columns of a key, or what of the table is looked at."""
        return ", ".join(self.columns) or "(rows)"


def list_checks(subject: TrainingSet, expectations: Sequence[Expectation]) -> list[Check]:
    """Return every check, in the order of the recipe.

    Raises:
        RecipeError: an expectation names a column that neither table has, asks for the
            range or the distribution of what is no number, or for a key of lists.
    """
    return [
        check
        for expectation in expectations
        for check in (
            *_of_values(subject, expectation),
            *_of_distribution(subject, expectation),
            *_of_table(subject, expectation),
        )
    ]


def _of_values(subject: TrainingSet, asked: Expectation) -> Iterator[Check]:
    if asked.column is None:
        return
    column, severity = (asked.column,), asked.severity
    table = _table_with(subject, column)
    if asked.type is not None:
        yield Check("type", table, column, f"type {asked.type}", severity, value=asked.type)
    if (asked.minimum, asked.maximum) != (None, None):
        _require_number(subject, table, asked.column)
    if asked.minimum is not None:
        said = f">= {_number(asked.minimum)}"
        yield Check("range", table, column, said, severity, low=asked.minimum)
    if asked.maximum is not None:
        said = f"<= {_number(asked.maximum)}"
        yield Check("range", table, column, said, severity, high=asked.maximum)
    if asked.allowed is not None:
        said = f"in {{{', '.join(repr(value) for value in asked.allowed)}}}"
        yield Check("allowed", table, column, said, severity, value=asked.allowed)
    if asked.max_null_fraction is not None:
        limit = asked.max_null_fraction
        yield Check("nulls", table, column, f"nulls <= {limit:.1%}", severity, high=limit)


def _of_distribution(subject: TrainingSet, asked: Expectation) -> Iterator[Check]:
    if asked.column is None or (asked.mean, asked.quantiles) == (None, None):
        return
    column, severity = (asked.column,), asked.severity
    table = _table_with(subject, column)
    _require_number(subject, table, asked.column)
    if asked.mean is not None:
        low, high = asked.mean
        yield Check("mean", table, column, _within("mean", low, high), severity, low, high)
    for share, (low, high) in sorted((asked.quantiles or {}).items()):
        said = _within(f"{share:.4g} quantile", low, high)
        yield Check("quantile", table, column, said, severity, low, high, share)


def _of_table(subject: TrainingSet, asked: Expectation) -> Iterator[Check]:
    if asked.unique is not None:
        table = _table_with(subject, asked.unique)
        _require_keys(subject, table, asked.unique)
        yield Check("unique", table, asked.unique, "unique", asked.severity)
    if asked.rows is not None:
        low, high = asked.rows
        yield Check("rows", "rows", (), _within("rows", low, high), asked.severity, low, high)
    if asked.freshness_periods is not None:
        column = () if asked.column is None else (asked.column,)
        table = _table_with(subject, (*column, "event_timestamp"))
        oldest = subject.now - asked.freshness_periods * subject.frequency
        said = f"newest within {asked.freshness_periods} periods"
        columns = column or ("event_timestamp",)
        yield Check("freshness", table, columns, said, asked.severity, oldest)


def _table_with(subject: TrainingSet, columns: tuple[str, ...]) -> TableName:
    names: tuple[TableName, TableName] = ("rows", "known")
    for name in names:
        if set(columns) <= set(subject.table(name).column_names):
            return name
    missing = [
        column
        for column in columns
        if column not in {*subject.rows.column_names, *subject.known.column_names}
    ]
    if not missing:
        message = f"expectations: no one table of the training set has {', '.join(columns)}"
        raise RecipeError(message)
    message = f"expectations: no column {missing[0]!r} in the training set"
    raise RecipeError(message)


def _require_number(subject: TrainingSet, table: TableName, column: str) -> None:
    kind = subject.table(table).schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        message = (
            f"expectations: column {column!r} is {kind}, no number: it has no range, mean or "
            "quantile; use allowed or max_null_fraction"
        )
        raise RecipeError(message)


def _require_keys(subject: TrainingSet, table: TableName, columns: tuple[str, ...]) -> None:
    for column in columns:
        kind = subject.table(table).schema.field(column).type
        if pa.types.is_nested(kind):
            message = (
                f"expectations: column {column!r} is {kind}, which holds several values and "
                "cannot be part of a key; leave it out of unique"
            )
            raise RecipeError(message)


def _within(what: str, low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{what} in [{_number(low)}, {_number(high)}]"
    return f"{what} >= {_number(low)}" if high is None else f"{what} <= {_number(high)}"


def _number(value: float | None) -> str:
    return f"{value:,.10g}"
