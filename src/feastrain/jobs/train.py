"""The stage that turns a snapshot into a bundle: on this machine, under torchrun."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from feastrain.artifacts import fingerprint, is_published, open_manifest, point
from feastrain.jobs.backends import run_request
from feastrain.jobs.cluster import job_name
from feastrain.jobs.job import Gang
from feastrain.jobs.record import Request, alone_in, noting_the_end
from feastrain.recipe import load_recipe
from feastrain.training.files import keep_code

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """One run of `feastrain.training.run`, wherever it happens: what it reads, and where it is."""

    fingerprint: str
    recipe: str
    """Name of the recipe."""
    snapshot: Path
    folder: Path
    bundle: Path

    @classmethod
    def of(cls, recipe: Recipe, snapshot: Snapshot, artifacts: Path) -> Run:
        """Return the run that trains a recipe on a snapshot."""
        name = fingerprint(snapshot.fingerprint, recipe.training_section())
        folder, bundle = artifacts / "runs" / name, artifacts / "bundles" / name
        return cls(name, recipe.name, snapshot.path, folder, bundle)

    def prepare(self, recipe_path: Path, recipe: Recipe) -> None:
        """Make its folder, which holds the recipe as it was, and the code that it names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe_path, self.folder / "recipe.yaml")
        keep_code(self.folder, recipe)

    @property
    def name(self) -> str:
        """Return the name of its job."""
        return job_name(self.recipe, self.fingerprint)

    def request(self, pointer: Path, gang: Gang, *, fresh: bool = False) -> Request:
        """Return what has it run, by whoever reads it: with what leads to its bundle at the end."""
        paths = {"snapshot": self.snapshot, "bundle": self.bundle, "pointer": pointer}
        told = {name: str(path) for name, path in paths.items()}
        about = {"name": self.name, "recipe": self.recipe, "run": self.fingerprint}
        return Request(**about, **told, nodes=gang.nodes, processes=gang.processes, fresh=fresh)

    def is_done(self, *, fresh: bool = False) -> bool:
        """Return whether its bundle is published; with `fresh`, forget a bundle that is."""
        if fresh:
            shutil.rmtree(self.bundle, ignore_errors=True)
        return is_published(self.bundle)

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


def train(  # noqa: PLR0913 - what is trained, where, and what becomes of it
    recipe_path: Path,
    snapshot: Snapshot,
    artifacts: Path,
    *,
    root: Path | None = None,
    fresh: bool = False,
    link: str | None = "",
    gang: Gang | None = None,
) -> Trained:
    """Fit the recipe's model on `snapshot` and publish it under `artifacts/bundles`.

    An interrupted run resumes from its last checkpoint; a finished one is not run again,
    unless `fresh` asks for both to be done anew. By default there is one node, with as many
    processes as the recipe says.

    Args:
        recipe_path: the recipe.
        snapshot: what to train on.
        artifacts: the project's folder.
        root: the project, where the recipe names code of its own.
        fresh: start over.
        link: what the name of the link that leads to the bundle has after the recipe's: nothing
            for the one that is served; None for no link, of a rehearsal of a past day.
        gang: nodes, and processes on each.

    Raises:
        InterruptedRun: it was asked to stop, and a checkpoint was saved.
        FeastrainError: a rank failed; the message is its own.
    """
    recipe = load_recipe(recipe_path, root)
    run = Run.of(recipe, snapshot, artifacts)
    pointer = artifacts / "bundles" / recipe.name
    request = run.request(pointer, gang or Gang.of(recipe.training), fresh=fresh)
    cached = run.is_done(fresh=fresh)
    if cached:
        open_manifest(run.bundle)
    else:
        run.prepare(recipe_path, recipe)
        with alone_in(run.folder), noting_the_end(run.folder):
            request.note(run.folder)
            run_request(request, run.folder)
    if link is not None:
        point(pointer.with_name(pointer.name + link), run.bundle)
    return Trained(run.bundle, cached)
