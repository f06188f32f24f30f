"""The cut-offs before the one that is forecast, for models that look back.

The online store holds a series as of one cut-off. Its rows as of the cut-offs before do not
change any more; they are joined offline when the online store is filled, and kept in files.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feastrain.artifacts import fingerprint, is_published, open_manifest, point, publishing
from feastrain.dataset.labels import TIMESTAMP
from feastrain.dataset.retrieve import retrieve_known, retrieve_rows
from feastrain.dataset.snapshot import write_table
from feastrain.dataset.spine import has_label
from feastrain.errors import ProjectError

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

    from feastrain.dataset.labels import Panel
    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Past:
    """Rows as of the cut-offs before `as_of`, and what was known ahead at them."""

    rows: pa.Table
    known: pa.Table
    as_of: datetime

    @classmethod
    def open(cls, directory: Path, recipe: str) -> Past:
        """Open what was last kept for a recipe.

        Raises:
            ProjectError: there is nothing.
            ArtifactError: a file is damaged.
        """
        pointer = directory / recipe
        if not is_published(pointer):
            message = f"recipe {recipe!r} looks back, and nothing is kept to look back on; "
            message += f"run `feastrain materialize {recipe}`"
            raise ProjectError(message)
        manifest = open_manifest(pointer.resolve())
        rows, known = (pq.read_table(pointer / f"{name}.parquet") for name in ("rows", "known"))
        return cls(rows, known, datetime.fromisoformat(manifest["as_of"]))

    def of(self, series: pa.Table, as_of: datetime) -> Past:
        """Return the rows of some series (entity columns).

        Raises:
            ProjectError: what is kept is the past of another cut-off.
        """
        if as_of != self.as_of:
            message = (
                f"the online store is as of {as_of.isoformat()}, and the past that is kept as of "
                f"{self.as_of.isoformat()}; run `feastrain materialize`, then start again"
            )
            raise ProjectError(message)
        keys = series.column_names
        wanted = series.cast(pa.schema([self.rows.schema.field(name) for name in keys]))
        return Past(self.rows.join(wanted, keys, join_type="left semi"), self.known, as_of)


def keep_past(
    store: FeatureStore,
    service: Service,
    recipe: Recipe,
    panel: Panel,
    directory: Path,
) -> Path:
    """Join and keep the rows that a model of the recipe looks back on from the panel's last period.

    As in a snapshot, a series has a row where a label follows within the horizon, so far as
    that is known yet.
    """
    state = [service.fingerprint, service.source_digests(), panel.last_period.isoformat()]
    context = recipe.model.look_back
    final = directory / fingerprint(*state, list(service.row_features), context, recipe.horizon)
    if not is_published(final):
        spine = _spine(panel, recipe.horizon, context)
        with publishing(final, {"as_of": panel.last_period.isoformat()}) as scratch:
            write_table(scratch, "rows", retrieve_rows(store, service, spine))
            write_table(scratch, "known", retrieve_known(store, service, spine, recipe))
    point(directory / recipe.name, final)
    return final


def _spine(panel: Panel, horizon: int, context: int) -> pa.Table:
    """Return every (series, cut-off) of the `context` periods before the last."""
    there_SP = has_label(panel, horizon)
    there_SP[:, -horizon:] = True
    there_SP[:, -1] = False
    there_SP[:, : max(len(panel.periods) - 1 - context, 0)] = False
    series, period = np.nonzero(there_SP)
    columns = {
        name: panel.series[name].take(pa.array(series)) for name in panel.series.column_names
    }
    columns["event_timestamp"] = pa.array(panel.periods[period]).cast(TIMESTAMP)
    return pa.table(columns)
