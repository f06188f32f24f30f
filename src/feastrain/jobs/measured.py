"""The last run of the same models, and what would have been expected of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from feastrain.artifacts import MANIFEST
from feastrain.errors import RecipeError
from feastrain.jobs.memory import TrainingRows, need_of_rank
from feastrain.jobs.sizing import Measured, work_seconds
from feastrain.recipe import load_recipe, with_values
from feastrain.training.files import USAGE
from feastrain.training.usage import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.recipe import Recipe


def last_measured(artifacts: Path, recipe: Recipe) -> Measured | None:
    """Return the newest run that fitted the kinds of models of `recipe`, or None.

    Its snapshot must still be there: what is expected of a run follows from it. A run whose
    recipe this version refuses tells nothing.

    Args:
        artifacts: the project's folder.
        recipe: what is to be trained.
    """
    kinds = [model.kind for model in recipe.members]
    found = (artifacts / "runs").glob(f"*/{USAGE}")
    for path in sorted(found, key=lambda one: one.stat().st_mtime, reverse=True):
        usage = Usage(**json.loads(path.read_text()))
        try:
            ran = load_recipe(path.with_name("recipe.yaml"))
        except RecipeError:
            continue
        manifest = artifacts / "snapshots" / usage.snapshot / MANIFEST
        if [model.kind for model in ran.members] == kinds and manifest.is_file():
            rows = TrainingRows.of(json.loads(manifest.read_text()))
            ran = with_values(ran, {"training.processes": usage.processes})
            need = need_of_rank(rows, ran)
            expected_s = work_seconds(rows, ran, need)
            return Measured(usage.peak_bytes, need.expected, usage.seconds, expected_s)
    return None
