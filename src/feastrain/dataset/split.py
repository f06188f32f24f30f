"""Which cut-offs train, validate and test: by time, with an embargo between the parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from feastrain.errors import DataError

if TYPE_CHECKING:
    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Split:
    """Positions of cut-offs on the grid of periods; those in no part are unused.

    A cut-off at position c has labels at c + 1 ... c + horizon. Each part ends at least
    `embargo` periods before the next begins, so all its labels are known by then.
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
    if train_end < 1:
        needed = periods - train_end + 1
        message = (
            f"the data has {periods} periods, but a horizon of {recipe.horizon} with "
            f"{recipe.split.validation_cutoffs} validation and {recipe.split.test_cutoffs} test "
            f"cut-offs needs at least {needed}: shorten the horizon or the split"
        )
        raise DataError(message)
    return Split(
        train=range(train_end),
        validation=range(validation_start, validation_end),
        test=range(test_start, test_end),
    )
