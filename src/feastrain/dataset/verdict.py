"""What a check of the data found, told alike by every engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from feastrain.errors import ExpectationError
from feastrain.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXAMPLES = 10
"""Most examples that a verdict carries, however many rows fail."""


@dataclass(frozen=True)
class Verdict(Shown):
    """What one check found: `failures` of the `rows` it looked at, and a few of them.

    A check of a whole column or table (its type, its mean, its row count) looks at one thing
    and says in `found` what that is. An example is a row: `{"key": {...}, "value": ...}`.
    """

    column: str
    expectation: str
    severity: str
    failures: int
    rows: int
    examples: tuple[dict[str, Any], ...] = ()
    found: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing fails."""
        return self.failures == 0

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        return {**asdict(self), "holds": self.holds, "examples": list(self.examples)}


def require(verdicts: Sequence[Verdict]) -> None:
    """Stop when an expectation of severity `error` is broken.

    Raises:
        ExpectationError: names the first broken expectation and how many others there are.
    """
    broken = [v for v in verdicts if not v.holds and v.severity == "error"]
    if broken:
        worst = broken[0]
        more = f"; {len(broken) - 1} more expectations are broken" if len(broken) > 1 else ""
        message = (
            f"column {worst.column!r}: {worst.expectation} {_fault(worst)}{more}; "
            "nothing was published: correct the source or the recipe's expectation"
        )
        raise ExpectationError(message)


def _fault(verdict: Verdict) -> str:
    found = f" (found {verdict.found})" if verdict.found else ""
    if verdict.rows == 1:
        return f"does not hold{found}"
    examples = "; ".join(_say(example) for example in verdict.examples[:3])
    shown = f", e.g. {examples}" if examples else ""
    return f"fails in {verdict.failures:,} of {verdict.rows:,} rows{found}{shown}"


def _say(example: Mapping[str, Any]) -> str:
    """Return an example as `store 1, dept 7, 2012-01-06T23:59:59+00:00: 90.0`."""
    key = ", ".join(
        str(value) if name == "event_timestamp" else f"{name} {value}"
        for name, value in example["key"].items()
    )
    value = "null" if example["value"] is None else str(example["value"])
    return f"{key}: {value}" if key else value
