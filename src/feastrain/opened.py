"""What every part of a project has: its folder, its settings and its recipes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from feast import FeatureStore

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.recipe import Recipe
    from feastrain.settings import Settings


CANDIDATE = ".candidate"
"""What the link to a bundle that is not served yet has after the recipe's name."""


class Opened(ABC):
    """A project's folder, as its parts see it."""

    def __init__(self, root: Path | str, settings: Settings | None = None) -> None:
        self.root = Path(root).resolve()
        self._given_settings = settings

    @cached_property
    def settings(self) -> Settings:
        """The settings of this machine."""
        from feastrain.settings import load_settings

        return self._given_settings or load_settings()

    @property
    def artifacts(self) -> Path:
        """The folder that every stage publishes under."""
        return self.root / self.settings.artifacts

    def recipe(self, name: str | Path) -> Recipe:
        """Read a recipe by its name (`mlp`) or its path."""
        from feastrain.recipe import load_recipe
        from feastrain.telemetry import bind

        recipe = load_recipe(self.recipe_path(name))
        bind(recipe=recipe.name)
        return recipe

    def _trainable(self, name: str | Path) -> Recipe:
        """Read a recipe with what those files of the project say that its `model` names."""
        from feastrain.recipe import load_recipe

        return load_recipe(self.recipe_path(name), self.root)

    def recipe_path(self, name: str | Path) -> Path:
        """Return the file of a recipe given by name, by path, or by path within the project."""
        by_name = self.root / "recipes" / f"{name}.yaml"
        given = Path(name)
        within = self.root / given
        return next((path for path in (by_name, given, within) if path.is_file()), given)

    @abstractmethod
    def features(self, recipe: str | Path) -> FeatureStore:
        """Make the feature tables and apply the feature repo, and open the feature store."""

    @abstractmethod
    def build(self, recipe: str | Path, as_of: datetime | None = None) -> Snapshot:
        """Publish the recipe's snapshot."""

    def bundle_pointer(self, recipe: str | Path, *, candidate: bool = False) -> Path:
        """Return the link to the recipe's bundle that is served, or to the one that may be next."""
        name = self.recipe(recipe).name
        return self.artifacts / "bundles" / (name + CANDIDATE if candidate else name)


def shown(path: Path) -> str:
    """Return a path as people say it: from where they are, if it is below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
