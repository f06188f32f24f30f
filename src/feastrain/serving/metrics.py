"""What Prometheus is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from datetime import datetime

    from feastrain.serving.forecaster import Forecast

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one app, in a registry of its own.

    Importing Feast before prometheus_client turns on the latter's multi-process mode, which
    keeps values by process and name: apps of one process then add to the same numbers.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "feastrain_request_seconds",
            "Time to answer a request, by route and status",
            ["route", "status"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._source_seconds = Histogram(
            "feastrain_source_read_seconds",
            "Time that the online store took to answer one read",
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._series = Counter(
            "feastrain_forecast_series",
            "Series asked for, by whether they were forecast or unknown to the store",
            ["status"],
            registry=self.registry,
        )
        self._as_of = Gauge(
            "feastrain_features_as_of_timestamp_seconds",
            "Cut-off of the features last read; their age is time() minus this",
            registry=self.registry,
        )

    def forecast(self, forecast: Forecast) -> None:
        """Count one forecast."""
        known = int(forecast.found.sum())
        self._series.labels("ok").inc(known)
        self._series.labels("unknown").inc(len(forecast.found) - known)
        self._source_seconds.observe(forecast.read_seconds)
        self.features_as_of(forecast.as_of)

    def features_as_of(self, as_of: datetime) -> None:
        """Say up to when the features are."""
        self._as_of.set(as_of.timestamp())

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
