"""Time spans as a recipe writes them: `1w`, `7d`, `12h`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def parse_period(text: object) -> object:
    """Read `1w`, `7d` or `12h` as a time span; leave anything else for pydantic to refuse."""
    match = re.fullmatch(r"([1-9]\d*)([hdw])", text) if isinstance(text, str) else None
    if match is None:
        message = "must be a whole number and a unit: 12h, 1d or 1w"
        raise ValueError(message)
    return int(match[1]) * _UNITS[match[2]]


def format_period(period: timedelta) -> str:
    """Write a time span as `parse_period` reads it."""
    for unit, size in reversed(_UNITS.items()):
        if period % size == timedelta(0):
            return f"{period // size}{unit}"
    message = f"{period} is not a whole number of hours"
    raise ValueError(message)


Period = Annotated[timedelta, BeforeValidator(parse_period), PlainSerializer(format_period)]
