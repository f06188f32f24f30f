"""The cut-offs before the one that is forecast, for models that look back.

The online store holds a series as of one cut-off. Its rows as of the cut-offs before do not
change any more; they are joined offline when the online store is filled, and kept in files.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
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
    from datetime import datetime
    from pathlib import Path

    from feast import FeatureStore

    from feastrain.dataset.labels import Panel
    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe


class Past:
    """What was kept for a recipe, opened when it is asked for.

    A server goes on when the online store is filled anew: it then reads what was kept with that.
    """

    def __init__(self, directory: Path, recipe: str) -> None:
        self._directory, self._recipe = directory, recipe
        self._opened: tuple[Path, pa.Table, pa.Table] | None = None

    def of(self, series: pa.Table, as_of: datetime) -> tuple[pa.Table, pa.Table]:
        """Return the rows of some series (entity columns), and what was known ahead at them.

        Args:
            series: those that are wanted; one that has no rows gets none.
            as_of: the rows are of the cut-offs before it.

        Raises:
            ProjectError: nothing is kept for that cut-off.
            ArtifactError: a file is damaged.
        """
        rows, known = self._open(as_of)
        keys = series.column_names
        wanted = series.cast(pa.schema([rows.schema.field(name) for name in keys]))
        return rows.join(wanted, keys, join_type="left semi"), known

    def _open(self, as_of: datetime) -> tuple[pa.Table, pa.Table]:
        pointer = _pointer(self._directory, self._recipe, as_of)
        if not is_published(pointer):
            message = (
                f"recipe {self._recipe!r} looks back, and nothing is kept to look back on from "
                f"{as_of.isoformat()}; run `feastrain materialize {self._recipe}`"
            )
            raise ProjectError(message)
        path = pointer.resolve()
        if self._opened is None or self._opened[0] != path:
            open_manifest(path)
            rows, known = (pq.read_table(path / f"{name}.parquet") for name in ("rows", "known"))
            self._opened = path, rows, known
        return self._opened[1:]


def keep_past(
    store: FeatureStore,
    service: Service,
    recipe: Recipe,
    panel: Panel,
    directory: Path,
) -> Path:
    """Join and keep what a model of the recipe reads of the periods before the panel's last.

    As in a snapshot, a series has a row where a label follows within the horizon, so far as
    that is known yet.
    """
    names = service.columns.observed
    read = tuple(ref for ref in service.row_features if ref.split(":", 1)[1] in names)
    state = [service.fingerprint, service.source_digests(), panel.last_period.isoformat()]
    context = recipe.model.look_back
    final = directory / fingerprint(*state, list(read), context, recipe.horizon)
    if not is_published(final):
        spine = _spine(panel, recipe.horizon, context)
        observed = replace(service, row_features=read, unused_features=())
        with publishing(final, {"as_of": panel.last_period.isoformat()}) as scratch:
            write_table(scratch, "rows", retrieve_rows(store, observed, spine))
            write_table(scratch, "known", retrieve_known(store, service, spine, recipe))
    point(_pointer(directory, recipe.name, panel.last_period), final)
    return final


def _pointer(directory: Path, recipe: str, as_of: datetime) -> Path:
    return directory / f"{recipe}.{as_of.astimezone(UTC):%Y%m%dT%H%M%S}"


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
