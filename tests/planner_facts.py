"""What the tests of the page's routes and of the page itself are served: small, and exact."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from fakes import CUTOFF, TIMESTAMP, FakeEventBundle, FakeSource, fake_labels
from feastrain.recipe import recipe_of
from feastrain.serving.evidence import Evidence
from feastrain.serving.forecaster import Forecaster
from feastrain.serving.history import History

LEVELS: dict[tuple[Any, ...], float] = {(1, "b"): 100.0, (1, "c"): 200.0, (2, "a"): 300.0}
ORIGINS = tuple(CUTOFF - timedelta(weeks=back) for back in (10, 6))
WEEK = timedelta(weeks=1)


def served(levels: dict[tuple[Any, ...], float]) -> tuple[Forecaster, FakeSource, History]:
    """A forecaster whose model knows holidays, its source to meddle with, and the history."""
    bundle = FakeEventBundle()
    source = FakeSource(dict(levels), bundle)
    return Forecaster(bundle, source), source, History(fake_labels(levels), ("site", "item"))


def evidence(forecaster: Forecaster, history: History, most: int = 3) -> Evidence:
    """A backtest of two cut-offs in which the model says 10 too much, and the naive one 20.

    It is of the first `most` series.
    """
    rows: list[dict[str, Any]] = []
    for key in history.keys[:most]:
        past = history.of(key)
        assert past is not None
        label = dict(zip(past.periods, past.labels, strict=True))
        for at in ORIGINS:
            for step in range(1, 5):
                happened = label[at + step * WEEK]
                assert happened is not None
                row = {"event_timestamp": at, "step": step, "label": happened}
                said = {"seasonal-naive": happened + 20, "mlp": happened + 10}
                fan = {"mlp@0.1": happened, "mlp@0.5": happened + 10, "mlp@0.9": happened + 20}
                rows.append(dict(zip(history.entities, key, strict=True)) | row | said | fan)
    table = pa.Table.from_pylist(rows)
    place = table.column_names.index("event_timestamp")
    table = table.set_column(place, "event_timestamp", table["event_timestamp"].cast(TIMESTAMP))
    scores = {"wape": 0.095, "bias": -0.012, "coverage": 0.81, "rows": len(rows)}
    entry = {"system": "mlp", "improvement": 0.369, "scores": scores}
    recipe = recipe_of(forecaster.bundle.lineage)
    return Evidence("b7b7b7b7b7b7b7b7", recipe, "mlp", (0.1, 0.5, 0.9), entry, table)


def many_levels(sites: int, items: int) -> dict[tuple[Any, ...], float]:
    """Levels of many series, no two alike."""
    sizes = np.linspace(50, 5000, sites * items).tolist()
    keys = [(site, f"i{item:02d}") for site in range(1, sites + 1) for item in range(items)]
    return dict(zip(keys, sizes, strict=True))
