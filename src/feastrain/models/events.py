"""The events of target periods, as they are known ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from feastrain.models.ahead import ahead_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.recipe import FeatureColumns


def events_ahead(
    rows: pa.Table, known: pa.Table, columns: FeatureColumns, event: str | None
) -> NDArray[np.str_]:
    """Return [N, H]: the name of what makes each target period special, "" where nothing does.

    Args:
        rows: with the keys and the cut-off of each of N rows.
        known: known-ahead features, H rows in step order for each cut-off.
        columns: the columns by role.
        event: the known-ahead feature that names events; without it there are none.
    """
    if event is None or event not in columns.known_ahead:
        return np.full((len(rows), columns.horizon), "")
    ahead = ahead_of(known, columns)
    return ahead.events(event)[ahead.groups(rows)]


def special_ahead(
    rows: pa.Table, known: pa.Table, columns: FeatureColumns, event: str | None
) -> NDArray[np.bool_]:
    """Return [N, H]: whether something makes the target period special; see `events_ahead`."""
    return np.not_equal(events_ahead(rows, known, columns, event), "")
