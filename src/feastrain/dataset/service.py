"""The feature service as the recipe reads it: roles, references, sources, a fingerprint."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import file_digest, fingerprint, source_digests
from feastrain.errors import ProjectError, RecipeError
from feastrain.recipe import FeatureColumns, Recipe, Role
from feastrain.stores.asof.views import require_keys
from feastrain.stores.feature_repo import view_of
from feastrain.stores.replica import files_of, local_path, views_behind

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore, FeatureView, OnDemandFeatureView


@dataclass(frozen=True)
class Service:
    """A feature service resolved against a recipe."""

    columns: FeatureColumns
    row_features: tuple[str, ...]
    """References `view:feature` read as of the cut-off, keyed by the entities."""
    known_features: tuple[str, ...]
    """References `view:feature` keyed by the target period."""
    unused_features: tuple[str, ...]
    """References `view:feature` that the snapshot holds and no model reads."""
    sources: dict[str, Path]
    """Files, folders or patterns behind the service's views and their inputs, by view."""
    elsewhere: dict[str, str]
    """What the other views read, which is no file on this machine, by view."""
    definitions: dict[str, dict[str, Any]]
    """What decides a feature's value, by view, as plain JSON values."""

    @property
    def fingerprint(self) -> str:
        """Changes when a definition that decides a feature's value changes."""
        return fingerprint(list(self.definitions.items()))

    def source_digests(self) -> dict[str, dict[str, str]]:
        """Return the SHA-256 of every file behind the service, by view.

        Raises:
            ProjectError: a view reads no file on this machine.
        """
        for view, source in self.elsewhere.items():
            message = (
                f"view {view!r} reads {source}: only Parquet files on this machine can be "
                "fingerprinted; export it to a file first"
            )
            raise ProjectError(message)
        return {view: _digests(path) for view, path in self.sources.items()}


READABLE = {"INT32", "INT64", "FLOAT", "DOUBLE", "BOOL", "STRING"}
"""Feast's types that a model reads: as numbers, or as categories."""


@dataclass(frozen=True)
class _Feature:
    name: str
    view: str
    role: Role
    keys: tuple[str, ...]
    dtype: Any
    """As Feast declares it."""

    @property
    def reference(self) -> str:
        return f"{self.view}:{self.name}"

    def about_target(self, recipe: Recipe) -> bool:
        """Whether it is about a target period: known ahead, or unused but keyed by it."""
        keyed = recipe.features.period_key in self.keys
        return self.role == "known_ahead" or (self.role == "unused" and keyed)


def resolve_service(store: FeatureStore, recipe: Recipe) -> Service:
    """Read the recipe's feature service and give every feature its role.

    Raises:
        RecipeError: a role, a stepped or a categorical column names nothing in the service,
            a feature has no role or a type that no model reads, or keys do not fit.
        ProjectError: a file behind the service does not exist.
        DataError: the source of a view lacks a join key.
    """
    views = _views(store, recipe)
    features = [
        _Feature(field.name, view.name, role, keys, field.dtype)
        for view in views
        for keys in [_join_keys(view)]
        for field in view.projection.features
        for role in [_role(field.name, view, recipe)]
    ]
    _check_names(features, recipe)
    _check_types(features)
    columns = _columns(features, recipe)
    sources, elsewhere = _sources(store, recipe)
    return Service(
        columns=columns,
        row_features=tuple(f.reference for f in features if f.role in {"static", "observed"}),
        known_features=tuple(f.reference for f in features if f.about_target(recipe)),
        unused_features=tuple(
            f.reference for f in features if f.role == "unused" and not f.about_target(recipe)
        ),
        sources=sources,
        elsewhere=elsewhere,
        definitions={view.name: _definition(view) for view in views},
    )


def _views(store: FeatureStore, recipe: Recipe) -> list[Any]:
    names = {service.name for service in store.list_feature_services()}
    if recipe.features.service not in names:
        message = (
            f"the feature repo has no feature service {recipe.features.service!r}; "
            f"it has {', '.join(sorted(names)) or 'none'}"
        )
        raise RecipeError(message)
    service = store.get_feature_service(recipe.features.service)
    return [_view(store, service.name, one) for one in service.feature_view_projections]


def _view(store: FeatureStore, service: str, projection: Any) -> Any:
    if projection.name_to_use() != projection.name or projection.join_key_map:
        message = (
            f"the service {service!r} takes view {projection.name!r} under another name or with "
            "other join keys (with_name, with_join_key_map), and features are asked for by the "
            "view's own: define a view of that name and those keys on the same source"
        )
        raise RecipeError(message)
    view = view_of(store, projection.name)
    if requests := getattr(view, "source_request_sources", None):
        message = (
            f"the on-demand view {view.name!r} needs data of a request ({', '.join(requests)}), "
            "which nobody has when forecasts are made ahead; take it out of the service "
            f"{service!r}"
        )
        raise RecipeError(message)
    return view.with_projection(projection)


def _join_keys(view: FeatureView | OnDemandFeatureView) -> tuple[str, ...]:
    return tuple(field.name for field in view.entity_columns if field.name != "__dummy_id")


def _role(feature: str, view: Any, recipe: Recipe) -> Role:
    roles = recipe.features.roles
    name = view.name
    role = roles.get(feature) or roles.get(name)
    if role is None:
        message = (
            f"feature {feature!r} of view {name!r} has no role; "
            f"add `{name}: observed` (or static, known_ahead) to features.roles"
        )
        raise RecipeError(message)
    return role


def _check_names(features: list[_Feature], recipe: Recipe) -> None:
    names = [feature.name for feature in features]
    for name in names:
        if names.count(name) > 1:
            message = f"two views of the service have a feature {name!r}; keep one of them"
            raise RecipeError(message)
    asked = recipe.features
    stepped = {column for stem in asked.stepped for column in recipe.stepped_columns(stem)}
    known = {*names, *recipe.entities, *asked.stepped, *(feature.view for feature in features)}
    groups: dict[str, set[str]] = {
        "roles": set(asked.roles),
        "stepped": stepped,
        "categorical": set(asked.categorical),
        "label_units": set(asked.label_units),
        "unit": set(asked.unit),
    }
    for key, wanted in groups.items():
        if missing := sorted(wanted - known):
            message = (
                f"features.{key} names {', '.join(map(repr, missing))}, "
                f"which the service {asked.service!r} does not have"
            )
            raise RecipeError(message)


def _check_types(features: list[_Feature]) -> None:
    for feature in features:
        kind = feature.dtype.to_value_type().name
        if feature.role != "unused" and kind not in READABLE:
            message = (
                f"feature {feature.name!r} of view {feature.view!r} is {feature.dtype}, which no "
                "model can read; give it the role unused"
            )
            raise RecipeError(message)


def _columns(features: list[_Feature], recipe: Recipe) -> FeatureColumns:
    period_key = recipe.features.period_key
    of_steps = {
        column for stem in recipe.features.stepped for column in recipe.stepped_columns(stem)
    }
    known_keys: set[str] = set()
    for feature in features:
        if feature.role == "known_ahead" and period_key not in feature.keys:
            message = (
                f"view {feature.view!r} is known ahead, so it must be keyed by the target "
                f"period: features.period_key is {period_key!r}, its keys are {feature.keys}"
            )
            raise RecipeError(message)
        if feature.about_target(recipe):
            known_keys.update(set(feature.keys) - {period_key})
        extra = set(feature.keys) - {*recipe.entities, period_key or ""}
        if extra or (period_key in feature.keys and not feature.about_target(recipe)):
            message = (
                f"view {feature.view!r} has the join keys {feature.keys}; a {feature.role} view "
                f"may be keyed by {recipe.entities} alone"
            )
            raise RecipeError(message)

    def of(role: Role) -> tuple[str, ...]:
        return tuple(f.name for f in features if f.role == role and f.name not in of_steps)

    return FeatureColumns(
        entities=recipe.entities,
        static=of("static"),
        observed=of("observed"),
        stepped=recipe.features.stepped,
        known_ahead=of("known_ahead"),
        known_keys=tuple(key for key in recipe.entities if key in known_keys),
        categorical=recipe.features.categorical,
        label_units=recipe.features.label_units,
        unit=recipe.features.unit,
        horizon=recipe.horizon,
    )


def _sources(store: FeatureStore, recipe: Recipe) -> tuple[dict[str, Path], dict[str, str]]:
    sources, elsewhere = {}, {}
    for name, view in views_behind(store, recipe.features.service).items():
        source = getattr(view, "batch_source", None)
        if source is None:
            continue
        require_keys(view)
        path = local_path(store, source)
        if path is None:
            elsewhere[name] = f"{type(source).__name__} {source.name!r}"
        elif not files_of(path):
            message = f"view {name!r} reads {path}, which does not exist; make it first"
            raise ProjectError(message)
        else:
            sources[name] = path
    return sources, elsewhere


def _digests(path: Path) -> dict[str, str]:
    if path.exists():
        return source_digests(path)
    return {file.name: file_digest(file) for file in files_of(path)}


def _definition(view: Any) -> dict[str, Any]:
    source = getattr(view, "batch_source", None)
    transformation = getattr(view, "feature_transformation", None)
    return {
        "keys": list(_join_keys(view)),
        "features": {f.name: str(f.dtype) for f in view.projection.features},
        "ttl_s": ttl.total_seconds() if (ttl := getattr(view, "ttl", None)) else None,
        "event_timestamp": getattr(source, "timestamp_field", None),
        "created_timestamp": getattr(source, "created_timestamp_column", None),
        "field_mapping": dict(getattr(source, "field_mapping", None) or {}),
        "transformation": inspect.cleandoc(getattr(transformation, "udf_string", "") or ""),
    }
