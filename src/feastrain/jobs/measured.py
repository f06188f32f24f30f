"""The last run of the same models, and what would have been expected of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from feastrain.artifacts import MANIFEST
from feastrain.errors import ArtifactError, RecipeError
from feastrain.jobs.memory import TrainingRows, need_of_rank
from feastrain.jobs.sizing import Measured, work_seconds
from feastrain.recipe import with_values
from feastrain.training.files import USAGE, recipe_of_run
from feastrain.training.usage import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.recipe import Recipe


def last_measured(artifacts: Path, recipe: Recipe) -> Measured | None:
    """Return the newest run that fitted the kinds of models of `recipe`, by the same code, or None.

    Its snapshot must still be there: what is expected of a run follows from it. Trials of `tune`,
    which keep no recipe, are passed over, and so are runs whose recipe this version refuses, or
    whose code is not what was kept.

    Args:
        artifacts: the project's folder.
        recipe: what is to be trained.
    """
    kinds = [model.kind for model in recipe.members]
    used = (artifacts / "runs").glob(f"*/{USAGE}")
    found = [path for path in used if path.with_name("recipe.yaml").is_file()]
    for path in sorted(found, key=lambda one: one.stat().st_mtime, reverse=True):
        usage = Usage(**json.loads(path.read_text()))
        try:
            ran = recipe_of_run(path.with_name("recipe.yaml"))
        except (RecipeError, ArtifactError):
            continue
        manifest = artifacts / "snapshots" / usage.snapshot / MANIFEST
        same = [model.kind for model in ran.members] == kinds and ran.code == recipe.code
        if same and manifest.is_file():
            rows = TrainingRows.of(json.loads(manifest.read_text()))
            ran = with_values(ran, {"training.processes": usage.processes})
            need = need_of_rank(rows, ran)
            expected_s = work_seconds(rows, ran, need)
            return Measured(usage.peak_bytes, need.expected, usage.seconds, expected_s)
    return None
