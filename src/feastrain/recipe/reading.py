"""A recipe from its file, from a bundle, or with other values; a fault is one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from feastrain.errors import LeakageError, RecipeError
from feastrain.recipe.whole import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class _UniqueKeys(yaml.SafeLoader):
    """Reads plain values alone, and no key twice, of which other readers take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - theirs
        found = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in found:
                    raise yaml.MarkedYAMLError(
                        problem=f"key {key.value!r} is there twice", problem_mark=key.start_mark
                    )
                found.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load_recipe(path: Path, root: Path | None = None) -> Recipe:
    """Read a recipe, or say in one line what is wrong with it and where.

    Args:
        path: the recipe.
        root: the project, whose files `model.network` names; without it they are not read.

    Raises:
        RecipeError: no such file, not YAML, an unknown key, a wrong or contradictory value.
        LeakageError: the label is given a role among the features.
    """
    try:
        content = _UniqueKeys(path.read_text()).get_single_data()
    except FileNotFoundError as error:
        message = f"{path}: no such recipe; `feastrain init` makes a project with some"
        raise RecipeError(message) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
        raise RecipeError(message) from error
    if not isinstance(content, dict):
        message = f"{path}: a recipe is a mapping of keys to values; see the reference for its keys"
        raise RecipeError(message)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        message = f"{path}: {_first_fault(error)}"
        raise RecipeError(message) from error
    named = {*recipe.features.roles, *recipe.features.stepped, *recipe.features.label_units}
    if recipe.label.column in named:
        message = (
            f"{path}: the label {recipe.label.column!r} is listed among the features; "
            "a model would read the answer: remove it there"
        )
        raise LeakageError(message)
    if root is None or not recipe.code:
        return recipe
    return recipe.with_code({file: _source(root / file) for file in recipe.code})


def _source(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        message = f"{path}: no such file; the recipe's model.network names it"
        raise RecipeError(message) from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read as Python: {error}; the recipe's model.network names it"
        raise RecipeError(message) from error


def place_of(content: dict[str, Any], key: str) -> tuple[Any, Any]:
    """Return the section that a dotted key lies in, and its name there; `members.0` is the first.

    Sections that are not there are made.
    """
    section: Any = content
    *parents, last = key.split(".")
    for part in parents:
        section = section[int(part)] if isinstance(section, list) else section.setdefault(part, {})
    return section, int(last) if isinstance(section, list) else last


def _there(content: dict[str, Any], key: str) -> tuple[Any, Any]:
    """Return the place of a key of `model` or `training`.

    Raises:
        RecipeError: there is none.
    """
    section = last = None
    try:
        section, last = place_of(content, key)
        section[last]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        section = None
    if section is None or not key.startswith(("model.", "training.")):
        message = f"tune.{key}: the recipe has no such key of model or training"
        raise RecipeError(message)
    return section, last


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other values of some keys of `model` and `training`.

    Raises:
        RecipeError: it has no such key, or the value is none of it.
    """
    content = recipe.model_dump(mode="json")
    for key, value in values.items():
        section, last = _there(content, key)
        section[last] = value
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        message = f"tune: {_first_fault(error)}"
        raise RecipeError(message) from error


def recipe_of(lineage: dict[str, Any]) -> Recipe:
    """Read the recipe that a bundle's lineage holds.

    Raises:
        RecipeError: another release of feastrain wrote it, with keys that this one does not have.
    """
    try:
        return Recipe.model_validate(lineage["recipe"])
    except ValidationError as error:
        message = (
            f"the bundle was trained by feastrain {lineage.get('feastrain', 'unknown')}, whose "
            f"recipe this release cannot read: {_first_fault(error)}; train it again"
        )
        raise RecipeError(message) from error


def _first_fault(error: ValidationError) -> str:
    faults = error.errors()
    fault = faults[0]
    where = ".".join(str(part) for part in fault["loc"]) or "recipe"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}: remove it or correct its spelling{more}"
    if fault["type"] == "missing":
        return f"key {where!r} is missing{more}"
    told = " ".join(fault["msg"].removeprefix("Value error, ").split())  # it may quote a value
    return f"{where}: {told}{more}"
