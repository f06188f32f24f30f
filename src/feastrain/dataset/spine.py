"""The spine: one row per series and cut-off, with the labels of the periods that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from feastrain.dataset.labels import TIMESTAMP

if TYPE_CHECKING:
    from feastrain.dataset.labels import Panel
    from feastrain.dataset.split import Split


def make_spine(panel: Panel, split: Split, horizon: int) -> pa.Table:
    """Return every (series, cut-off) that has at least one label in the horizon after it.

    Series that begin late or stop early are kept; periods not observed are null labels.
    Rows are ordered by the entities, then the cut-off. Columns: entities,
    `event_timestamp`, `split`, `label_1 ... label_H`, `weight_1 ... weight_H`.
    """
    label_SPH = _ahead(panel.label_SP, horizon)
    weight_SPH = _ahead(panel.weight_SP, horizon)
    series, cutoff = np.nonzero(has_label(panel, horizon))
    parts = np.array([split.part_of(position) for position in range(len(panel.periods))])
    rows = cutoffs_of(panel, horizon)
    columns = dict(zip(rows.column_names, rows.columns, strict=True))
    columns["split"] = pa.array(parts[cutoff])
    for name, values_SPH in (("label", label_SPH), ("weight", weight_SPH)):
        rows_NH = values_SPH[series, cutoff]
        for step in range(horizon):
            columns[f"{name}_{step + 1}"] = pa.array(rows_NH[:, step], from_pandas=True)
    return pa.table(columns)


def cutoffs_of(panel: Panel, horizon: int) -> pa.Table:
    """Return every (series, cut-off) of the spine, without labels: entities, `event_timestamp`."""
    series, cutoff = np.nonzero(has_label(panel, horizon))
    columns = {
        name: panel.series[name].take(pa.array(series)) for name in panel.series.column_names
    }
    columns["event_timestamp"] = pa.array(panel.periods[cutoff]).cast(TIMESTAMP)
    return pa.table(columns)


def rows_per_series(panel: Panel, horizon: int) -> np.ndarray:
    """Return [S] how many rows each series has in the spine."""
    return np.asarray(has_label(panel, horizon).sum(axis=1))


def has_label(panel: Panel, horizon: int) -> np.ndarray:
    """Return [S, P] whether a label follows within the horizon."""
    return np.asarray(np.isfinite(_ahead(panel.label_SP, horizon)).any(axis=2))


def _ahead(values_SP: np.ndarray, horizon: int) -> np.ndarray:
    """Return [S, P, H]: for each period, the values of the `horizon` periods after it."""
    padded = np.pad(values_SP[:, 1:], ((0, 0), (0, horizon)), constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, horizon, axis=1)
