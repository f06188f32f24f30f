"""On-demand transforms, applied to retrieved rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from feast import OnDemandFeatureView


class OnDemand:
    """The on-demand views that were asked for, and which of their features.

    A transform sees the columns of the entity frame and the features that its view declares as
    its inputs: what it would see online.
    """

    def __init__(
        self, views: Sequence[OnDemandFeatureView], references: list[str], *, full_names: bool
    ) -> None:
        self._full_names = full_names
        self._views = [(view, _wanted(view, references, full_names=full_names)) for view in views]

    @property
    def names(self) -> list[str]:
        """The columns that are computed."""
        return [name for _, wanted in self._views for name in wanted]

    def append_to(self, table: pa.Table, entity_columns: Sequence[str]) -> pa.Table:
        """Return the table with the features that are computed from it."""
        retrieved = table
        for view, wanted in self._views:
            inputs = set(entity_columns)
            for projection in view.source_feature_view_projections.values():
                for feature in projection.features:
                    inputs |= {feature.name, f"{projection.name_to_use()}__{feature.name}"}
            seen = retrieved.select([name for name in retrieved.column_names if name in inputs])
            computed = view.transform_arrow(seen, self._full_names)
            for name in wanted:
                table = table.append_column(name, computed[name])
        return table


def _wanted(view: OnDemandFeatureView, references: list[str], *, full_names: bool) -> list[str]:
    name = view.projection.name_to_use()
    prefix = f"{name}__" if full_names else ""
    asked = [r.split(":", 1)[1] for r in dict.fromkeys(references) if r.split(":")[0] == name]
    return [f"{prefix}{feature}" for feature in asked]
