"""The stage that turns a snapshot into a bundle: on this machine, under torchrun."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from feastrain.artifacts import fingerprint, is_published, open_manifest, point
from feastrain.jobs.backends import run_here
from feastrain.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """One run of `feastrain.training.run`, wherever it happens: what it reads, and where it is."""

    fingerprint: str
    snapshot: Path
    folder: Path
    bundle: Path

    @classmethod
    def of(cls, recipe: Recipe, snapshot: Snapshot, artifacts: Path) -> Run:
        """Return the run that trains a recipe on a snapshot."""
        name = fingerprint(snapshot.fingerprint, recipe.training_section())
        return cls(name, snapshot.path, artifacts / "runs" / name, artifacts / "bundles" / name)

    def prepare(self, recipe_path: Path) -> None:
        """Make its folder, which holds the recipe as it was."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe_path, self.folder / "recipe.yaml")

    def arguments(self, seen: Callable[[Path], str]) -> list[str]:
        """Return its command line, with each path as `seen` by who runs it."""
        paths = {
            "recipe": self.folder / "recipe.yaml",
            "snapshot": self.snapshot,
            "folder": self.folder,
            "bundle": self.bundle,
        }
        return [word for name, path in paths.items() for word in (f"--{name}", seen(path))]


@dataclass(frozen=True)
class Trained:
    """A bundle and whether an earlier run had made it."""

    path: Path
    cached: bool


def train(
    recipe_path: Path,
    snapshot: Snapshot,
    artifacts: Path,
    *,
    fresh: bool = False,
    rehearsal: bool = False,
) -> Trained:
    """Fit the recipe's model on `snapshot` and publish it under `artifacts/bundles`.

    An interrupted run resumes from its last checkpoint; a finished one is not run again,
    unless `fresh` asks for both to be done anew. The bundle becomes the recipe's last one, that
    is served, unless it is a `rehearsal` of a past day.

    Raises:
        InterruptedRun: it was asked to stop, and a checkpoint was saved.
        FeastrainError: a rank failed; the message is its own.
    """
    recipe = load_recipe(recipe_path)
    run = Run.of(recipe, snapshot, artifacts)
    if fresh:
        shutil.rmtree(run.bundle, ignore_errors=True)
    cached = is_published(run.bundle)
    if cached:
        open_manifest(run.bundle)
    else:
        run.prepare(recipe_path)
        run_here(run.arguments(str), run.folder, recipe.training, fresh=fresh)
    if not rehearsal:
        point(artifacts / "bundles" / recipe.name, run.bundle)
    return Trained(run.bundle, cached)
