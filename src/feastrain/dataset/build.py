"""The stage that turns a feature service into a snapshot."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import fingerprint, is_published, publishing, source_digests
from feastrain.dataset.labels import read_labels
from feastrain.dataset.retrieve import retrieve_known, retrieve_rows
from feastrain.dataset.service import resolve_service
from feastrain.dataset.snapshot import Snapshot, write_tables
from feastrain.dataset.spine import make_spine
from feastrain.dataset.split import Split, split_cutoffs
from feastrain.dataset.validate import Verdict, require, validate
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa
    from feast import FeatureStore

    from feastrain.dataset.labels import Panel
    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe

FORMAT = 1
"""Raised when the files of a snapshot change their meaning, so that old ones are made anew."""


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
    service = resolve_service(store, recipe)
    inputs = _inputs(root, recipe, service, as_of)
    final = directory / fingerprint(inputs)
    if is_published(final):
        return Built(Snapshot.open(final), cached=True)
    panel = read_labels(root / recipe.label.source, recipe, as_of)
    split = split_cutoffs(len(panel.periods), recipe)
    spine = make_spine(panel, split, recipe.horizon)
    rows = retrieve_rows(store, service, spine)
    known = retrieve_known(store, service, spine, recipe)
    verdicts = validate([rows, known], recipe.expectations)
    on_verdicts(verdicts)
    require(verdicts)
    manifest = _manifest(recipe, service, panel, split, rows) | {
        "inputs": inputs,
        "verdicts": [verdict.to_json() for verdict in verdicts],
    }
    with publishing(final, manifest) as scratch:
        write_tables(scratch, rows, known, panel.table)
    return Built(Snapshot.open(final), cached=False)


def _inputs(root: Path, recipe: Recipe, service: Service, as_of: datetime | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "feastrain": __version__,
        "recipe": recipe.data_section(),
        "service": service.fingerprint,
        "features": service.source_digests(),
        "labels": source_digests(root / recipe.label.source),
        "as_of": as_of.isoformat() if as_of else None,
    }


def _manifest(
    recipe: Recipe, service: Service, panel: Panel, split: Split, rows: pa.Table
) -> dict[str, Any]:
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
