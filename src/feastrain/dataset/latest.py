"""The last snapshots of a recipe: where they are, and how long the last one took to make.

Beside the snapshots stand two links, `RECIPE` and `RECIPE.previous`, and `RECIPE.built.json`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from feastrain.artifacts import is_published, point, write_json
from feastrain.errors import ProjectError


@dataclass(frozen=True)
class Effort:
    """What the last snapshot that was made, not found, took; `join_seconds` of it the join."""

    seconds: float
    rows: int
    snapshot: str = ""
    join_seconds: float | None = None


def last_snapshot(directory: Path, recipe: str) -> Path | None:
    """Return the snapshot that the recipe was built into last, if it is still there."""
    pointer = directory / recipe
    return pointer.resolve() if is_published(pointer) else None


def point_to_last(directory: Path, recipe: str, final: Path) -> None:
    """Make the recipe's link lead to a snapshot, and keep where it led before."""
    before = last_snapshot(directory, recipe)
    if before == final.resolve():
        return
    if before is not None:
        point(directory / f"{recipe}.previous", before)
    point(directory / recipe, final)


def record_effort(directory: Path, recipe: str, effort: Effort) -> None:
    """Remember what making the recipe's snapshot took."""
    path = directory / f"{recipe}.built.json"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(beside, asdict(effort))
    beside.replace(path)


def last_effort(directory: Path, recipe: str) -> Effort | None:
    """Return what making the recipe's last snapshot took, where it was recorded."""
    path = directory / f"{recipe}.built.json"
    return Effort(**json.loads(path.read_text())) if path.is_file() else None


def find_snapshot(directory: Path, name: str | Path) -> Path:
    """Return the folder of a snapshot given as a path, a fingerprint, or `RECIPE[.previous]`.

    Raises:
        ProjectError: there is none of that name.
    """
    for path in (directory / name, Path(name)):
        if is_published(path):
            return path.resolve()
    there = sorted(path.name for path in directory.glob("[!.]*") if is_published(path))
    message = f"{name}: no such snapshot; {directory} has {', '.join(there) or 'none'}"
    raise ProjectError(message)
