"""The stage that turns a feature service into a snapshot."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import fingerprint, is_published, publishing
from feastrain.dataset.audit import (
    NOT_AUDITED,
    Plan,
    audit_joined,
    require_clean,
    require_unreachable,
)
from feastrain.dataset.checks import TrainingSet
from feastrain.dataset.drift import Sample, judge_drift, measure_drift
from feastrain.dataset.join import inputs_of, join
from feastrain.dataset.latest import Effort, last_snapshot, point_to_last, record_effort
from feastrain.dataset.service import resolve_service
from feastrain.dataset.snapshot import Snapshot, write_tables
from feastrain.dataset.validate import validate
from feastrain.dataset.verdict import Verdict, require
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from feast import FeatureStore

    from feastrain.dataset.join import Joined
    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Built:
    """A snapshot and whether an earlier run had made it."""

    snapshot: Snapshot
    cached: bool


def build(
    root: Path,
    recipe: Recipe,
    store: FeatureStore,
    directory: Path,
    *,
    as_of: datetime | None = None,
    on_verdicts: Callable[[list[Verdict]], None] = lambda verdicts: None,  # noqa: ARG005
) -> Built:
    """Join, validate, audit, split and publish the training set of `recipe` under `directory`.

    Args:
        root: the project folder, where the recipe's paths start.
        recipe: what to build.
        store: the feature store, already applied.
        directory: folder of snapshots; this one is `directory/FINGERPRINT`.
        as_of: labels later than this do not exist yet; None takes all there are.
        on_verdicts: told what every expectation found, before a broken one stops the build.

    Raises:
        DataError: the data is refused; nothing is published.
        LeakageError: the label can be reached from the feature service, or a feature knows
            what came after its cut-off.
    """
    started = time.perf_counter()
    service = resolve_service(store, recipe)
    require_unreachable(root, recipe, store)
    inputs = inputs_of(root, recipe, service, as_of)
    final = directory / fingerprint(inputs)
    if is_published(final):
        point_to_last(directory, recipe.name, final)
        return Built(Snapshot.open(final), cached=True)
    joined = join(root, recipe, store, service, as_of)
    verdicts = validate(joined.training_set(), recipe.expectations)
    verdicts += _judge_drift(joined.training_set(), recipe, directory)
    on_verdicts(verdicts)
    require(verdicts)
    audited = _audit(joined, directory.with_name("audits"))
    manifest = _manifest(joined) | {
        "inputs": inputs,
        "verdicts": [verdict.to_json() for verdict in verdicts],
        "audit": audited,
    }
    with publishing(final, manifest) as scratch:
        write_tables(scratch, joined.rows, joined.known, joined.panel.table)
    effort = Effort(round(time.perf_counter() - started, 3), len(joined.rows))
    record_effort(directory, recipe.name, effort)
    point_to_last(directory, recipe.name, final)
    return Built(Snapshot.open(final), cached=False)


def training_set(
    root: Path, recipe: Recipe, store: FeatureStore, directory: Path, as_of: datetime | None
) -> TrainingSet:
    """Return what `build` would judge: from the snapshot if there is one, else joined now.

    Raises:
        DataError: the labels are refused, or the offline store answers other rows.
        LeakageError: the label can be reached from the feature service.
    """
    service = resolve_service(store, recipe)
    require_unreachable(root, recipe, store)
    final = directory / fingerprint(inputs_of(root, recipe, service, as_of))
    if is_published(final):
        return TrainingSet.of_snapshot(Snapshot.open(final), recipe, as_of)
    return join(root, recipe, store, service, as_of).training_set()


def _judge_drift(subject: TrainingSet, recipe: Recipe, directory: Path) -> list[Verdict]:
    """Compare the training rows with those of the recipe's last snapshot, where it asks for it."""
    path = last_snapshot(directory, recipe.name)
    if recipe.drift is None or path is None:
        return []
    last = Snapshot.open(path)
    before = Sample.of_part(last.rows(), last.known(), last.columns, "train")
    after = Sample.of_part(subject.rows, subject.known, subject.columns, "train")
    return judge_drift(measure_drift(before, after), recipe.drift, last.fingerprint)


def _audit(joined: Joined, directory: Path) -> dict[str, Any]:
    """Audit a sample of the training set, and return what its manifest says of that."""
    asked = joined.recipe.audit
    if not asked.enabled:
        return NOT_AUDITED
    plan = Plan(asked.cutoffs, asked.rows, asked.seed, ("mixed",))
    audited = audit_joined(joined, plan, directory)
    require_clean(audited.report, audited.html)
    return {**audited.report.summary(), "fingerprint": audited.path.name}


def _manifest(joined: Joined) -> dict[str, Any]:
    recipe, service, panel, split = joined.recipe, joined.service, joined.panel, joined.split
    periods = [f"{period}+00:00" for period in panel.periods]
    boundaries = {
        name: {"first_cutoff": periods[part[0]], "last_cutoff": periods[part[-1]]}
        for name in ("train", "validation", "test")
        for part in [getattr(split, name)]
    }
    return {
        "feastrain": __version__,
        "columns": service.columns.model_dump(mode="json"),
        "service": recipe.features.service,
        "row_features": list(service.row_features),
        "known_features": list(service.known_features),
        "split": boundaries | {"embargo": recipe.embargo},
        "rows": dict(Counter(joined.rows["split"].to_pylist())),
        "labels": len(panel.table),
        "series": len(panel.series),
        "periods": {"first": periods[0], "last": periods[-1], "count": len(periods)},
        "schema": {field.name: str(field.type) for field in joined.rows.schema},
    }
