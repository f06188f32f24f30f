"""The stage that turns a snapshot into a bundle: on this machine, under torchrun."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from feastrain.artifacts import fingerprint, is_published, open_manifest, point
from feastrain.jobs.backends import run_here
from feastrain.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.dataset.snapshot import Snapshot


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
    name = fingerprint(snapshot.fingerprint, recipe.training_section())
    final = artifacts / "bundles" / name
    run = artifacts / "runs" / name
    if fresh:
        shutil.rmtree(final, ignore_errors=True)
    cached = is_published(final)
    if cached:
        open_manifest(final)
    else:
        run.mkdir(parents=True, exist_ok=True)
        kept = run / "recipe.yaml"
        shutil.copyfile(recipe_path, kept)
        arguments = [
            *("--recipe", str(kept), "--snapshot", str(snapshot.path)),
            *("--folder", str(run), "--bundle", str(final)),
        ]
        run_here(arguments, run, recipe.training, fresh=fresh)
    if not rehearsal:
        point(artifacts / "bundles" / recipe.name, final)
    return Trained(final, cached)
