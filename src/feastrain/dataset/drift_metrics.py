"""What Prometheus is told of the drift between two training sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from feastrain.dataset.drift import Drift

FAMILIES = {
    "feastrain_drift_psi": "Population stability index of a feature, against the set before",
    "feastrain_drift_ks_distance": "Largest gap between a number's two distributions, 0 to 1",
    "feastrain_drift_missing_change_ratio": "How much the share of a feature's missing values grew",
    "feastrain_drift_new_category_ratio": "Share of rows whose category the set before lacks",
}
LABELS = ("service", "feature")


class DriftMetrics(Collector):
    """How far every feature moved, as gauges in a registry of their own."""

    def __init__(self, drift: Drift, service: str) -> None:
        self._drift, self._service = drift, service
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the distances of every feature."""
        psi, ks, missing, new = (
            GaugeMetricFamily(name, text, labels=LABELS) for name, text in FAMILIES.items()
        )
        for feature in self._drift.features:
            labels = [self._service, feature.feature]
            psi.add_metric(labels, feature.psi)
            if feature.ks is not None:
                ks.add_metric(labels, feature.ks)
            missing.add_metric(labels, feature.missing_change)
            new.add_metric(labels, feature.new_share)
        yield from (psi, ks, missing, new)
