"""The stage that turns a feature service into a snapshot."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import fingerprint, is_published, publishing, source_digests
from feastrain.dataset.checks import TrainingSet
from feastrain.dataset.drift import Sample, judge_drift, measure_drift
from feastrain.dataset.labels import read_labels
from feastrain.dataset.latest import Effort, last_snapshot, point_to_last, record_effort
from feastrain.dataset.retrieve import retrieve_known, retrieve_rows
from feastrain.dataset.service import resolve_service
from feastrain.dataset.snapshot import Snapshot, write_tables
from feastrain.dataset.spine import make_spine
from feastrain.dataset.split import Split, split_cutoffs
from feastrain.dataset.validate import validate
from feastrain.dataset.verdict import Verdict, require
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from feast import FeatureStore

    from feastrain.dataset.labels import Panel
    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe

FORMAT = 1
"""Raised when the files of a snapshot change their meaning, so that old ones are made anew."""


@dataclass(frozen=True)
class Joined:
    """A training set before it is judged."""

    panel: Panel
    split: Split
    training_set: TrainingSet


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
    """Join, validate, split and publish the training set of `recipe` under `directory`.

    Args:
        root: the project folder, where the recipe's paths start.
        recipe: what to build.
        store: the feature store, already applied.
        directory: folder of snapshots; this one is `directory/FINGERPRINT`.
        as_of: labels later than this do not exist yet; None takes all there are.
        on_verdicts: told what every expectation found, before a broken one stops the build.

    Raises:
        DataError: the data is refused; nothing is published.
        LeakageError: the label can be reached from the feature service.
    """
    started = time.perf_counter()
    service = resolve_service(store, recipe)
    inputs = list_inputs(root, recipe, service, as_of)
    final = directory / fingerprint(inputs)
    if is_published(final):
        point_to_last(directory, recipe.name, final)
        return Built(Snapshot.open(final), cached=True)
    joined = join(root, recipe, store, service, as_of)
    verdicts = validate(joined.training_set, recipe.expectations)
    verdicts += _judge_drift(joined.training_set, recipe, directory)
    on_verdicts(verdicts)
    require(verdicts)
    manifest = _manifest(recipe, service, joined) | {
        "inputs": inputs,
        "verdicts": [verdict.to_json() for verdict in verdicts],
    }
    with publishing(final, manifest) as scratch:
        subject = joined.training_set
        write_tables(scratch, subject.rows, subject.known, joined.panel.table)
    effort = Effort(round(time.perf_counter() - started, 3), len(joined.training_set.rows))
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
    final = directory / fingerprint(list_inputs(root, recipe, service, as_of))
    if is_published(final):
        return TrainingSet.of_snapshot(Snapshot.open(final), recipe, as_of)
    return join(root, recipe, store, service, as_of).training_set


def join(
    root: Path, recipe: Recipe, store: FeatureStore, service: Service, as_of: datetime | None
) -> Joined:
    """Read the labels, split them, and join every feature as of its cut-off.

    Raises:
        DataError: the labels are refused, or the offline store answers other rows.
    """
    panel = read_labels(root / recipe.label.source, recipe, as_of)
    split = split_cutoffs(len(panel.periods), recipe)
    spine = make_spine(panel, split, recipe.horizon)
    rows = retrieve_rows(store, service, spine)
    known = retrieve_known(store, service, spine, recipe)
    now = as_of or panel.last_period
    subject = TrainingSet(rows, known, service.columns, recipe.frequency, now)
    return Joined(panel, split, subject)


def list_inputs(
    root: Path, recipe: Recipe, service: Service, as_of: datetime | None
) -> dict[str, Any]:
    """Return everything that a snapshot is made from, as plain JSON values."""
    return {
        "format": FORMAT,
        "feastrain": __version__,
        "recipe": recipe.data_section(),
        "service": service.fingerprint,
        "views": service.definitions,
        "features": service.source_digests(),
        "labels": source_digests(root / recipe.label.source),
        "as_of": as_of.isoformat() if as_of else None,
    }


def _judge_drift(subject: TrainingSet, recipe: Recipe, directory: Path) -> list[Verdict]:
    """Compare the training rows with those of the recipe's last snapshot, where it asks for it."""
    path = last_snapshot(directory, recipe.name)
    if recipe.drift is None or path is None:
        return []
    last = Snapshot.open(path)
    before = Sample.of_part(last.rows(), last.known(), last.columns, "train")
    after = Sample.of_part(subject.rows, subject.known, subject.columns, "train")
    return judge_drift(measure_drift(before, after), recipe.drift, last.fingerprint)


def _manifest(recipe: Recipe, service: Service, joined: Joined) -> dict[str, Any]:
    panel, split, rows = joined.panel, joined.split, joined.training_set.rows
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
        "rows": dict(Counter(rows["split"].to_pylist())),
        "labels": len(panel.table),
        "series": len(panel.series),
        "periods": {"first": periods[0], "last": periods[-1], "count": len(periods)},
        "schema": {field.name: str(field.type) for field in rows.schema},
    }
