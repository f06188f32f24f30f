"""How old the features behind a forecast are, and when that is too old."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from numpy.typing import NDArray

    from feastrain.serving.forecaster import Forecast


class Freshness:
    """Ages by one clock, and a limit to them."""

    def __init__(self, most_seconds: float | None, clock: Callable[[], float] = time.time) -> None:
        """Take a limit, or None for any age, and what tells seconds since 1970."""
        self._most = most_seconds
        self._clock = clock

    def ages(self, forecast: Forecast) -> NDArray[np.float64]:
        """Return [N] seconds since the oldest changing features of each series happened."""
        now = self._clock()
        if forecast.happened is None:
            return np.full(len(forecast.found), now - forecast.as_of.timestamp())
        return now - forecast.happened / 1e6

    def stale(self, age_N: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return [N] whether an age is beyond the limit."""
        return age_N > (np.inf if self._most is None else self._most)

    def objection(self, as_of: datetime) -> str | None:
        """Return why a server with this cut-off is not ready, or None if it is."""
        age = self._clock() - as_of.timestamp()
        if self._most is None or age <= self._most:
            return None
        return (
            f"its features are {age:.0f} s old, more than the {self._most:.0f} s of "
            "FEASTRAIN_MAX_FEATURE_AGE_SECONDS: materialise again"
        )
