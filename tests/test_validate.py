import pyarrow as pa
import pytest

from feastrain.dataset.validate import require, validate
from feastrain.errors import ExpectationError, RecipeError
from feastrain.recipe import Expectation

TABLE = pa.table({"size": [1.0, 5.0, None, 90.0], "kind": ["A", "B", "A", "Z"]})


def _failures(**expectation: object) -> list[tuple[int, tuple[str, ...]]]:
    asked = (Expectation.model_validate(expectation),)
    return [(v.failures, v.examples) for v in validate([TABLE], asked)]


def test_range_counts_the_values_outside_it() -> None:
    """A value beyond either bound fails; a null is no value."""
    assert [(1, ("1.0",)), (1, ("90.0",))] == _failures(column="size", minimum=2, maximum=50)


def test_allowed_values_name_the_others() -> None:
    """A value that is not allowed is counted and shown."""
    assert [(1, ("Z",))] == _failures(column="kind", allowed=["A", "B"])


def test_null_share_counts_the_nulls_when_there_are_too_many() -> None:
    """Nulls up to the share hold; beyond it every null fails."""
    assert [(0, ())] == _failures(column="size", max_null_fraction=0.25)
    assert [1] == [count for count, _ in _failures(column="size", max_null_fraction=0.2)]


def test_a_broken_error_stops_and_a_broken_warning_does_not() -> None:
    """Severity decides whether the build stops; the message counts and shows."""
    warned = Expectation(column="size", maximum=50, severity="warn")
    require(validate([TABLE], (warned,)))
    broken = Expectation(column="size", maximum=50)
    with pytest.raises(ExpectationError, match=r"'size': <= 50 fails in 1 of 4 rows, e\.g\. 90"):
        require(validate([TABLE], (broken,)))


def test_a_column_of_failures_is_told_at_once() -> None:
    """A column that fails throughout has its examples capped."""
    table = pa.table({"x": [float(value) for value in range(400_000)]})
    (verdict,) = validate([table], (Expectation(column="x", maximum=-1),))
    assert (400_000, 5) == (verdict.failures, len(verdict.examples))


def test_unknown_column_is_a_recipe_error() -> None:
    """An expectation on a column that is nowhere is the recipe's fault."""
    with pytest.raises(RecipeError, match="no column 'sise'"):
        validate([TABLE], (Expectation(column="sise", minimum=0),))
