"""The forecast of every series, made once for each cut-off and kept for when the store is away."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feastrain.errors import FeastrainError
from feastrain.telemetry import event

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from feastrain.serving.forecaster import Forecaster
    from feastrain.serving.history import History
    from feastrain.serving.panel import LabelPanel

BELIEVED_SECONDS = 600.0
"""How long a forecast is kept of a cut-off that stays: a correction is seen within this time."""


@dataclass(frozen=True)
class Outlook:
    """Forecasts of all series as of one cut-off. S series in the history's order."""

    as_of: datetime
    ends: tuple[datetime, ...]
    """The close of each target period."""
    levels: tuple[float, ...]
    quantile_SHQ: NDArray[np.float64]
    """NaN for a series that the store does not know."""
    event_SH: NDArray[np.object_] | None
    before_SH: NDArray[np.float64]
    """The labels a season before, NaN where none was observed."""
    made_at: float

    def known(self, place: int) -> bool:
        """Tell whether the store knows the series at `place`."""
        return bool(np.isfinite(self.quantile_SHQ[place]).all())


@dataclass(frozen=True)
class Standing:
    """What can be said now: the outlook, and why it may be old."""

    outlook: Outlook
    stale: str | None
    """Why the store could not be asked just now; None where it answered."""


class Outlooks:
    """Keeps the newest outlook, and makes another when the store has a later cut-off."""

    def __init__(self, forecaster: Forecaster, history: History, panel: LabelPanel) -> None:
        self._forecaster = forecaster
        self._history = history
        self._panel = panel
        self._lock = threading.Lock()
        self._kept: Outlook | None = None

    def now(self) -> Standing:
        """Return the outlook of today's cut-off, or the last one if the store does not answer.

        Raises:
            FeastrainError: the store does not answer and there is no earlier outlook.
        """
        with self._lock:
            try:
                as_of = self._forecaster.read(self._history.table(self._history.keys[:1]))
                if not self._is_current(as_of):
                    self._kept = self._make()
            except FeastrainError as error:
                event("outlook_stale", error=str(error))
                if self._kept is None:
                    raise
                return Standing(self._kept, str(error))
            assert self._kept is not None
            return Standing(self._kept, None)

    def _is_current(self, as_of: datetime) -> bool:
        kept = self._kept
        if kept is None or kept.as_of != as_of:
            return False
        return time.monotonic() - kept.made_at < BELIEVED_SECONDS

    def _make(self) -> Outlook:
        bundle, recipe = self._forecaster.bundle, self._forecaster.recipe
        horizon, levels = bundle.columns.horizon, bundle.quantiles
        forecast = self._forecaster.forecast(self._history.table(self._history.keys))
        found = forecast.found
        quantile_SHQ = np.full((len(found), horizon, len(levels)), np.nan)
        quantile_SHQ[found] = forecast.quantiles_MHQ
        event_SH = None
        if forecast.event_MH is not None:
            event_SH = np.full((len(found), horizon), "", dtype=object)
            event_SH[found] = forecast.event_MH
        before_SH = self._panel.a_season_before(forecast.periods, recipe.season)
        made_at = time.monotonic()
        return Outlook(
            forecast.as_of,
            tuple(forecast.periods),
            levels,
            quantile_SHQ,
            event_SH,
            before_SH,
            made_at,
        )


def summary_rows(history: History, standing: Standing) -> list[list[Any]]:
    """Return a row for each series: entities, at risk, forecast, a season before, recent total.

    At risk is the width between the outermost quantiles, summed over the horizon, in the unit of
    the label; the forecast is the sum of medians. What is not known is None.
    """
    outlook = standing.outlook
    wide_S = (outlook.quantile_SHQ[:, :, -1] - outlook.quantile_SHQ[:, :, 0]).sum(axis=1)
    median_S = outlook.quantile_SHQ[:, :, outlook.levels.index(0.5)].sum(axis=1)
    before_S = outlook.before_SH.sum(axis=1)
    numbers = [[_rounded(value) for value in column] for column in (wide_S, median_S, before_S)]
    recent = [_rounded(summary.total) for summary in history.summaries()]
    return [[*key, *told] for key, *told in zip(history.keys, *numbers, recent, strict=True)]


def _rounded(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None
