"""What building a recipe would do, told without doing any of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from feastrain.artifacts import fingerprint, is_published, open_manifest
from feastrain.dataset.diff import Change, changed_inputs
from feastrain.dataset.join import inputs_of
from feastrain.dataset.labels import read_labels
from feastrain.dataset.latest import last_effort, last_snapshot
from feastrain.dataset.service import resolve_service
from feastrain.dataset.spine import make_spine
from feastrain.dataset.split import split_cutoffs
from feastrain.dataset.transform import is_engineered
from feastrain.errors import ProjectError
from feastrain.shown import Shown
from feastrain.stores.feature_repo import is_applied, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa

    from feastrain.dataset.labels import Panel
    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe

BYTES_A_VALUE = 8


@dataclass(frozen=True)
class Part:
    """One part of the split: its cut-offs, the rows at them, and the labels of those rows."""

    name: str
    cutoffs: int
    first: str
    last: str
    rows: int
    labels: int


@dataclass(frozen=True)
class Source:
    """One file or folder that is read, with its rows where it is one Parquet file."""

    name: str
    path: str
    bytes: int
    rows: int | None


@dataclass(frozen=True)
class Plan(Shown):
    """What `build` would do."""

    recipe: str
    pending: tuple[str, ...]
    """What would be made first, because it is missing or no longer what its inputs say."""
    missing: tuple[str, ...]
    """What keeps parts of this plan from being known."""
    parts: tuple[Part, ...]
    embargo: int
    features: dict[str, tuple[str, ...]]
    """Feature columns by role; empty until the feature repo is applied."""
    sources: tuple[Source, ...]
    memory_bytes: int | None
    """Rows x columns x 8 bytes of the joined tables, once; the join holds some copies more."""
    seconds: float | None
    """The seconds of the recipe's last build that was no cache hit, scaled by rows."""
    snapshot: str | None
    """The folder the snapshot would have, or has; None while that is not known."""
    cached: bool | None
    """Whether it is there already; None while that is not known."""
    last: str | None
    """Fingerprint of the last snapshot of this recipe."""
    changed: tuple[Change, ...]
    """The inputs that are not those of the last snapshot."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """Where a project keeps what a plan looks at."""

    root: Path
    artifacts: Path

    @property
    def snapshots(self) -> Path:
        """The folder of snapshots."""
        return self.artifacts / "snapshots"


def make_plan(place: Place, recipe: Recipe, as_of: datetime | None = None) -> Plan:
    """Say what building the recipe would do; writes nothing.

    Raises:
        DataError: the labels that are there would be refused.
        RecipeError: the recipe does not fit the applied feature repo.
        LeakageError: the label can be reached from the feature service.
    """
    pending, missing = _unfinished(place, recipe)
    service = _service(place, recipe, missing)
    source = place.root / recipe.label.source
    panel = read_labels(source, recipe, as_of) if source.is_file() else None
    if panel is None:
        missing.append(f"missing: {source}, the label source: split and rows are not known")
    spine = _spine(panel, recipe)
    inputs = inputs_of(place.root, recipe, service, as_of) if service and panel else None
    settled = inputs is not None and not pending and not missing
    final = place.snapshots / fingerprint(inputs) if settled else None
    last = last_snapshot(place.snapshots, recipe.name)
    return Plan(
        recipe=recipe.name,
        pending=tuple(pending),
        missing=tuple(missing),
        parts=_parts(spine) if spine is not None else (),
        embargo=recipe.embargo,
        features=_by_role(service) if service else {},
        sources=tuple(_sources(source, service)),
        memory_bytes=_memory(spine, service, recipe) if spine is not None and service else None,
        seconds=_seconds(place, recipe, spine),
        snapshot=str(final) if final else None,
        cached=is_published(final) if final else None,
        last=last.name if last else None,
        changed=tuple(_changed(last, inputs)),
    )


def _unfinished(place: Place, recipe: Recipe) -> tuple[list[str], list[str]]:
    """Return what `build` would make before it joins, and what is missing for that."""
    pending, missing = [], []
    if recipe.transform is not None:
        try:
            if not is_engineered(place.root, recipe.transform, place.artifacts / "features"):
                pending.append("first: the transform makes the feature tables anew")
        except ProjectError as error:
            missing.append(f"missing: {error}")
    if not is_applied(place.root / recipe.features.repo, place.artifacts / "applied"):
        pending.append("first: the feature repo is applied to its registry")
    return pending, missing


def _service(place: Place, recipe: Recipe, missing: list[str]) -> Service | None:
    """Return the feature service if the registry is up to date; else nothing is known of it."""
    repo = place.root / recipe.features.repo
    if not is_applied(repo, place.artifacts / "applied"):
        return None
    try:
        return resolve_service(open_store(repo), recipe)
    except ProjectError as error:
        missing.append(f"missing: {error}")
        return None


def _spine(panel: Panel | None, recipe: Recipe) -> pa.Table | None:
    if panel is None:
        return None
    return make_spine(panel, split_cutoffs(len(panel.periods), recipe), recipe.horizon)


def _parts(spine: pa.Table) -> tuple[Part, ...]:
    labels = [name for name in spine.column_names if name.startswith("label_")]
    found = []
    for name in ("train", "validation", "test", "unused"):
        rows = spine.filter(pc.equal(spine["split"], name))
        if not len(rows):
            continue
        cutoffs = pc.unique(rows["event_timestamp"])
        found.append(
            Part(
                name=name,
                cutoffs=len(cutoffs),
                first=pc.min(cutoffs).as_py().isoformat(),
                last=pc.max(cutoffs).as_py().isoformat(),
                rows=len(rows),
                labels=sum(len(rows) - rows[label].null_count for label in labels),
            )
        )
    return tuple(found)


def _by_role(service: Service) -> dict[str, tuple[str, ...]]:
    columns = service.columns
    unused = tuple(reference.split(":", 1)[1] for reference in service.unused_features)
    return {
        "static": columns.static,
        "observed": columns.observed,
        "stepped": columns.stepped,
        "known_ahead": columns.known_ahead,
        "unused": unused,
    }


def _sources(labels: Path, service: Service | None) -> Iterator[Source]:
    paths = {"(labels)": labels} | (service.sources if service else {})
    for name, path in paths.items():
        if path.is_file():
            rows = pq.ParquetFile(path).metadata.num_rows
            yield Source(name, str(path), path.stat().st_size, rows)
        elif path.is_dir():
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            yield Source(name, str(path), size, None)


def _memory(spine: pa.Table, service: Service, recipe: Recipe) -> int:
    columns = service.columns
    joined = len(service.row_features) + len(service.unused_features)
    values = len(spine) * (len(spine.column_names) + joined)
    keys = [*columns.known_keys, "event_timestamp"]
    groups = len(spine.select(keys).group_by(keys).aggregate([]))
    values += groups * recipe.horizon * (len(keys) + 1 + len(columns.known_ahead))
    return values * BYTES_A_VALUE


def _seconds(place: Place, recipe: Recipe, spine: pa.Table | None) -> float | None:
    effort = last_effort(place.snapshots, recipe.name)
    if effort is None or spine is None or not effort.rows:
        return None
    return round(effort.seconds * len(spine) / effort.rows, 1)


def _changed(last: Path | None, inputs: dict[str, Any] | None) -> list[Change]:
    if last is None or inputs is None:
        return []
    return changed_inputs(open_manifest(last)["inputs"], inputs)
