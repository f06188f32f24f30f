"""Skew: what the online store answers against what the offline join answers, value by value.

`compare.py` says which values differ and why, `stores/answers.py` reads the online side, and
`report.py` holds what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prometheus_client import generate_latest

from feastrain.artifacts import fingerprint, is_published, point, publishing, write_json
from feastrain.dataset.labels import TIMESTAMP, read_labels
from feastrain.dataset.retrieve import join_as_of, steps_ahead
from feastrain.dataset.skew.compare import (
    CAUSES,
    CODES,
    EQUAL,
    Ages,
    Pair,
    causes_of,
    distance,
    no_ages,
)
from feastrain.dataset.skew.html import as_html
from feastrain.dataset.skew.report import (
    Example,
    Finding,
    SkewMetrics,
    SkewReport,
    require_equal,
)
from feastrain.shown import Shown
from feastrain.stores.answers import Answer, latest_events, online_answer, past_ttl
from feastrain.stores.asked import by_view, is_on_demand
from feastrain.stores.fallback.layout import NEVER
from feastrain.stores.fallback.stored import EPOCH, MICROSECOND
from feastrain.stores.feature_repo import online_store_of, view_of
from feastrain.stores.online import last_cutoff
from feastrain.stores.replica import inputs_of

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore
    from numpy.typing import NDArray
    from prometheus_client import CollectorRegistry

    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe

__all__ = ["Example", "Finding", "Skew", "SkewReport", "compare_stores", "publish", "require_equal"]

EXAMPLES = 3
JSON, HTML, METRICS = "skew.json", "report.html", "skew.prom"


@dataclass(frozen=True)
class Skew(Shown):
    """A published comparison."""

    report: SkewReport
    path: Path

    @property
    def page(self) -> Path:
        """The report to read in a browser."""
        return self.path / HTML

    @property
    def metrics(self) -> CollectorRegistry:
        """The report as Prometheus is told of it."""
        return _metrics(self.report).registry

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values, and where its page is."""
        return {"page": str(self.page), **self.report.to_json()}


def compare_stores(
    root: Path,
    recipe: Recipe,
    store: FeatureStore,
    service: Service,
    sample: int | None = None,
    seed: int = 0,
) -> SkewReport:
    """Compare every feature of a service, of some series or all, as of the materialisation.

    An entity that several series share is compared once.

    Args:
        root: the project folder.
        recipe: says what the series and the periods are.
        store: the feature store, already applied and materialised.
        service: the recipe's feature service.
        sample: how many series, drawn at random; None for all.
        seed: decides which.

    Raises:
        ProjectError: a view of the service was never materialised.
        FeastrainError: a store does not answer.
    """
    panel = read_labels(root / recipe.label.source, recipe)
    asked = by_view((*service.row_features, *service.unused_features, *service.known_features))
    views = {name: view_of(store, name) for name in asked}
    first = panel.periods[0].astype("datetime64[us]").item().replace(tzinfo=UTC)
    as_of = last_cutoff(store, sorted(service.sources | service.elsewhere), first, recipe.frequency)
    begun = np.isfinite(
        panel.label_SP[:, panel.periods <= np.datetime64(as_of.replace(tzinfo=None))]
    )
    chosen = np.flatnonzero(begun.any(axis=1))
    if sample is not None and sample < len(chosen):
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, sample, replace=False))
    frames = _Frames(panel.series.take(pa.array(chosen)), service, recipe, as_of)
    compared = {}
    findings: list[Finding] = []
    for name, features in asked.items():
        one = _Comparison(store, views[name], features, frames)
        compared[name] = len(one.keys) * len(features)
        findings += one.findings()
    return SkewReport(
        recipe=recipe.name,
        service=recipe.features.service,
        as_of=as_of.isoformat(),
        online_store=str(store.config.online_store.type),
        series=len(chosen),
        compared=compared,
        findings=tuple(sorted(findings, key=lambda finding: -finding.count)),
    )


def publish(report: SkewReport, directory: Path) -> Skew:
    """Publish a report under `directory`, named by what it says; `RECIPE` leads to the last one."""
    final = directory / fingerprint(report.to_json())
    if not is_published(final):
        counts = {"values": report.values, "differing": report.differing}
        with publishing(final, {"recipe": report.recipe, **counts}) as scratch:
            write_json(scratch / JSON, report.to_json())
            (scratch / HTML).write_text(as_html(report))
            (scratch / METRICS).write_bytes(generate_latest(_metrics(report).registry))
    point(directory / report.recipe, final)
    return Skew(report, final)


def _metrics(report: SkewReport) -> SkewMetrics:
    return SkewMetrics(report, datetime.fromisoformat(report.as_of).timestamp())


class _Frames:
    """The entities that views are asked for: series, and the periods ahead of them."""

    def __init__(self, series: pa.Table, service: Service, recipe: Recipe, as_of: datetime) -> None:
        self.as_of = as_of
        self._period_key = recipe.features.period_key
        stamps = pa.array([as_of] * len(series), type=TIMESTAMP)
        self._series = series.append_column("event_timestamp", stamps)
        keys = [*service.columns.known_keys, "event_timestamp"]
        groups = self._series.select(keys).group_by(keys).aggregate([])
        ahead = steps_ahead(groups, recipe)
        self._ahead = ahead.rename_columns(
            [str(self._period_key) if name == "period" else name for name in ahead.column_names]
        )

    def keys_of(self, store: FeatureStore, view: Any) -> pa.Table:
        """Return the distinct entities of a view, with the time."""
        names = sorted(_join_keys(store, view))
        frame = self._ahead if self._period_key in names else self._series
        if not names:
            return frame.slice(0, 1)
        keys = [*names, "event_timestamp"]
        found: pa.Table = frame.select(keys).group_by(keys, use_threads=False).aggregate([])
        return found


def _join_keys(store: FeatureStore, view: Any) -> set[str]:
    if not is_on_demand(view):
        return {one.name for one in view.entity_columns if one.name != "__dummy_id"}
    inputs = [view_of(store, one) for one in inputs_of(view)]
    return {key for one in inputs for key in _join_keys(store, one)}


class _Comparison:
    """One view in both stores, of the same entities as of the same time."""

    def __init__(
        self, store: FeatureStore, view: Any, features: list[str], frames: _Frames
    ) -> None:
        self._store, self._view, self._features, self._frames = store, view, features, frames
        self._as_of = frames.as_of
        wanted = frames.keys_of(store, view)
        self.keys = wanted.drop_columns(["event_timestamp"])
        references = tuple(f"{view.name}:{name}" for name in features)
        self._offline = join_as_of(store, references, wanted)
        self._online: Answer = online_answer(store, view, features, self.keys, self._as_of)
        self._ages = self._ages_of()

    def findings(self) -> list[Finding]:
        """Return what differs, by feature and cause."""
        return [
            self._finding(name, at, int(code))
            for at, name in enumerate(self._features)
            for code in np.unique(self.codes[at])
            if code != EQUAL
        ]

    @cached_property
    def codes(self) -> NDArray[np.int8]:
        """Return [feature, entity] why each value differs."""
        on_demand = is_on_demand(self._view)
        computed = on_demand or any(
            getattr(self._view, name, None) for name in ("feature_transformation", "udf")
        )
        codes = np.stack(
            [causes_of(self._pair(name), self._ages, computed=computed) for name in self._features]
        )
        if on_demand:
            inherited, silent = self._of_inputs()
            codes = np.where((codes != EQUAL) & (inherited != EQUAL), inherited, codes)
            codes[:, silent] = EQUAL
        return codes

    def _of_inputs(self) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Return [N] why an input of each row differs, and whether the store minds its `ttl`."""
        cause = np.full(len(self.keys), EQUAL, dtype=np.int8)
        silent = np.zeros(len(self.keys), dtype=bool)
        for projection in self._view.source_feature_view_projections.values():
            view = view_of(self._store, projection.name)
            names = [one.name for one in projection.features]
            one = _Comparison(self._store, view, names, self._frames)
            at = _positions(self.keys, one.keys)
            codes = one.codes.max(axis=0)[at]
            cause = np.where(cause == EQUAL, codes, cause).astype(np.int8)
            if online_store_of(self._store) is not None:
                silent |= one._ages.expired[at]
        return cause, silent

    def _ages_of(self) -> Ages:
        online = self._online
        if is_on_demand(self._view):
            return no_ages(np.ones(len(online.held), dtype=bool))
        events = latest_events(self._store, self._view, self.keys, self._as_of)
        expired = past_ttl(self._view, online.event, self._as_of)
        return Ages(online.held, online.event, events, expired)

    def _pair(self, name: str) -> Pair:
        mistyped = np.zeros(len(self.keys), dtype=bool)
        mistyped[list(self._online.mistyped[name])] = True
        offline = self._offline[name].combine_chunks()
        return Pair(self._online.values[name], offline, mistyped)

    def _finding(self, name: str, at: int, code: int) -> Finding:
        pair = self._pair(name)
        rows = np.flatnonzero(self.codes[at] == code)
        worst = rows[np.argsort(-distance(pair)[rows], kind="stable")][:EXAMPLES]
        cause = next(cause for cause in CAUSES if CODES[cause] == code)
        examples = tuple(self._example(pair, name, int(row)) for row in worst)
        return Finding(self._view.name, name, cause, len(rows), examples)

    def _example(self, pair: Pair, name: str, row: int) -> Example:
        offline = self._ages.offline
        told = self._online.mistyped[name].get(row, pair.online[row].as_py())
        return Example(
            keys={key: str(self.keys[key][row].as_py()) for key in self.keys.column_names},
            online=_said(told),
            offline=_said(pair.offline[row].as_py()),
            online_event=_moment(self._ages.online[row]),
            offline_event="" if offline is None else _moment(offline[row]),
        )


def _positions(keys: pa.Table, others: pa.Table) -> NDArray[np.int64]:
    """Return [N] the row of `others` that has the keys of each of N rows."""
    names = others.column_names
    numbered = others.append_column("other row", pa.array(np.arange(len(others))))
    rows = keys.select(names).append_column("row", pa.array(np.arange(len(keys))))
    return np.asarray(rows.join(numbered, names).sort_by("row")["other row"])


def _said(value: Any) -> str:
    return "null" if value is None else str(value)


def _moment(microseconds: np.int64) -> str:
    if microseconds == NEVER:
        return ""
    return (EPOCH + int(microseconds) * MICROSECOND).isoformat()
