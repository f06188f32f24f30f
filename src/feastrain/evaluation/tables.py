"""Every system's scores by step, by special periods, and by each entity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from feastrain.evaluation.metrics import Scores, score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from feastrain.evaluation.forecasts import Forecasts

BANDS = ((1, 1), (2, 4), (5, 8), (9, 39))
"""First and last step of each band; the last goes on to the end of the horizon."""
ALL, STEP, SPECIAL = "all", "step", "special"


def score_table(forecasts: Forecasts) -> pa.Table:
    """Return a row for each system and group: `by` what the rows are grouped, the `group`, scores.

    `by` is `all`, `step` (in bands), `special` (yes or no), or an entity column.
    """
    label_M, weight_M = forecasts.numbers("label"), forecasts.numbers("weight")
    groups = [
        (by, group, index) for by, name_M in _groupings(forecasts) for group, index in _each(name_M)
    ]
    rows = []
    for system, levels in forecasts.systems.items():
        point_M, quantile_MQ = forecasts.point(system), forecasts.quantile(system)
        for by, group, index in groups:
            spread = None if quantile_MQ is None else quantile_MQ[index]
            given = label_M[index], weight_M[index], point_M[index], spread, levels
            scores = score(*given)
            if scores.rows:
                rows.append({"system": system, "by": by, "group": group, **scores.to_json()})
    return pa.Table.from_pylist(rows, _schema())


def band_of(step_M: NDArray[np.int64]) -> NDArray[np.object_]:
    """Return [M] the name of each step's band: 1, 2-4, 5-8, 9-39 or what there is of it."""
    name_M = np.full(len(step_M), "", dtype=object)
    furthest = int(step_M.max(initial=1))
    for first, last in BANDS:
        end = furthest if last == BANDS[-1][1] else min(last, furthest)
        name_M[(step_M >= first) & (step_M <= max(last, end))] = (
            str(first) if first == end else f"{first}-{end}"
        )
    return name_M


def _groupings(forecasts: Forecasts) -> Iterator[tuple[str, NDArray[np.object_]]]:
    table = forecasts.table
    yield ALL, np.full(len(table), "", dtype=object)
    yield STEP, band_of(table["step"].to_numpy())
    special_M = table["special"].to_numpy(zero_copy_only=False)
    yield SPECIAL, np.where(special_M, "yes", "no").astype(object)
    for entity in forecasts.entities:
        yield entity, table[entity].cast(pa.string()).to_numpy(zero_copy_only=False)


def _each(name_M: NDArray[np.object_]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield each name and the rows that bear it, in the order in which they first appear."""
    names, first, code_M = np.unique(name_M.astype(str), return_index=True, return_inverse=True)
    order = np.argsort(code_M, kind="stable")
    index = np.split(order, np.cumsum(np.bincount(code_M))[:-1])
    for place in np.argsort(first):
        yield str(names[place]), index[place]


def _schema() -> pa.Schema:
    texts = [(name, pa.string()) for name in ("system", "by", "group")]
    numbers = [
        (name, pa.int64() if name == "rows" else pa.float64())
        for name in Scores.__dataclass_fields__
    ]
    return pa.schema([*texts, *numbers])
