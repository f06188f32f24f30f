"""Whether the label can be reached from the feature service, by name or through a source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.errors import LeakageError
from feastrain.stores.replica import files_of, local_path, views_behind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Reach:
    """One way to the label: the view it leads through, the column, and the fact in words."""

    view: str
    feature: str
    fact: str


def require_unreachable(root: Path, recipe: Recipe, store: FeatureStore) -> None:
    """Stop when the feature service can reach the label.

    Raises:
        LeakageError: says through which view, and what to do.
    """
    for reach in find_reaches(root, recipe, store):
        raise LeakageError(reach.fact)


def find_reaches(root: Path, recipe: Recipe, store: FeatureStore) -> list[Reach]:
    """Return every way from the recipe's feature service to its label, the most direct first.

    Looked at are the features by name, the inputs of on-demand views, renamed columns, and
    the files, tables and queries behind every view.
    """
    service = store.get_feature_service(recipe.features.service)
    views = views_behind(store, recipe.features.service)
    used = _used_fields(service, views)
    found = list(_among_features(service, recipe))
    for view in views.values():
        found += _among_inputs(view, recipe)
        found += _under_another_name(view, used[view.name], recipe)
        found += _in_source(root, recipe, store, view)
    return found


def _among_features(service: Any, recipe: Recipe) -> Iterator[Reach]:
    label = recipe.label.column
    for projection in service.feature_view_projections:
        view = projection.name_to_use()
        if any(field.name == label for field in projection.features):
            yield Reach(
                view,
                label,
                f"the label {label!r} is in the feature service {service.name!r} "
                f"(view {view!r}); remove it there",
            )


def _among_inputs(view: Any, recipe: Recipe) -> Iterator[Reach]:
    label = recipe.label.column
    projections = getattr(view, "source_feature_view_projections", None) or {}
    requests = getattr(view, "source_request_sources", None) or {}
    inputs = [(f"the view {p.name!r}", p.features) for p in projections.values()]
    inputs += [(f"the request source {r.name!r}", r.schema) for r in requests.values()]
    for what, fields in inputs:
        if any(field.name == label for field in fields):
            yield Reach(
                view.name,
                label,
                f"the on-demand view {view.name!r} reads the label {label!r} from {what}; "
                "take it out of its sources",
            )


def _used_fields(service: Any, views: dict[str, Any]) -> dict[str, set[str]]:
    """Return the fields of each view that the service or an on-demand view takes."""
    used: dict[str, set[str]] = {name: set() for name in views}
    projections = list(service.feature_view_projections)
    for view in views.values():
        projections += (getattr(view, "source_feature_view_projections", None) or {}).values()
    for projection in projections:
        used[projection.name] |= {field.name for field in projection.features}
    return used


def _under_another_name(view: Any, used: set[str], recipe: Recipe) -> Iterator[Reach]:
    mapping = getattr(getattr(view, "batch_source", None), "field_mapping", None) or {}
    renamed = mapping.get(recipe.label.column)
    if renamed in used:
        yield Reach(
            view.name,
            renamed,
            f"feature {renamed!r} of view {view.name!r} is the label {recipe.label.column!r} "
            "under another name (field_mapping); remove it there",
        )


def _in_source(root: Path, recipe: Recipe, store: FeatureStore, view: Any) -> Iterator[Reach]:
    source = getattr(view, "batch_source", None)
    if source is None:
        return
    path = local_path(store, source)
    if path is not None:
        is_label = (root / recipe.label.source).resolve() in files_of(path)
        reads = str(path) if is_label else None
    else:
        reads = _label_table(source, recipe.label.source.stem)
    if reads is not None:
        yield Reach(
            view.name,
            "",
            f"view {view.name!r} of the service reads the label source {reads}; "
            "keep labels out of the feature service",
        )


def _label_table(source: Any, table: str) -> str | None:
    """Return what a source of a database reads where that is the table named like the labels."""
    try:
        query = str(source.get_table_query_string()).strip()
    except NotImplementedError:
        return None
    name = rf"([\"`\[]?\w+[\"`\]]?\.)*[\"`\[]?{re.escape(table)}[\"`\]]?"
    if re.fullmatch(name, query):
        return repr(query)
    if re.search(rf"\b(from|join)\s+{name}(?![\w.])", query, re.IGNORECASE):
        return f"{table!r} in its query"
    return None
