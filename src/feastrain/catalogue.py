"""Every metric that feastrain has, from the registries that hold them: what the docs list.

A name is `feastrain_STAGE_WHAT[_UNIT][_total]`, in base units. Alerts and dashboards are checked
against this list.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEGIN, END = "<!-- metrics: {stage} -->", "<!-- end -->"
_KINDS = {
    GaugeMetricFamily: "gauge",
    CounterMetricFamily: "counter",
    HistogramMetricFamily: "histogram",
    InfoMetricFamily: "info",
}
_SUFFIXES = {"counter": "_total", "info": "_info"}
_UNITS = {
    "_timestamp_seconds": "s since 1970",
    "_rows_per_second": "rows/s",
    "_seconds": "s",
    "_ratio": "share",
    "_wmae": "the label's",
}


@dataclass(frozen=True)
class Entry:
    """One metric as it is scraped; a histogram by the name before `_bucket`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def stage(self) -> str:
        """The stage that it is of: the word after `feastrain_`."""
        return self.name.split("_")[1]

    @property
    def unit(self) -> str:
        """What it counts in; empty for a bare number."""
        if self.kind == "counter":
            return self.name.removesuffix("_total").split("_")[-1]
        return next((unit for end, unit in _UNITS.items() if self.name.endswith(end)), "")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self) | {"stage": self.stage, "unit": self.unit}


def catalogue() -> tuple[Entry, ...]:
    """Return every metric, by name."""
    return tuple(sorted(_entries(), key=lambda entry: entry.name))


def as_table(stage: str) -> str:
    """Return the metrics of one stage as a table in Markdown."""
    lines = ["| metric | kind | unit | meaning |", "|---|---|---|---|"]
    for entry in catalogue():
        if entry.stage == stage:
            labels = f"{{{','.join(entry.labels)}}}" if entry.labels else ""
            name = f"`{entry.name}{labels}`"
            lines.append(f"| {name} | {entry.kind} | {entry.unit} | {entry.meaning} |")
    return "\n".join(lines)


def update_tables(page: Path) -> bool:
    """Write each stage's table anew between its marks, and return whether anything changed."""
    before = text = page.read_text()
    for stage in sorted({entry.stage for entry in catalogue()}):
        begin = BEGIN.format(stage=stage)
        if begin in text:
            head, _, rest = text.partition(begin)
            _, end, tail = rest.partition(END)
            text = f"{head}{begin}\n{as_table(stage)}\n{end}{tail}"
    if text != before:
        page.write_text(text)
    return text != before


def _entries() -> Iterator[Entry]:
    from feastrain import stage_metrics
    from feastrain.dataset import drift_metrics
    from feastrain.dataset.skew import report
    from feastrain.serving.metrics import Metrics
    from feastrain.stores.fallback import counters
    from feastrain.training import metrics as training

    for collector in (*Metrics().collectors, *counters.collectors()):
        yield _of_collector(collector)
    for name, (family, text) in training.FAMILIES.items():
        yield _entry(name, _KINDS[family], training.LABELS.get(name, ()), text)
    for module in (drift_metrics, stage_metrics):
        for name, text in module.FAMILIES.items():
            yield _entry(name, "gauge", module.LABELS, text)
    for name, (text, labels) in report.FAMILIES.items():
        yield _entry(name, "gauge", labels, text)


def _of_collector(collector: Any) -> Entry:
    """Return what a metric of prometheus_client is; only its own fields tell its labels."""
    (family,) = collector.describe()
    return _entry(family.name, family.type, collector._labelnames, family.documentation)


def _entry(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> Entry:
    return Entry(name + _SUFFIXES.get(kind, ""), kind, tuple(labels), meaning)
