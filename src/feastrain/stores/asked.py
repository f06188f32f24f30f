"""Features that are asked for together: which of them a store holds, what computes the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from feast.types import from_feast_to_pyarrow_type

from feastrain.stores.asof.on_demand import OnDemand
from feastrain.stores.feature_repo import online_store_of, told_in_one_line, view_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from feast import FeatureStore
    from numpy.typing import NDArray

    from feastrain.stores.fallback.stored import ColumnsReader


class Asked:
    """Some features, the views that hold them or their inputs, and what computes the rest.

    What is computed on demand is computed as the offline join does it, by the same code, so that
    a model is served what it was trained on.
    """

    def __init__(self, store: FeatureStore, references: Sequence[str]) -> None:
        """Look up the views of `references` (`view:feature`)."""
        views = {name: view_of(store, name) for name in by_view(references)}
        computed = [view for view in views.values() if is_on_demand(view)]
        self.references = tuple(references)
        self._on_demand = OnDemand(computed, list(references), full_names=False)
        self._inputs = {
            name: list(dict.fromkeys(_inputs_of(view)))
            for view in computed
            for name in by_view(references)[view.name]
        }
        self._views = [view.name for view in computed]
        held = [ref for ref in references if not is_on_demand(views[ref.split(":", 1)[0]])]
        needed = [ref for inputs in self._inputs.values() for ref in inputs]
        self.held = tuple(dict.fromkeys([*held, *needed]))
        """References of what a store holds: what was asked for, and the inputs of the rest."""
        self.views = {name: view_of(store, name) for name in by_view(self.held)}
        """The views that hold it."""
        self.types = {
            field.name: from_feast_to_pyarrow_type(field.dtype)
            for view in (*self.views.values(), *computed)
            for field in view.features
        }
        """Arrow types, by feature."""

    def reader(self, store: FeatureStore) -> ColumnsReader | None:
        """Return what reads all that is held by column, where the online store can."""
        online = online_store_of(store)
        if online is None:
            return None
        wanted = by_view(self.held)
        return online.reader(store.config, [(self.views[name], wanted[name]) for name in wanted])

    def holds(self, reference: str) -> list[str]:
        """Return what a feature is read from: itself, or its inputs."""
        return self._inputs.get(reference.split(":", 1)[1], [reference])

    def whole(
        self, entities: pa.Table, held: dict[str, pa.Array], found: Collection[NDArray[np.bool_]]
    ) -> pa.Table:
        """Return the entities and the features asked for.

        Args:
            entities: [N] join keys and `event_timestamp`, which a transform sees too.
            held: [N] of each feature that a store holds, by name.
            found: [N] whether there was a row, of each of these. For an entity without any nothing
                is computed, so that no transform fails on what somebody made up.

        Raises:
            FeastrainError: a transform fails.
        """
        keys = dict(zip(entities.column_names, entities.columns, strict=True))
        if not self._inputs:
            return pa.table({**keys, **held})
        known = np.any([*found], axis=0)
        computed = self._computed(pa.table({**keys, **held}), entities.column_names, known)
        values = {**held, **computed}
        names = [reference.split(":", 1)[1] for reference in self.references]
        return pa.table({**keys, **{name: values[name] for name in names}})

    def _computed(
        self, table: pa.Table, keys: list[str], known: NDArray[np.bool_]
    ) -> dict[str, pa.ChunkedArray]:
        if not known.any():
            return {name: pa.nulls(len(table), self.types[name]) for name in self._inputs}
        with told_in_one_line(f"{', '.join(self._views)} cannot be computed"):
            rows = self._on_demand.append_to(table.filter(pa.array(known)), keys)
        place = pa.array(np.cumsum(known) - 1, mask=~known)
        columns = {name: rows[name].take(place) for name in self._inputs}
        return {  # a transform of nothing but None tells no type
            name: column.cast(self.types[name]) if pa.types.is_null(column.type) else column
            for name, column in columns.items()
        }


def by_view(references: Collection[str]) -> dict[str, list[str]]:
    """Return the names of features by view."""
    found: dict[str, list[str]] = {}
    for reference in references:
        view, name = reference.split(":", 1)
        found.setdefault(view, []).append(name)
    return found


def is_on_demand(view: Any) -> bool:
    """Tell whether a view's values are computed when they are asked for."""
    return hasattr(view, "source_feature_view_projections")


def _inputs_of(view: Any) -> list[str]:
    return [
        f"{projection.name}:{field.name}"
        for projection in view.source_feature_view_projections.values()
        for field in projection.features
    ]
