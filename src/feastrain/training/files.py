"""Files that ranks leave in a run's folder, which a launcher looks for without importing torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feastrain.artifacts import is_published, open_manifest, publishing
from feastrain.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.recipe import Recipe

CHECKPOINTS = "epoch-*.safetensors"
BOOSTERS = "*trees-*.txt"
FAILURE = "failure.txt"
"""The one line that a failing rank had to say."""
CODE = "code"
"""The folder of the project's files that the recipe's `model` names, as they were."""
USAGE = "usage.json"
"""What a run that finished needed."""


def fitted(folder: Path) -> set[Path]:
    """Return checkpoints and boosters of all models of a run, as paths in its folder.

    Those of an ensemble, and of models that are fitted again, lie in folders of their own.
    """
    kinds = CHECKPOINTS, BOOSTERS
    return {path.relative_to(folder) for kind in kinds for path in folder.rglob(kind)}


def keep_code(folder: Path, recipe: Recipe) -> None:
    """Keep what the project's files said that the recipe's `model` names, in a run's folder."""
    if not recipe.code or is_published(folder / CODE):
        return
    with publishing(folder / CODE, {}) as scratch:
        for file, source in recipe.code.items():
            path = scratch / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source or "")


def recipe_of_run(path: Path) -> Recipe:
    """Read the recipe of a run, with the code that was kept beside it.

    Raises:
        ArtifactError: the code is not what was kept.
    """
    recipe = load_recipe(path)
    if not recipe.code:
        return recipe
    open_manifest(path.parent / CODE)
    return load_recipe(path, path.parent / CODE)
