"""What Feast asks for, said as joins: pure, no data is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME

from feastrain.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from feast import FeatureView


@dataclass(frozen=True)
class ViewJoin:
    """One feature view, to be joined as of each entity row."""

    view: str
    source: Any
    """Feast's data source."""
    keys: dict[str, str]
    """Columns of the entity frame, by the source's column that each is matched with."""
    event_timestamp: str
    created_timestamp: str | None
    ttl: timedelta | None
    """How old an event may be; None for any age."""
    features: dict[str, str]
    """Columns of the source, by the name that each has in the result."""

    @property
    def key_and_time_columns(self) -> list[str]:
        """Columns of the source that the search reads."""
        created = [self.created_timestamp] if self.created_timestamp else []
        return [*self.keys, self.event_timestamp, *created]


def plan_joins(
    feature_views: Iterable[FeatureView], references: list[str], *, full_names: bool
) -> list[ViewJoin]:
    """Return one join for each view that a reference `view:feature` names.

    Args:
        feature_views: the views, with their projections.
        references: what is asked for; those of on-demand views are passed over.
        full_names: whether a feature is called `view__feature`.

    Raises:
        UsageError: two features would have one name, or a view has no batch source.
        DataError: the source of a view lacks a join key.
    """
    joins = []
    taken: dict[str, str] = {}
    for view in feature_views:
        name = view.projection.name_to_use()
        wanted = [r.split(":", 1)[1] for r in dict.fromkeys(references) if r.split(":")[0] == name]
        if not wanted:
            continue
        join = _join(view, wanted, full_names=full_names)
        for feature in join.features:
            if feature in taken:
                message = (
                    f"views {taken[feature]!r} and {name!r} both have a feature {feature!r}; "
                    "ask for one of them, or for full_feature_names"
                )
                raise UsageError(message)
            taken[feature] = name
        joins.append(join)
    return joins


def require_keys(view: Any) -> None:
    """Stop where a view has an entity and no column to find it by.

    `feast apply` takes a source without the join key for that of a view without an entity, and
    every store answers any entity's row for all of them.

    Raises:
        DataError: names the view and what it lacks.
    """
    entities = [name for name in getattr(view, "entities", ()) if name != DUMMY_ENTITY_NAME]
    keys = [field.name for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    if len(keys) < len(entities):
        message = (
            f"view {view.name!r} is of {', '.join(map(repr, entities))}, and its source had "
            f"{', '.join(map(repr, keys)) or 'none'} of their join keys when it was applied: every "
            "entity would be answered the same row; correct the source or the entity, apply again"
        )
        raise DataError(message)


def _join(view: FeatureView, wanted: list[str], *, full_names: bool) -> ViewJoin:
    source, projection = view.batch_source, view.projection
    if source is None:
        message = f"view {view.name!r} has no batch source, so it has no history to read"
        raise UsageError(message)
    require_keys(view)
    stored = {new: old for old, new in (source.field_mapping or {}).items()}
    prefix = f"{projection.name_alias or view.name}__" if full_names else ""
    return ViewJoin(
        view=projection.name_to_use(),
        source=source,
        keys={
            stored.get(key.name, key.name): projection.join_key_map.get(key.name, key.name)
            for key in view.entity_columns
            if key.name != DUMMY_ENTITY_ID
        },
        event_timestamp=stored.get(source.timestamp_field, source.timestamp_field),
        created_timestamp=stored.get(
            source.created_timestamp_column, source.created_timestamp_column
        )
        or None,
        ttl=view.ttl or None,
        features={f"{prefix}{feature}": stored.get(feature, feature) for feature in wanted},
    )
