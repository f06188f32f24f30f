"""What a recipe says its training set must look like: expectations, and how far it may drift."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from feastrain.section import Count, Fraction, Section

ColumnType = Literal["integer", "float", "string", "boolean", "timestamp"]
Severity = Literal["error", "warn"]


def _ordered(bounds: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = bounds
    if low is None and high is None:
        message = "bounds need a least or a greatest value: [0, 10], [0, null] or [null, 10]"
        raise ValueError(message)
    if low is not None and high is not None and low > high:
        message = f"the bounds [{low:g}, {high:g}] hold nothing: the least value comes first"
        raise ValueError(message)
    return bounds


Bounds = Annotated[tuple[float | None, float | None], AfterValidator(_ordered)]
"""A least and a greatest value, both allowed; `null` leaves that side open."""

_OF_A_COLUMN = ("type", "minimum", "maximum", "allowed", "max_null_fraction", "mean", "quantiles")
_OF_A_TABLE = ("unique", "rows")


class Expectation(Section):
    """What one column of the training set must look like, or the whole of it.

    With a `column`: its `type`, its values (`minimum`, `maximum`, `allowed`), the share of
    nulls, and its distribution (`mean`, `quantiles: {0.5: [lo, hi]}`) over what is not null.
    Without one: the columns that are together `unique` (where none is null), the count of `rows`.
    `freshness_periods` is either: the newest row, or the newest row in which the column has a
    value, is at most so many periods older than `as_of`, or without one than the newest label.
    """

    column: str | None = None
    type: ColumnType | None = None
    minimum: float | None = None
    maximum: float | None = None
    allowed: Annotated[tuple[str | int | float | bool, ...], Field(min_length=1)] | None = None
    max_null_fraction: Fraction | None = None
    mean: Bounds | None = None
    quantiles: Annotated[dict[Fraction, Bounds], Field(min_length=1)] | None = None
    unique: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    rows: Bounds | None = None
    freshness_periods: Count | None = None
    severity: Severity = "error"

    @model_validator(mode="after")
    def _checks_something(self) -> Self:
        given = {name for name, value in self if value is not None} - {"column", "severity"}
        alone = given & set(_OF_A_TABLE if self.column else _OF_A_COLUMN)
        if not given:
            what = f"of column {self.column!r}" if self.column else "without a column"
            message = f"the expectation {what} checks nothing: give it a limit or remove it"
            raise ValueError(message)
        if alone and self.column:
            message = f"{min(alone)} is about the whole table: write it without a column"
            raise ValueError(message)
        if alone:
            message = f"{min(alone)} is about one column: name it as `column`"
            raise ValueError(message)
        if self.minimum is not None and self.maximum is not None:
            _ordered((self.minimum, self.maximum))
        return self


class DriftLimits(Section):
    """How far a new training set may be from the last one of its recipe.

    Population stability index, Kolmogorov-Smirnov distance and change of the share of
    missing values, each of any feature; see `feastrain.dataset.drift` for what they measure.
    """

    max_psi: Annotated[float, Field(gt=0)] | None = None
    max_ks: Fraction | None = None
    max_missing_change: Fraction | None = None
    severity: Severity = "error"

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if (self.max_psi, self.max_ks, self.max_missing_change) == (None, None, None):
            message = "drift limits nothing: give max_psi, max_ks or max_missing_change"
            raise ValueError(message)
        return self
