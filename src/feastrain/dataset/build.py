"""The stage that turns a feature service into a snapshot."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
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
from feastrain.dataset.snapshot import Snapshot, write_table
from feastrain.dataset.validate import validate
from feastrain.dataset.verdict import Verdict, require
from feastrain.errors import DataError
from feastrain.stores.asked import by_view
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from feastrain.dataset.join import Joined, JoinRequest
    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Built:
    """A snapshot and whether an earlier run had made it."""

    snapshot: Snapshot
    cached: bool


def build(
    request: JoinRequest,
    directory: Path,
    on_verdicts: Callable[[list[Verdict]], None] = lambda verdicts: None,  # noqa: ARG005
) -> Built:
    """Join, validate, audit and publish a training set under `directory`.

    Args:
        request: what to join.
        directory: folder of snapshots; this one is `directory/FINGERPRINT`.
        on_verdicts: told what every expectation found, before a broken one stops the build.

    Raises:
        DataError: the data is refused; nothing is published.
        LeakageError: the label can be reached from the feature service, or a feature knows
            what came after its cut-off.
    """
    started, recipe = time.perf_counter(), request.recipe
    service = resolve_service(request.store, recipe)
    require_unreachable(request.root, recipe, request.store)
    inputs = inputs_of(request.root, recipe, service, request.as_of)
    if request.rehearsal:
        inputs["rehearsal"] = True
    final = directory / fingerprint(inputs)
    if is_published(final):
        if not request.rehearsal:
            point_to_last(directory, recipe.name, final)
        return Built(Snapshot.open(final), cached=True)
    manifest: dict[str, Any] = {"inputs": inputs}
    with publishing(final, manifest) as scratch:
        begun = time.perf_counter()
        joined = join(request, service, scratch)
        join_seconds = round(time.perf_counter() - begun, 3)
        verdicts = validate(joined.training_set(), recipe.expectations)
        if not request.rehearsal:
            _require_answers(joined)
            verdicts += _judge_drift(joined.training_set(), recipe, directory)
            on_verdicts(verdicts)
            require(verdicts)
        manifest["verdicts"] = [verdict.to_json() for verdict in verdicts]
        manifest["audit"] = _audit(joined, directory.with_name("audits"))
        manifest |= _manifest(joined)
        write_table(scratch, "known", joined.known)
        write_table(scratch, "labels", joined.panel.table)
    if not request.rehearsal:
        seconds = round(time.perf_counter() - started, 3)
        effort = Effort(seconds, sum(joined.counts.values()), final.name, join_seconds)
        record_effort(directory, recipe.name, effort)
        point_to_last(directory, recipe.name, final)
    return Built(Snapshot.open(final), cached=False)


def _require_answers(joined: Joined) -> None:
    """Stop where a view has not one value, as of no cut-off: nothing of it was joined.

    Raises:
        DataError: names the view, and what may be the cause.
    """
    service, known = joined.service, joined.known
    filled = joined.rows.filled()
    filled |= {name for name in known.column_names if known[name].null_count < len(known)}
    for view, names in by_view((*service.row_features, *service.known_features)).items():
        if not filled & {*names}:
            message = (
                f"view {view!r} answers nothing: {names[0]!r} and all else of it is null in all "
                f"{len(joined.rows):,} rows; its keys are others than the label's, or its rows "
                "become known (by event and created timestamp) after every cut-off"
            )
            raise DataError(message)


def training_set(request: JoinRequest, directory: Path) -> TrainingSet:
    """Return what `build` would judge: from the snapshot if there is one, else joined now.

    Raises:
        DataError: the labels are refused, or the offline store answers other rows.
        LeakageError: the label can be reached from the feature service.
    """
    recipe = request.recipe
    service = resolve_service(request.store, recipe)
    require_unreachable(request.root, recipe, request.store)
    final = directory / fingerprint(inputs_of(request.root, recipe, service, request.as_of))
    if is_published(final):
        return TrainingSet.of_snapshot(Snapshot.open(final), recipe, request.as_of)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=directory) as scratch:
        joined = join(request, service, Path(scratch))
        subject = joined.training_set()
        return replace(subject, rows=joined.rows.select(joined.rows.column_names))


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
        "rows": joined.counts,
        "labels": len(panel.table),
        "series": len(panel.series),
        "periods": {"first": periods[0], "last": periods[-1], "count": len(periods)},
        "schema": {field.name: str(field.type) for field in joined.rows.schema},
    }
