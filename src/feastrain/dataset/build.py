"""The stage that turns a feature service into a snapshot."""

from __future__ import annotations

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
from feastrain.dataset.join import inputs_of, join
from feastrain.dataset.service import resolve_service
from feastrain.dataset.snapshot import Snapshot, write_tables
from feastrain.dataset.validate import Verdict, require, validate
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
    service = resolve_service(store, recipe)
    require_unreachable(root, recipe, store)
    inputs = inputs_of(root, recipe, service, as_of)
    final = directory / fingerprint(inputs)
    if is_published(final):
        return Built(Snapshot.open(final), cached=True)
    joined = join(root, recipe, store, service, as_of)
    verdicts = validate([joined.rows, joined.known], recipe.expectations)
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
    return Built(Snapshot.open(final), cached=False)


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
