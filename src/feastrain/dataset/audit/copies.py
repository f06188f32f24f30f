"""Copies of what the features are made from, in which the future can come out otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from feastrain.dataset.audit.perturb import Facts, Mutation, facts, mutate, time_columns
from feastrain.dataset.transform import Steps, run_transform
from feastrain.errors import RecipeError
from feastrain.stores.replica import local_path, read_source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from feast import FeatureStore

    from feastrain.recipe import Recipe, Transform

CREATED = "created_timestamp"


@dataclass(frozen=True)
class Change:
    """One way in which the future is made to come out otherwise."""

    cutoff: datetime
    mutation: Mutation
    seed: int
    only: tuple[str, frozenset[str] | None] | None = None
    """Change this table alone, and of its values those of these columns (None: all)."""


@dataclass(frozen=True)
class Copies:
    """The tables that are changed, and the copies that a replica of the feature store reads.

    Where the recipe declares a transform, its raw tables are changed and it runs again;
    a table that no transform makes is changed itself.
    """

    scratch: Path
    raw: tuple[Facts, ...]
    steps: Steps | None
    stored: tuple[Facts, ...]
    paths: Mapping[str, Path]
    """The copy that each view reads."""

    def write(self, change: Change | None) -> None:
        """Write all copies as they would be after `change`; None writes them unchanged.

        Raises:
            DataError: the transform cannot work with the changed tables.
        """
        for source in self.stored:
            write(_changed(source, change), self.scratch / "stored" / f"{source.name}.parquet")
        if self.steps is not None:
            inputs = self.scratch / "raw"
            for source in self.raw:
                write(_changed(source, change), inputs / f"{source.name}.parquet")
            run_transform(self.steps, inputs, self.scratch / "made", compression="uncompressed")

    def tables(self) -> tuple[Facts, ...]:
        """Return every table that a change may touch."""
        return (*self.raw, *self.stored)


def make_copies(
    root: Path, recipe: Recipe, store: FeatureStore, views: Mapping[str, object], scratch: Path
) -> Copies:
    """Read what the views are made from, and lay out where its copies will be.

    Raises:
        RecipeError: `transform.known_at` names no raw table, or no column of one.
    """
    keys = frozenset(e.join_key for e in store.list_entities()) | {*recipe.entities}
    made = made_tables(root, recipe.transform)
    stored, paths = [], {}
    for name, view in views.items():
        source = getattr(view, "batch_source", None)
        if source is None:
            continue
        path = local_path(store, source)
        table = None if path is None else made.get(path.resolve())
        if table is not None:
            paths[name] = scratch / "made" / f"{table}.parquet"
            continue
        event_at = (source.timestamp_field,)
        known_at = (*event_at, *filter(None, [source.created_timestamp_column]))
        rows = read_source(store, view)
        stored.append(facts(name, rows, known_at, event_at, keys, recipe.label.column))
        paths[name] = scratch / "stored" / f"{name}.parquet"
    for folder in ("raw", "made", "stored"):
        (scratch / folder).mkdir()
    steps = Steps.of(root, recipe.transform) if recipe.transform else None
    return Copies(scratch, _raw_tables(root, recipe, keys), steps, tuple(stored), paths)


def made_tables(root: Path, transform: Transform | None) -> dict[Path, str]:
    """Return the tables that the recipe's transform made, by their files."""
    if transform is None:
        return {}
    return {path.resolve(): path.stem for path in (root / transform.outputs).glob("*.parquet")}


def write(table: pa.Table, path: Path) -> None:
    """Put a table in the place of a file, as a new file."""
    beside = path.with_suffix(".new")
    pq.write_table(table, beside, compression="none")
    beside.replace(path)


def _changed(source: Facts, change: Change | None) -> pa.Table:
    if change is None:
        return source.table
    table, columns = change.only or (source.name, None)
    if table != source.name:
        return source.table
    return mutate(source, change.cutoff, change.mutation, change.seed, columns)


def _raw_tables(root: Path, recipe: Recipe, keys: frozenset[str]) -> tuple[Facts, ...]:
    transform = recipe.transform
    if transform is None:
        return ()
    files = sorted((root / transform.inputs).glob("*.parquet"))
    if unknown := transform.known_at.keys() - {path.stem for path in files}:
        message = (
            f"transform.known_at names {', '.join(map(repr, sorted(unknown)))}, but "
            f"{transform.inputs} has {', '.join(path.stem for path in files)}"
        )
        raise RecipeError(message)
    raw = []
    for path in files:
        table = pq.read_table(path)
        known_at = _known_at(path.stem, table, transform)
        event_at = tuple(c for c in time_columns(table) if c not in known_at) or known_at
        raw.append(facts(path.stem, table, known_at, event_at, keys, recipe.label.column))
    return tuple(raw)


def _known_at(name: str, table: pa.Table, transform: Transform) -> tuple[str, ...]:
    """Return the columns that say when a row became known; none where it always was."""
    times = time_columns(table)
    if name not in transform.known_at:
        return (CREATED,) if CREATED in times else times
    column = transform.known_at[name]
    if column is not None and column not in times:
        message = (
            f"transform.known_at says {name}: {column}, but that table's dates and times are "
            f"{', '.join(times) or 'none'}"
        )
        raise RecipeError(message)
    return () if column is None else (column,)
