from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feastrain.dataset.split import split_cutoffs
from feastrain.errors import DataError
from feastrain.recipe import Features, Label, Recipe, Split


def _recipe(horizon: int, validation: int, test: int, extra: int) -> Recipe:
    return Recipe(
        name="law",
        entities=("series",),
        frequency="1d",
        horizon=horizon,
        label=Label(source="labels.parquet", column="sales"),
        features=Features(repo="repo", service="service", roles={}),
        split=Split(validation_cutoffs=validation, test_cutoffs=test, embargo=horizon + extra),
    )


sizes = st.integers(1, 12)


@given(
    horizon=sizes, validation=sizes, test=sizes, extra=st.integers(0, 5), spare=st.integers(1, 40)
)
def test_labels_of_a_part_are_known_before_the_next(
    horizon: int, validation: int, test: int, extra: int, spare: int
) -> None:
    """The last label of each part closes at or before the first cut-off of the next."""
    recipe = _recipe(horizon, validation, test, extra)
    least = 2 * (horizon + extra) + horizon + validation + test - 2
    split = split_cutoffs(least + spare, recipe)
    assert split.train[-1] + horizon <= split.validation[0]
    assert split.validation[-1] + horizon <= split.test[0]
    assert split.test[-1] + horizon == least + spare - 1
    assert (spare, validation, test) == (len(split.train), len(split.validation), len(split.test))


@given(horizon=sizes, validation=sizes, test=sizes, extra=st.integers(0, 5))
def test_data_too_short_names_what_is_needed(
    horizon: int, validation: int, test: int, extra: int
) -> None:
    """One period less than the least is refused, and the least is named."""
    recipe = _recipe(horizon, validation, test, extra)
    least = 2 * (horizon + extra) + horizon + validation + test - 2
    with pytest.raises(DataError, match=f"needs at least {least + 1}"):
        split_cutoffs(least, recipe)
    split_cutoffs(least + 1, recipe)


def test_every_other_cutoff_is_unused() -> None:
    """Cut-offs in the embargo, or with labels still to come, belong to no part."""
    split = split_cutoffs(30, _recipe(horizon=3, validation=2, test=1, extra=0))
    parts = [split.part_of(position) for position in range(30)]
    expected = ["train"] * 20 + ["unused"] * 2 + ["validation"] * 2 + ["unused"] * 2 + ["test"]
    assert expected + ["unused"] * 3 == parts


def test_period_is_read_and_written_alike() -> None:
    """A frequency survives a round trip through its text."""
    recipe = _recipe(1, 1, 1, 0)
    assert timedelta(days=1) == recipe.frequency
    assert "1d" == recipe.data_section()["frequency"]
