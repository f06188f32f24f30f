"""The statistical alarm: a feature that tells the label better than anything known should.

A feature alone is fitted to the label, on every other cut-off, in two ways: one curve for all
series, and one line for each series. So is the label's own known history: its last value and
its value a season ago. A feature whose error on the cut-offs left out is less than a tenth of
the best of these is suspicious. It may be a good feature; a person has to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from feastrain.dataset.join import Joined

    Floats = NDArray[np.float64]

IMPLAUSIBLE = 0.1
"""Of the history's error: what is below is suspicious."""
ROWS = 6_000
LEAST = 50
"""Rows that a judgement needs."""
TRIM = 0.9
"""The share of errors, smallest first, that is averaged."""
KNOTS = 200
PER_SERIES = 4
"""Rows of a series that a line through them needs."""


@dataclass(frozen=True)
class Alarm:
    """A suspicious feature: its mean error on the label of a step, and the history's."""

    feature: str
    step: int
    error: float
    history_error: float
    rows: int


@dataclass(frozen=True)
class _Sample:
    """Rows of some series, all their cut-offs. N rows, H steps."""

    rows: pa.Table
    series_N: NDArray[np.int64]
    fit_N: NDArray[np.bool_]
    label_NH: Floats
    history_NHK: Floats
    """The label's last value, and its value a season before the target."""


def raise_alarms(joined: Joined, seed: int) -> dict[str, Alarm]:
    """Return the suspicious features by reference, each at the step where it is most so."""
    sample = _sample(joined, seed)
    alarms: dict[str, Alarm] = {}
    for step in range(joined.recipe.horizon):
        history = _history_errors(sample, step)
        for reference, values in _features(joined, sample, step + 1):
            alarm = _judge(reference, values, sample, step, history)
            if alarm and (
                reference not in alarms
                or alarm.error / alarm.history_error
                < alarms[reference].error / alarms[reference].history_error
            ):
                alarms[reference] = alarm
    return alarms


def out_of_sample_errors(
    values_N: Floats, label_N: Floats, series_N: NDArray[np.int64], fit_N: NDArray[np.bool_]
) -> list[Floats]:
    """Return the absolute errors of one curve for all and of a line a series; NaN where unknown.

    Errors are of every row; those of `fit_N` are what was fitted to.
    """
    usable_N = np.isfinite(values_N) & np.isfinite(label_N)
    fitted_N = usable_N & fit_N
    if not fitted_N.any():
        return []
    return [
        np.abs(_curve(values_N, label_N, fitted_N) - label_N),
        np.abs(_lines(values_N, label_N, series_N, fitted_N) - label_N),
    ]


def _judge(
    reference: str, values_N: Floats, sample: _Sample, step: int, history: list[Floats]
) -> Alarm | None:
    label_N = sample.label_NH[:, step]
    held_out_N = ~sample.fit_N & np.isfinite(values_N) & np.isfinite(label_N)
    if held_out_N.sum() < LEAST:
        return None
    errors = out_of_sample_errors(values_N, label_N, sample.series_N, sample.fit_N)
    own = min((_mean(error[held_out_N]) for error in errors), default=np.inf)
    best = min((_mean(error[held_out_N]) for error in history), default=np.inf)
    if np.isfinite(best) and own < IMPLAUSIBLE * best:
        return Alarm(reference, step + 1, own, best, int(held_out_N.sum()))
    return None


def _history_errors(sample: _Sample, step: int) -> list[Floats]:
    label_N = sample.label_NH[:, step]
    errors = []
    for values_N in sample.history_NHK[:, step].T:
        errors.append(np.abs(values_N - label_N))
        errors += out_of_sample_errors(values_N, label_N, sample.series_N, sample.fit_N)
    return errors


def _mean(errors: Floats) -> float:
    """Return the mean of the smaller errors; infinite where too few are known."""
    known = np.sort(errors[np.isfinite(errors)])
    return float(known[: int(np.ceil(len(known) * TRIM))].mean()) if len(known) >= LEAST else np.inf


def _curve(values_N: Floats, label_N: Floats, fitted_N: NDArray[np.bool_]) -> Floats:
    """Predict by the line through the means of equal groups, in the order of the values."""
    order = np.argsort(values_N[fitted_N], kind="stable")
    x, y = values_N[fitted_N][order], label_N[fitted_N][order]
    starts = np.unique(np.searchsorted(x, x[np.linspace(0, len(x) - 1, KNOTS).astype(int)]))
    sizes = np.diff([*starts, len(x)])
    knots_x, knots_y = np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes
    return np.asarray(np.interp(values_N, knots_x, knots_y), dtype=np.float64)


def _lines(
    values_N: Floats, label_N: Floats, series_N: NDArray[np.int64], fitted_N: NDArray[np.bool_]
) -> Floats:
    """Predict by a straight line for each series; NaN where a series has too few rows."""
    size = int(series_N.max()) + 1
    s, x, y = series_N[fitted_N], values_N[fitted_N], label_N[fitted_N]
    count_S = np.bincount(s, minlength=size).astype(np.float64)
    count_S[count_S < PER_SERIES] = np.nan
    mean_x_S = np.bincount(s, x, size) / count_S
    mean_y_S = np.bincount(s, y, size) / count_S
    x, y = x - mean_x_S[s], y - mean_y_S[s]
    spread_S = np.bincount(s, x * x, size)
    shared_S = np.bincount(s, x * y, size)
    slope_S = np.divide(shared_S, spread_S, out=np.zeros(size), where=spread_S > 0)
    line_N = mean_y_S[series_N] + slope_S[series_N] * (values_N - mean_x_S[series_N])
    return np.asarray(line_N, dtype=np.float64)


def _sample(joined: Joined, seed: int) -> _Sample:
    """Draw whole series, until there are enough rows."""
    series_N, period_N = joined.panel.positions_of(joined.rows)
    sizes = np.bincount(series_N)
    order = np.random.default_rng(seed).permutation(len(sizes))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), ROWS)) + 1
    chosen = np.flatnonzero(np.isin(series_N, order[:enough]))
    rows = joined.rows.take(pa.array(chosen))
    series_N, period_N = series_N[chosen], period_N[chosen]
    steps = np.arange(1, joined.recipe.horizon + 1)
    label_NH = np.column_stack([_numbers(rows[f"label_{step}"]) for step in steps])
    season = joined.recipe.season
    last_NH = np.repeat(period_N[:, None], len(steps), axis=1)
    back_H = season * -(-steps // season)
    past_NH = period_N[:, None] + (steps - back_H)[None, :]
    history_NHK = np.stack(
        [_labels_at(joined, series_N, at_NH) for at_NH in (last_NH, past_NH)], axis=2
    )
    return _Sample(rows, series_N, period_N % 2 == 0, label_NH, history_NHK)


def _labels_at(joined: Joined, series_N: NDArray[np.int64], at_NH: NDArray[np.int64]) -> Floats:
    values = joined.panel.label_SP[series_N[:, None], np.maximum(at_NH, 0)]
    return np.where(at_NH >= 0, values, np.nan)


def _features(joined: Joined, sample: _Sample, step: int) -> Iterator[tuple[str, Floats]]:
    service = joined.service
    for reference in (*service.row_features, *service.unused_features):
        yield reference, _numbers(sample.rows[reference.partition(":")[2]])
    if service.known_features:
        keys = [*service.columns.known_keys, "event_timestamp"]
        known = joined.known.filter(pc.equal(joined.known["step"], step))
        at = known.select(keys).append_column("at", pa.array(np.arange(len(known))))
        rows = sample.rows.select(keys).append_column("row", pa.array(np.arange(len(sample.rows))))
        order = rows.join(at, keys=keys).sort_by("row")["at"]
        for reference in service.known_features:
            yield reference, _numbers(known[reference.partition(":")[2]].take(order))


def _numbers(values: pa.ChunkedArray) -> Floats:
    """Return values as numbers, texts by their order, anything else and null as NaN."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        ranks = pc.rank(values, sort_keys="ascending", tiebreaker="dense")
        values = pc.if_else(pc.is_valid(values), ranks, None)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return np.full(len(values), np.nan)
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(numbers), numbers, np.nan)
