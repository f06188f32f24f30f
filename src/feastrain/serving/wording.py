"""A forecast as JSON, written from what seldom changes and the numbers.

A template holds all the text of a series' steps, with a place for each number: to fill it costs a
fraction of making objects of them and writing those.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from feastrain.serving.forecaster import Forecast
    from feastrain.serving.history import Key


@dataclass(frozen=True)
class Wording:
    """Writes what a forecast says of each series."""

    entities: tuple[str, ...]
    period_name: Callable[[datetime], str]

    def series(
        self,
        keys: Sequence[Key],
        forecast: Forecast,
        status: Sequence[str],
        ages: Sequence[float],
        steps: int,
    ) -> list[str]:
        """Return [N] JSON objects, see `schemas.SeriesAnswer`.

        Args:
            keys: [N] the series that `forecast` was asked for.
            forecast: of them.
            status: [N] `ok`, `stale` or `unknown`.
            ages: [N] seconds since their features happened.
            steps: how many of the horizon are told.
        """
        forecasts = iter(self._steps(forecast, steps))
        told = []
        for key, state, age in zip(keys, status, ages, strict=True):
            named = json.dumps(dict(zip(self.entities, key, strict=True)))
            known = state != "unknown"
            about = f'"age_seconds":{age:.3f},"steps":[{next(forecasts)}]' if known else _NOTHING
            told.append(f'{{"key":{named},"status":"{state}",{about}}}')
        return told

    def _steps(self, forecast: Forecast, steps: int) -> list[str]:
        """Return [M] the steps of each series that was forecast."""
        count = len(forecast.quantiles_MHQ)
        periods = tuple(map(self.period_name, forecast.periods[:steps]))
        numbers = len(periods) * len(forecast.levels)
        value_MX = forecast.quantiles_MHQ[:, :steps].reshape(count, numbers).tolist()
        event_MH: list[tuple[str, ...] | None] = [None] * count
        if forecast.event_MH is not None:
            event_MH = [tuple(events) for events in forecast.event_MH[:, :steps].tolist()]
        return [
            _template(periods, forecast.levels, events) % tuple(value_X)
            for events, value_X in zip(event_MH, value_MX, strict=True)
        ]


_NOTHING = '"age_seconds":null,"steps":[]'


@lru_cache(maxsize=256)
def _template(
    periods: tuple[str, ...], levels: tuple[float, ...], events: tuple[str, ...] | None
) -> str:
    """Return the steps as JSON with `%r` for each quantile of each."""
    quantiles = ",".join(f'"{level}":%r' for level in levels)
    steps = []
    for place, period in enumerate(periods):
        event = "" if events is None else f',"event":{_text(events[place])}'
        about = f'"step":{place + 1},"period":{_text(period)}'
        steps.append(f'{{{about},"quantiles":{{{quantiles}}}{event}}}')
    return ",".join(steps)


def _text(value: str) -> str:
    return json.dumps(value).replace("%", "%%")
