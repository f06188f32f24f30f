"""Values of a recipe's keys that `tune` tries."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from feastrain.section import Section


class Range(Section):
    """Values to try from `low` to `high`: whole numbers where both are; `log` spreads them."""

    low: float | int
    high: float | int
    log: bool = False

    @model_validator(mode="after")
    def _has_a_width(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            message = f"low {self.low} must be less than high {self.high}, and positive for log"
            raise ValueError(message)
        return self

    @property
    def extremes(self) -> tuple[Any, Any]:
        """The least and the largest value."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one to try."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Choices(Section):
    """Values to try, of any kind."""

    choices: Annotated[tuple[Any, ...], Field(min_length=2)]

    @property
    def extremes(self) -> tuple[Any, Any]:
        """The first and the last value."""
        return self.choices[0], self.choices[-1]

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one to try."""
        return value in self.choices
