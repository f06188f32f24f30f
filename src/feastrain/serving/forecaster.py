"""Online features in, quantiles out: one code path for the nightly file and for the API."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from feastrain.errors import DataError
from feastrain.models.events import events_ahead
from feastrain.recipe import recipe_of
from feastrain.tracing import span

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from numpy.typing import NDArray

    from feastrain.recipe import FeatureColumns
    from feastrain.stores.online_rows import OnlineRows, Origin

TIMESTAMP = pa.timestamp("us", tz="UTC")


class FeatureSource(Protocol):
    """Where the features of today are read from."""

    def as_of(self) -> datetime:
        """Return the cut-off that a read would answer for."""

    def read(self, series: pa.Table) -> OnlineRows:
        """Read the features of `series` (entity columns), in their order."""


class PastSource(Protocol):
    """Where the cut-offs before today's are read from."""

    def of(self, series: pa.Table, as_of: datetime) -> tuple[pa.Table, pa.Table]:
        """Return the rows of `series` before `as_of`, and what was known ahead at them."""


class QuantileModel(Protocol):
    """What serving needs of a bundle."""

    @property
    def fingerprint(self) -> str:
        """The name of the bundle."""

    @property
    def columns(self) -> FeatureColumns:
        """The columns that the model reads, by role."""

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantiles that the model gives, increasing."""

    @property
    def lineage(self) -> dict[str, Any]:
        """What the bundle was made from."""

    @property
    def looks_back(self) -> bool:
        """Whether a forecast needs the rows of earlier cut-offs."""

    def forecast(
        self, rows: pa.Table, known: pa.Table, past: pa.Table | None = None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q] quantiles in the unit of the label."""


@dataclass(frozen=True)
class Forecast:
    """The quantiles of the series that the source knows."""

    series: pa.Table
    """[M] entities, in the order asked for, of the series that the source knows."""
    quantiles_MHQ: NDArray[np.float64]
    """In the unit of the label."""
    levels: tuple[float, ...]
    """[Q]"""
    periods: list[datetime]
    """[H] the close of each target period."""
    event_MH: NDArray[np.str_] | None
    """What makes each target period special, "" for nothing; where a known-ahead feature tells."""
    as_of: datetime
    """The cut-off."""
    found: NDArray[np.bool_]
    """[N] whether the source knows the series asked for; M of them."""
    read_seconds: float
    """How long the source took."""
    happened: NDArray[np.int64] | None = None
    """[N] when the oldest changing row of each series happened, where the source tells."""
    origin: Origin = "store"
    """Where the features came from."""

    def table(self) -> pa.Table:
        """Return a row for each series and step.

        Entities, `event_timestamp` (the cut-off), `step`, `period` (its close), `q0.1` ...
        """
        count, horizon = self.quantiles_MHQ.shape[:2]
        of_series = pa.array(np.repeat(np.arange(count), horizon))
        steps = np.tile(np.arange(1, horizon + 1), count)
        columns: dict[str, Any] = {
            name: self.series[name].take(of_series) for name in self.series.column_names
        }
        columns["event_timestamp"] = pa.array([self.as_of] * len(steps), type=TIMESTAMP)
        columns["step"] = pa.array(steps, type=pa.int64())
        columns["period"] = pa.array(self.periods, type=TIMESTAMP).take(pa.array(steps - 1))
        for place, level in enumerate(self.levels):
            columns[quantile_column(level)] = pa.array(self.quantiles_MHQ[:, :, place].ravel())
        return pa.table(columns)


class Forecaster:
    """A bundle and the source that feeds it."""

    def __init__(
        self, bundle: QuantileModel, source: FeatureSource, past: PastSource | None = None
    ) -> None:
        """Put them together; a bundle that looks back needs a `past`."""
        assert past is not None or not bundle.looks_back
        self.bundle = bundle
        self.source = source
        self._past = past
        self.recipe = recipe_of(bundle.lineage)
        label_event = self.recipe.label.event
        self._event = label_event if label_event in bundle.columns.known_ahead else None

    def forecast(self, series: pa.Table) -> Forecast:
        """Forecast `series` (entity columns) for every step of the horizon.

        Raises:
            DataError: the bundle answers with something that is not a number.
        """
        started = time.perf_counter()
        with span("store read") as told:
            online = self.source.read(series)
            told |= {"feastrain.series": len(series), "feastrain.source": online.origin}
        return self.forecast_from(online, time.perf_counter() - started)

    def forecast_from(self, online: OnlineRows, read_seconds: float = 0.0) -> Forecast:
        """Forecast the series of what a source answered, which took it so long.

        Raises:
            DataError: the bundle answers with something that is not a number.
        """
        rows, columns = online.rows, self.bundle.columns
        if not online.found.all():
            rows = rows.filter(pa.array(online.found))
        with span("model"):
            quantiles_MHQ = self._quantiles(rows, online)
        return Forecast(
            series=rows.select(list(columns.entities)),
            quantiles_MHQ=quantiles_MHQ,
            levels=self.bundle.quantiles,
            periods=period_ends(online.as_of, self.recipe.frequency, columns.horizon),
            event_MH=self._events(rows, online.known),
            as_of=online.as_of,
            found=online.found,
            read_seconds=read_seconds,
            happened=online.happened,
            origin=online.origin,
        )

    def read(self, series: pa.Table) -> datetime:
        """Read all that forecasting `series` needs, and return the cut-off that it is as of."""
        as_of = self.source.read(series).as_of
        if self._past is not None:
            self._past.of(series, as_of)
        return as_of

    def _quantiles(self, rows: pa.Table, online: OnlineRows) -> NDArray[np.float64]:
        if len(rows) == 0:
            return np.zeros((0, self.bundle.columns.horizon, len(self.bundle.quantiles)))
        if self._past is None:
            quantiles_NHQ = self.bundle.forecast(rows, online.known)
        else:
            series = rows.select(list(self.bundle.columns.entities))
            past, known_then = self._past.of(series, online.as_of)
            known = pa.concat_tables([online.known, known_then], promote_options="permissive")
            quantiles_NHQ = self.bundle.forecast(rows, known, past)
        self._refuse_non_finite(rows, quantiles_NHQ)
        return quantiles_NHQ

    def _events(self, rows: pa.Table, known: pa.Table) -> NDArray[np.str_] | None:
        if self._event is None:
            return None
        return events_ahead(rows, known, self.bundle.columns, self._event)

    def _refuse_non_finite(self, rows: pa.Table, quantiles_NHQ: NDArray[np.float64]) -> None:
        broken = np.flatnonzero(~np.isfinite(quantiles_NHQ).all(axis=(1, 2)))
        if len(broken):
            key = {name: rows[name][broken[0]].as_py() for name in self.bundle.columns.entities}
            message = (
                f"bundle {self.bundle.fingerprint} gives no number for {len(broken)} series, "
                f"{key} first: look at the features of that series, or serve another bundle"
            )
            raise DataError(message)


def quantile_column(quantile: float) -> str:
    """Return the name of a quantile's column: `q0.5`."""
    return f"q{quantile}"


def period_ends(as_of: datetime, frequency: timedelta, horizon: int) -> list[datetime]:
    """Return the close of each target period, nearest first."""
    return [as_of + step * frequency for step in range(1, horizon + 1)]
