"""What a comparison of the two stores found: values that differ, by feature and cause."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from feastrain.dataset.skew.compare import CAUSES, Cause
from feastrain.errors import SkewError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

AGAIN = "run `feastrain materialize {recipe} --fresh`"
REMEDIES: dict[Cause, str] = {
    "missing": AGAIN,
    "stale": AGAIN,
    "ahead": "the online store knows what the cut-off did not: materialize as of when it was known",
    "expired": "use feastrain.stores.fallback.FallbackOnlineStore, which minds the ttl of views",
    "type": f"declare the type that the source has, and {AGAIN}",
    "rounding": "declare Float64, or allow them with --tolerance",
    "transform": "store what the transform gives as a feature, or make its modes agree",
    "corrected": AGAIN,
}


FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "feastrain_skew_values": (
        "Values that the online store answers otherwise than the offline join, for every cause",
        ("recipe", "cause"),
    ),
    "feastrain_skew_compared_values": ("Values that were compared", ("recipe",)),
    "feastrain_skew_as_of_timestamp_seconds": ("The cut-off that they are of", ("recipe",)),
}
"""Every metric of a comparison: what it means, and its labels."""


@dataclass(frozen=True)
class Example:
    """One value that differs: of which entity, and what each store answers."""

    keys: dict[str, str]
    online: str
    offline: str
    online_event: str
    """When the online row happened; empty where there is none."""
    offline_event: str


@dataclass(frozen=True)
class Finding:
    """The values of one feature that differ for one cause, the worst as examples."""

    view: str
    feature: str
    cause: Cause
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class SkewReport:
    """Every difference between the online store and the offline join as of one time."""

    recipe: str
    service: str
    as_of: str
    online_store: str
    series: int
    compared: dict[str, int]
    """How many values were compared, by view."""
    findings: tuple[Finding, ...]

    @property
    def values(self) -> int:
        """How many values were compared."""
        return sum(self.compared.values())

    @property
    def differing(self) -> int:
        """How many values differ."""
        return sum(finding.count for finding in self.findings)

    @property
    def by_cause(self) -> dict[Cause, int]:
        """How many values differ for each cause, those without one included."""
        counts: Counter[Cause] = Counter()
        for finding in self.findings:
            counts[finding.cause] += finding.count
        return {cause: counts[cause] for cause in CAUSES}

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        told = {"values": self.values, "differing": self.differing, "by_cause": self.by_cause}
        return asdict(self) | told


def require_equal(report: SkewReport, page: Path, tolerance: float = 0.0) -> None:
    """Refuse a report in which a larger share of the values differs than `tolerance`.

    Raises:
        SkewError: they do; it says how many, why, and what to do.
    """
    if report.differing <= tolerance * report.values:
        return
    counts = {cause: count for cause, count in report.by_cause.items() if count}
    most = max(counts, key=lambda cause: counts[cause])
    told = ", ".join(f"{cause} {count:,}" for cause, count in counts.items())
    message = (
        f"the online store answers {report.differing:,} of {report.values:,} values otherwise "
        f"than the offline join as of {report.as_of} ({told}); see {page}; "
        f"{REMEDIES[most].format(recipe=report.recipe)}"
    )
    raise SkewError(message)


class SkewMetrics(Collector):
    """A report as Prometheus's gauges, in a registry of its own."""

    def __init__(self, report: SkewReport, as_of_seconds: float) -> None:
        self._report, self._as_of_seconds = report, as_of_seconds
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield how many values differ by cause, how many were compared, and as of when."""
        recipe = self._report.recipe
        differing, compared, as_of = (
            GaugeMetricFamily(name, text, labels=labels)
            for name, (text, labels) in FAMILIES.items()
        )
        for cause, count in self._report.by_cause.items():
            differing.add_metric([recipe, cause], count)
        compared.add_metric([recipe], self._report.values)
        as_of.add_metric([recipe], self._as_of_seconds)
        yield from (differing, compared, as_of)
