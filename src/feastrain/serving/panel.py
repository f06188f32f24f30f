"""The history of all series as one compact answer: a JSON header, then two plain matrices.

The bytes, little-endian throughout::

    4 bytes   length of the header (uint32); the header is padded with blanks to a multiple of 4
    header    JSON: entities, series, periods, events, label, frequency, season, horizon
    S x P x 4 labels (float32), series after series, NaN where none was observed
    S x P     what made the period special (uint8): 0 for nothing, else 1 + a position in `events`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow.compute as pc

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from feastrain.recipe import Recipe
    from feastrain.serving.history import History

SPECIAL = "special"
"""What a period is called that weighs more than others and has no name."""
MOST_EVENTS = 255


@dataclass(frozen=True)
class LabelPanel:
    """The labels of every series on one grid of periods. S series in the history's order."""

    periods: tuple[datetime, ...]
    label_SP: NDArray[np.float32]
    event_SP: NDArray[np.uint8]
    events: tuple[str, ...]

    def a_season_before(self, ends: list[datetime], season: int) -> NDArray[np.float64]:
        """Return [S, H] the labels `season` periods before each of `ends`, NaN where none was.

        A season of one period is none: there is nothing a season before.
        """
        position = {end: place for place, end in enumerate(self.periods)}
        step = self.periods[1] - self.periods[0] if len(self.periods) > 1 < season else None
        before_SH = np.full((len(self.label_SP), len(ends)), np.nan)
        for column, end in enumerate(ends):
            place = None if step is None else position.get(end - season * step)
            if place is not None:
                before_SH[:, column] = self.label_SP[:, place]
        return before_SH


def label_panel(history: History, recipe: Recipe) -> LabelPanel:
    """Lay the labels of a history out by series and period."""
    labels = history.labels
    if not len(labels):
        nothing = np.zeros((0, 0))
        return LabelPanel((), nothing.astype(np.float32), nothing.astype(np.uint8), ())
    closes = labels["event_timestamp"].to_numpy().astype("datetime64[us]")
    step = np.timedelta64(recipe.frequency, "us")
    column = ((closes - closes.min()) // step).astype(np.int64)
    row = np.repeat(np.arange(len(history.keys)), history.counts())
    shape = (len(history.keys), int(column.max()) + 1)
    label_SP = np.full(shape, np.nan, dtype=np.float32)
    label_SP[row, column] = labels["label"].to_numpy().astype(np.float32)
    events, code = _events(labels)
    event_SP = np.zeros(shape, dtype=np.uint8)
    event_SP[row, column] = code
    first = cast("datetime", pc.min(labels["event_timestamp"]).as_py())
    periods = tuple(first + place * recipe.frequency for place in range(shape[1]))
    return LabelPanel(periods, label_SP, event_SP, events)


def encode(panel: LabelPanel, history: History, recipe: Recipe) -> bytes:
    """Return the answer's bytes."""
    header = {
        "entities": list(history.entities),
        "series": [list(key) for key in history.keys],
        "periods": [recipe.period_name(end) for end in panel.periods],
        "events": list(panel.events),
        "label": recipe.label.column,
        "frequency": recipe.model_dump(mode="json")["frequency"],
        "season": recipe.season,
        "horizon": recipe.horizon,
    }
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 4)
    size = len(told).to_bytes(4, "little")
    return b"".join([size, told, panel.label_SP.astype("<f4").tobytes(), panel.event_SP.tobytes()])


def _events(labels: Any) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Return the names of events, and the code of each row; the 255 most frequent have a name."""
    name_M = labels["event"].fill_null("").to_numpy(zero_copy_only=False).astype(str)
    weight_M = labels["weight"].to_numpy().astype(np.float64)
    heavy = weight_M > np.nanmin(weight_M, initial=np.inf)
    name_M = np.where((name_M == "") & heavy, SPECIAL, name_M)
    names, code_M, count = np.unique(name_M, return_inverse=True, return_counts=True)
    kept = [place for place in np.argsort(-count, kind="stable") if names[place]][:MOST_EVENTS]
    number = np.zeros(len(names), dtype=np.uint8)
    number[kept] = np.arange(1, len(kept) + 1)
    return tuple(str(names[place]) for place in kept), number[code_M]
