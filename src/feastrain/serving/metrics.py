"""What Prometheus is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray
    from prometheus_client import Metric

    from feastrain.serving.forecaster import Forecast

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_HOUR, _DAY = 3600.0, 86400.0
_AGES = (_HOUR, 6 * _HOUR, _DAY, 2 * _DAY, 4 * _DAY, 8 * _DAY, 15 * _DAY, 31 * _DAY, 92 * _DAY)
_RATIOS = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 4.0)
SAMPLED_SERIES = 16
"""Series of one request whose forecast is observed: each costs microseconds."""


class Metrics:
    """The metrics of one app, in a registry of its own.

    Importing Feast before prometheus_client turns on the latter's multi-process mode, which
    keeps values by process and name: apps of one process then add to the same numbers.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Start at nothing.

        Args:
            folder: where the workers of one server keep their values, so that each tells the sum.
        """
        self._folder = folder
        self.registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "feastrain_serving_request_seconds",
            "Time to answer a request, by route and status",
            ["route", "status"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._source_seconds = Histogram(
            "feastrain_serving_read_seconds",
            "Time that the online store took to answer one read",
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._series = Counter(
            "feastrain_serving_series",
            "Series asked for, by whether they were forecast, from stale features, or unknown",
            ["status"],
            registry=self.registry,
        )
        self._reads = Counter(
            "feastrain_serving_reads",
            "Reads of features, by the store that answered",
            ["source"],
            registry=self.registry,
        )
        self._age = Histogram(
            "feastrain_serving_feature_age_seconds",
            "Age of the oldest features that a forecast request was answered from",
            registry=self.registry,
            buckets=_AGES,
        )
        self._ratio = Histogram(
            "feastrain_serving_forecast_ratio",
            "Mean median forecast over the mean of the last 52 labels, of some series a request",
            registry=self.registry,
            buckets=_RATIOS,
        )
        self._swaps = Counter(
            "feastrain_serving_bundle_swaps",
            "Bundles that the recipe's pointer led to newly, by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("swapped", "refused"):
            self._swaps.labels(outcome)
        self._as_of = Gauge(
            "feastrain_serving_cutoff_timestamp_seconds",
            "Cut-off of the features last read; their age is time() minus this",
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self._age_limit = Gauge(
            "feastrain_serving_feature_age_limit_seconds",
            "Age beyond which features are told as stale; +Inf where the server has no limit",
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self._age_limit.set(np.inf)
        self._bundle = Gauge(
            "feastrain_serving_bundle",
            "1 for the bundle that answers, 0 for those that did before",
            ["bundle", "snapshot"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._answering: tuple[str, str] | None = None

    @property
    def collectors(self) -> tuple[Counter | Gauge | Histogram, ...]:
        """Every metric of the registry."""
        kinds = (Counter, Gauge, Histogram)
        return tuple(one for one in vars(self).values() if isinstance(one, kinds))

    def age_limit(self, seconds: float | None) -> None:
        """Say beyond which age features are stale; None where any age will do."""
        self._age_limit.set(np.inf if seconds is None else seconds)

    def answers_from(self, bundle: str, snapshot: str) -> None:
        """Say which bundle answers from now on, and what it was trained on."""
        if self._answering is not None:
            self._bundle.labels(*self._answering).set(0)
        self._answering = bundle, snapshot
        self._bundle.labels(bundle, snapshot).set(1)

    def forecast(self, forecast: Forecast, age_N: NDArray[np.float64], stale: int) -> None:
        """Count one forecast.

        Args:
            forecast: what was answered.
            age_N: [N] seconds since the features of each series happened.
            stale: how many of the series known are stale.
        """
        known = int(forecast.found.sum())
        self._series.labels("ok").inc(known - stale)
        self._series.labels("stale").inc(stale)
        self._series.labels("unknown").inc(len(forecast.found) - known)
        self._reads.labels(forecast.origin).inc()
        self._source_seconds.observe(forecast.read_seconds)
        if known:
            self._age.observe(float(age_N[forecast.found].max()))
        self.features_as_of(forecast.as_of)

    def forecast_ratios(self, ratio_N: NDArray[np.float64]) -> None:
        """Observe forecasts over what was usual, of some of the series; NaN is passed over."""
        finite = ratio_N[np.isfinite(ratio_N)]
        for ratio in finite[:: -(-len(finite) // SAMPLED_SERIES) or 1].tolist():
            self._ratio.observe(ratio)

    def bundle_swap(self, outcome: str) -> None:
        """Count a bundle that took over (`swapped`), or that was kept out (`refused`)."""
        self._swaps.labels(outcome).inc()

    def features_as_of(self, as_of: datetime) -> None:
        """Say up to when the features are."""
        self._as_of.set(as_of.timestamp())

    def text(self) -> bytes:
        """Return the metrics of all workers, and of their online store, in Prometheus's format."""
        if self._folder is None:
            return generate_latest(_Ours(self.registry, REGISTRY))
        return generate_latest(_Ours(MultiProcessCollector(None, str(self._folder))))  # type: ignore[no-untyped-call]


class _Ours(Collector):
    """The metrics of this project among those of some registries."""

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        for collector in self._collectors:
            for metric in collector.collect():
                if metric.name.startswith("feastrain_"):
                    yield metric
