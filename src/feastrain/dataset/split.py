"""Which cut-offs train, validate and test: by time, with an embargo between the parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from feastrain.errors import DataError, UsageError

if TYPE_CHECKING:
    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Split:
    """Positions of cut-offs on the grid of periods; those in no part are unused.

    A cut-off at position c has labels of the periods that close at c + 1 ... c + horizon.
    A label is known by the cut-off at which its period closes, and by every later one. Each
    part ends at least `embargo` periods before the next begins, so all its labels are known
    by then: the last one may close at the very cut-off that the next part begins with.
    """

    train: range
    validation: range
    test: range

    def part_of(self, position: int) -> str:
        """Return the part that a cut-off belongs to, or "unused"."""
        for name in ("train", "validation", "test"):
            if position in getattr(self, name):
                return name
        return "unused"


def split_cutoffs(periods: int, recipe: Recipe) -> Split:
    """Split the cut-offs of a grid of `periods`, counting back from the last full horizon.

    Raises:
        DataError: the data is too short to leave a training cut-off.
    """
    test_end = periods - recipe.horizon
    test_start = test_end - recipe.split.test_cutoffs
    validation_end = test_start - recipe.embargo + 1
    validation_start = validation_end - recipe.split.validation_cutoffs
    train_end = validation_start - recipe.embargo + 1
    first = recipe.split.warm_up
    if train_end <= first:
        needed = periods - train_end + first + 1
        message = (
            f"the data has {periods} periods, but a horizon of {recipe.horizon} with "
            f"{recipe.split.validation_cutoffs} validation and {recipe.split.test_cutoffs} test "
            f"cut-offs needs at least {needed}: shorten the horizon or the split"
            + (f", or its warm_up of {first}" if first else "")
        )
        raise DataError(message)
    return Split(
        train=range(first, train_end),
        validation=range(validation_start, validation_end),
        test=range(test_start, test_end),
    )


@dataclass(frozen=True)
class Fold:
    """One origin of a backtest: the split as it was then."""

    split: Split
    last: int
    """Position of the last period that its labels close at: nothing later exists for it."""


def rolling_origins(periods: int, recipe: Recipe, origins: int, step: int) -> list[Split]:
    """Return one split for each of `origins` moments, oldest first, `step` periods apart.

    Each is the split of the recipe as it was `step` periods before the next one: it ends that
    much earlier, has the recipe's validation and test cut-offs and embargo, and trains on
    every earlier cut-off whose labels are known by its first validation cut-off.

    Raises:
        DataError: the data is too short for the oldest of them.
        UsageError: no origin or no step is asked for.
    """
    if origins < 1 or step < 1:
        message = f"{origins} rolling origins {step} periods apart: both must be at least one"
        raise UsageError(message)
    splits = []
    for moved in range((origins - 1) * step, -1, -step):
        try:
            splits.append(split_cutoffs(periods - moved, recipe))
        except DataError as error:
            message = f"the first of {origins} origins lies {moved} periods back: {error}"
            raise DataError(message) from error
    return splits


def backtest_folds(names: list[str], recipe: Recipe) -> list[Fold]:
    """Return the folds that the recipe's backtest asks for, oldest first.

    Args:
        names: of the periods, oldest first, as `Recipe.period_name` gives them.
        recipe: says how many there are, or at which first test cut-offs.

    Raises:
        DataError: the data is too short for one of them.
        UsageError: a date is none of a cut-off whose labels are all there.
    """
    asked, horizon = recipe.backtest, recipe.horizon
    if isinstance(asked.origins, int):
        splits = rolling_origins(len(names), recipe, asked.origins, asked.every)
    else:
        splits = [_split_at(origin, names, recipe) for origin in sorted(set(asked.origins))]
    return [Fold(split, split.test[-1] + horizon) for split in splits]


def _split_at(origin: str, names: list[str], recipe: Recipe) -> Split:
    newest = split_cutoffs(len(names), recipe).test.start
    if origin not in names[: newest + 1]:
        message = (
            f"backtest.origins has {origin}, which is no cut-off with labels for "
            f"{recipe.horizon} periods after it and the test cut-offs that follow; "
            f"the newest such is {names[newest]}, and others lie whole periods before it"
        )
        raise UsageError(message)
    try:
        return split_cutoffs(len(names) - (newest - names.index(origin)), recipe)
    except DataError as error:
        message = f"backtest.origins has {origin}: {error}"
        raise DataError(message) from error
