"""The recipe's expectations, checked with pandera, told as one verdict table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandera.pandas as pa_checks

from feastrain.errors import ExpectationError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    import pyarrow as pa

    from feastrain.recipe import Expectation

EXAMPLES = 5


@dataclass(frozen=True)
class Verdict:
    """What one expectation found: how many rows fail it, and a few of their values."""

    column: str
    expectation: str
    severity: str
    failures: int
    rows: int
    examples: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether no row fails."""
        return self.failures == 0

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        return {**asdict(self), "holds": self.holds, "examples": list(self.examples)}


def validate(tables: list[pa.Table], expectations: tuple[Expectation, ...]) -> list[Verdict]:
    """Check every expectation on the first table that has its column.

    Raises:
        RecipeError: an expectation names a column that no table has.
    """
    verdicts = []
    for expectation in expectations:
        table = next((t for t in tables if expectation.column in t.column_names), None)
        if table is None:
            message = f"expectations: no column {expectation.column!r} in the training set"
            raise RecipeError(message)
        series = table[expectation.column].to_pandas()
        for name, values, check in _checks(expectation, series):
            # A Check alone answers row by row; a whole schema builds a report of every failing
            # row, which takes minutes when a column fails throughout.
            failing = values[~check(values).check_output]
            verdicts.append(
                Verdict(
                    column=expectation.column,
                    expectation=name,
                    severity=expectation.severity,
                    failures=len(failing),
                    rows=len(series),
                    examples=tuple(str(value) for value in failing.unique()[:EXAMPLES]),
                )
            )
    return verdicts


def require(verdicts: list[Verdict]) -> None:
    """Stop when an expectation of severity `error` is broken.

    Raises:
        ExpectationError: names the first broken expectation and how many others there are.
    """
    broken = [v for v in verdicts if not v.holds and v.severity == "error"]
    if broken:
        worst = broken[0]
        more = f"; {len(broken) - 1} more expectations are broken" if len(broken) > 1 else ""
        message = (
            f"column {worst.column!r}: {worst.expectation} fails in {worst.failures:,} of "
            f"{worst.rows:,} rows, e.g. {', '.join(worst.examples)}{more}; "
            "nothing was published: correct the source or the recipe's expectation"
        )
        raise ExpectationError(message)


def _checks(
    expectation: Expectation, series: pd.Series[Any]
) -> Iterator[tuple[str, pd.Series[Any], Any]]:
    """Yield each check by name, with the values it looks at: nulls are no value."""
    present = series.dropna()
    if expectation.minimum is not None:
        yield f">= {expectation.minimum:g}", present, pa_checks.Check.ge(expectation.minimum)
    if expectation.maximum is not None:
        yield f"<= {expectation.maximum:g}", present, pa_checks.Check.le(expectation.maximum)
    if expectation.allowed is not None:
        allowed = ", ".join(repr(value) for value in expectation.allowed)
        yield f"in {{{allowed}}}", present, pa_checks.Check.isin(expectation.allowed)
    if expectation.max_null_fraction is not None:
        limit, share = expectation.max_null_fraction, float(series.isna().mean())
        check = pa_checks.Check(lambda values: values.notna() | (share <= limit), ignore_na=False)
        yield f"nulls <= {limit:.1%} (found {share:.1%})", series, check
