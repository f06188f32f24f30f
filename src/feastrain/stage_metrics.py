"""What Prometheus is told of the stages that a verb of the command line ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from feastrain.telemetry import BOUND
from feastrain.training.metrics import push

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from feastrain.telemetry import Ended

FAMILIES = {
    "feastrain_stage_seconds": "Time that the last run of a stage took",
    "feastrain_stage_failed": "1 if the last run of a stage ended in an error, else 0",
    "feastrain_stage_cached": "1 if an earlier run had made it already, else 0",
}
LABELS = ("stage",)


class StageMetrics(Collector):
    """The last run of each stage, as gauges in a registry of their own."""

    def __init__(self, ended: Sequence[Ended]) -> None:
        self._ended = {one.name: one for one in ended}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield what became of every stage."""
        families = [GaugeMetricFamily(name, text, labels=LABELS) for name, text in FAMILIES.items()]
        for one in self._ended.values():
            values = (one.seconds, one.failed, one.cached)
            for family, value in zip(families, values, strict=True):
                family.add_metric([one.name], float(value))
        yield from families


def push_stages(gateway: str, verb: str, ended: Sequence[Ended]) -> None:
    """Push what became of the stages of a verb, of the recipe that it was about."""
    group = {"verb": verb, "recipe": str(BOUND.get("recipe", "none"))}
    push(gateway, StageMetrics(ended).registry, group)
