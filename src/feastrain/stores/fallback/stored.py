"""One feature view as it is stored, and reading its rows straight to arrays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from feast.infra.online_stores.helpers import compute_table_id

from feastrain.stores.fallback.keys import EntityKeys
from feastrain.stores.fallback.layout import Layout, Rows, layout_number, scattered

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence

    from feast import FeatureView, RepoConfig

    from feastrain.stores.fallback.tiers import Tiers

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class StoredView:
    """Where the rows of a view are, how they lie, and how long they hold."""

    def __init__(self, config: RepoConfig, view: FeatureView) -> None:
        self.table = table_of(config, view)
        self.layout = Layout([(f.name, f.dtype.to_value_type().name) for f in view.features])
        self.keys = EntityKeys(view)
        self._ttl = (view.ttl or timedelta(0)) // MICROSECOND

    def rows(
        self,
        packed: Sequence[bytes | None],
        features: Sequence[str],
        at: int | None,
        layout_of: Callable[[int], Layout],
    ) -> Rows:
        """Unpack N rows; one that is None, or too old, is not found.

        Args:
            packed: [N] rows.
            features: those asked for.
            at: microseconds; rows older than the view's `ttl` then are not found.
            layout_of: gives the layout of rows that were written when the view had other features.
        """
        numbers = {None if row is None else layout_number(row) for row in packed}
        if numbers == {self.layout.number}:
            rows = self.layout.unpack(packed, features, self.layout)  # type: ignore[arg-type] # none is None
        else:
            none = self.layout.unpack([], features, self.layout)
            parts = [(np.zeros(0, dtype=np.int64), none)]
            for number in filter(None, numbers):
                chosen = [(i, r) for i, r in enumerate(packed) if r and layout_number(r) == number]
                places, some = zip(*chosen, strict=True)
                layout = self.layout if number == self.layout.number else layout_of(number)
                parts.append((np.array(places), layout.unpack(some, features, self.layout)))
            rows = scattered(parts, len(packed))
        if at is not None and self._ttl:
            rows.found[rows.event < at - self._ttl] = False
        return rows


class ColumnsReader:
    """Reads some features of some views, all in one call of the store."""

    def __init__(
        self,
        tiers: Callable[[], Tiers],
        views: Sequence[tuple[StoredView, tuple[str, ...]]],
    ) -> None:
        """Prepare to read; `tiers` gives the stores as they are connected in this process."""
        self._tiers = tiers
        self._views = views

    def read(
        self,
        entities: Mapping[str, Sequence[Any]],
        at: datetime | None = None,
        tally: Counter[str] | None = None,
    ) -> list[Rows]:
        """Read the features of N entities.

        Args:
            entities: [N] values by join key.
            at: when the values are for; those older than their view's `ttl` then are not found.
                Without it, any age will do.
            tally: told which of the stores answered how many keys; see `Tiers.read`.

        Returns:
            [N] rows for each view.

        Raises:
            UsageError: a join key is missing, or of another type.
            FeastrainError: neither store answers.
        """
        tiers = self._tiers()
        wanted = {view.table: view.keys.of(entities) for view, _ in self._views}
        packed = tiers.read(wanted, tally)
        moment = None if at is None else microseconds(at)
        return [
            view.rows(packed[view.table], features, moment, tiers.layout)
            for view, features in self._views
        ]


def table_of(config: RepoConfig, view: FeatureView) -> str:
    """Return the name of a view's table, and of its keys."""
    versions = config.registry.enable_online_feature_view_versioning
    return f"{compute_table_id(config.project, view, versions)}_packed"


def microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970; one without a zone is UTC, as Feast has it."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // MICROSECOND
