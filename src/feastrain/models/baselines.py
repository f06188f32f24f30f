"""What a model must beat: forecasts that anyone could make from the labels alone.

Shapes: S series, P periods, N rows (series, cut-off), H steps. All baselines use labels up to
the cut-off only, and of the periods ahead at most the events that are known there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Positions = NDArray[np.int64]

RECENT = 13
"""Periods that tell the recent growth: a quarter of weeks."""
AROUND = 3
"""Periods around an event that are compared with those around it a season ago."""
LEVEL_PENALTY, TREND_PENALTY, SEASON_PENALTY = 1e-6, 20.0, 0.1
CHUNK_BYTES = 200_000_000


@dataclass(frozen=True)
class Events:
    """What makes periods special, as whole numbers: 0 for nothing, else one for each name."""

    past_SP: Positions
    ahead_NH: Positions
    """Of the target periods of each row, as known at its cut-off."""


@dataclass(frozen=True)
class History:
    """What baselines read: labels by series and period, and the rows to be forecast."""

    label_SP: Floats
    """NaN where not observed; what closes after a row's cut-off is not read for it."""
    series_N: Positions
    cutoff_N: Positions
    horizon: int
    season: int
    """Periods in a season, 1 where there is none."""
    events: Events | None = None

    def at(self, position_NX: Positions) -> Floats:
        """Return [N, X]: each row's labels at positions, NaN outside of what was known."""
        known_NX = (position_NX >= 0) & (position_NX <= self.cutoff_N[:, None])
        label_NX = self.label_SP[self.series_N[:, None], np.where(known_NX, position_NX, 0)]
        return np.where(known_NX, label_NX, np.nan)


def seasonal_naive(past: History) -> Floats:
    """Return [N, H]: the label one season before the target period.

    A period at most `AROUND` periods from an event takes the one that lies as far from the same
    event a season ago, so that a holiday that moves takes its neighbours along. Where that
    period was not observed the series' last observed label stands in, and zero for a series
    without any (Hyndman & Athanasopoulos, FPP3, 5.2).
    """
    step_H = np.arange(1, past.horizon + 1)
    seasons_back_H = -(-step_H // past.season)
    same_NH = past.cutoff_N[:, None] + (step_H - past.season * seasons_back_H)[None, :]
    plain_NH = past.at(same_NH)
    forecast_NH = plain_NH
    if past.events is not None and past.season > 1:
        aligned_NH = past.at(same_NH + _moved(past, past.events, same_NH))
        forecast_NH = np.where(np.isfinite(aligned_NH), aligned_NH, plain_NH)
    last_N = _last_observed(past.label_SP)[past.series_N, past.cutoff_N]
    return np.where(np.isfinite(forecast_NH), forecast_NH, last_N[:, None])


def seasonal_naive_growth(past: History) -> Floats:
    """Return [N, H]: the seasonal naive forecast times the series' recent growth.

    Growth is the sum of the last quarter over the same periods one season earlier, where
    both were observed, held within a half and the double; 1 where it cannot be told.
    """
    position_NR = past.cutoff_N[:, None] - np.arange(RECENT)[None, :]
    recent_NR, earlier_NR = past.at(position_NR), past.at(position_NR - past.season)
    both_NR = np.isfinite(recent_NR) & np.isfinite(earlier_NR)
    recent_N = np.where(both_NR, recent_NR, 0).sum(axis=1)
    earlier_N = np.where(both_NR, earlier_NR, 0).sum(axis=1)
    return seasonal_naive(past) * _growth(recent_N, earlier_N)[:, None]


def group_season_product(past: History, group_S: Positions) -> Floats:
    """Return [N, H]: the recent level of the series times the seasonal index of its group.

    The index of a group at a period is the sum of its labels over the sum of the means of the
    series that were observed there (the ratio estimate of classical decomposition, FPP3, 3.4),
    so all series of a group share one season. A level is the mean of the last season times its
    growth: what the last quarter sold over what the index said of it a season ago. Where either
    cannot be told, the seasonal naive forecast stands in.
    """
    forecast_NH = seasonal_naive(past)
    for cutoff in np.unique(past.cutoff_N):
        row_M = np.flatnonzero(past.cutoff_N == cutoff)
        series_M = past.series_N[row_M]
        level_S, index_GP = _level_and_index(past.label_SP[:, : cutoff + 1], group_S, past.season)
        # Two seasons of empty periods in front make every look-back a place in the table.
        index_MP = np.pad(
            level_S[series_M, None] * index_GP[group_S[series_M]],
            ((0, 0), (2 * past.season, 0)),
            constant_values=np.nan,
        )
        recent_R = cutoff - np.arange(min(RECENT, cutoff + 1))
        now_MR, said_MR = (
            past.label_SP[series_M[:, None], recent_R],
            index_MP[:, recent_R + past.season],
        )
        both_MR = np.isfinite(now_MR) & np.isfinite(said_MR)
        growth_M = _growth(*(np.where(both_MR, of, 0).sum(axis=1) for of in (now_MR, said_MR)))
        step_H = np.arange(1, past.horizon + 1)
        target_H = np.maximum(cutoff + step_H + past.season * (2 + -step_H // past.season), 0)
        product_MH = growth_M[:, None] * index_MP[:, target_H]
        told_MH = np.isfinite(product_MH)
        forecast_NH[row_M] = np.where(told_MH, product_MH, forecast_NH[row_M])
    return forecast_NH


def trend_season_ridge(past: History) -> Floats:
    """Return [N, H]: a line and an effect of each period of the season, fitted to each series.

    Ridge regression in closed form, b = (X'X + L)^-1 X'y with the intercept all but free (Hoerl &
    Kennard 1970); time runs in seasons from the cut-off. A series without labels is zero. An
    effect of the season meets no other one, so all are eliminated: two unknowns a series are left.
    """
    forecast_NH = np.zeros((len(past.series_N), past.horizon))
    step_H = np.arange(past.horizon) + 1
    for cutoff in np.unique(past.cutoff_N):
        # Of a season that is longer than the past, what was not seen yet has no effect.
        width = min(past.season, cutoff + 1)
        time_P = (np.arange(cutoff + 1) - cutoff) / past.season
        place_H = (cutoff + step_H) % past.season
        row_M = np.flatnonzero(past.cutoff_N == cutoff)
        chunk = max(1, CHUNK_BYTES // (8 * 10 * len(time_P)))
        for start in range(0, len(row_M), chunk):
            row_C = row_M[start : start + chunk]
            label_CP = past.label_SP[past.series_N[row_C], : cutoff + 1]
            level_C, slope_C, effect_CK = _ridge(label_CP, time_P, width)
            effect_CH = np.where(place_H < width, effect_CK[:, place_H % width], 0.0)
            line_CH = level_C[:, None] + slope_C[:, None] * step_H / past.season
            forecast_NH[row_C] = line_CH + effect_CH
    return forecast_NH


def _moved(past: History, events: Events, same_NH: Positions) -> Positions:
    """Return [N, H]: how far the nearest event of a target lay from its place a season ago."""
    horizon, reach = past.horizon, 2 * AROUND
    code_SP = np.pad(events.past_SP, ((0, 0), (reach, reach)))
    before_NA = code_SP[past.series_N[:, None], past.cutoff_N[:, None] + reach - np.arange(AROUND)]
    ahead_NT = np.concatenate([before_NA[:, ::-1], events.ahead_NH], axis=1)
    ahead_NT = np.pad(ahead_NT, ((0, 0), (0, AROUND)))
    moved_NH = np.zeros(same_NH.shape, dtype=np.int64)
    found_NH = np.zeros(same_NH.shape, dtype=bool)
    # The nearest event first; of two at the same distance that which is past.
    for away in sorted(range(-AROUND, AROUND + 1), key=lambda away: (abs(away), away)):
        code_NH = ahead_NT[:, AROUND + away : AROUND + away + horizon]
        fresh_NH = (code_NH > 0) & ~found_NH
        place_NH = np.clip(same_NH + away + reach, reach, code_SP.shape[1] - 1 - reach)
        for shift in sorted(range(-AROUND, AROUND + 1), key=abs):
            there_NH = code_SP[past.series_N[:, None], place_NH + shift]
            known_NH = place_NH + shift - reach <= past.cutoff_N[:, None]
            hit_NH = fresh_NH & ~found_NH & known_NH & (there_NH == code_NH)
            moved_NH[hit_NH] = shift
            found_NH |= hit_NH
        found_NH |= fresh_NH
    return moved_NH


def _growth(recent_N: Floats, earlier_N: Floats) -> Floats:
    """Return [N]: one sum over the other, within a half and the double; 1 where not told."""
    growth_N = _ratio(recent_N, earlier_N, (earlier_N > 0) & (recent_N > 0), 1.0)
    return np.clip(growth_N, 0.5, 2.0)


def _level_and_index(label_SP: Floats, group_S: Positions, season: int) -> tuple[Floats, Floats]:
    """Return [S] means of the last season, and [G, P] labels over the means of their series."""
    seen_SP = np.isfinite(label_SP)
    count_S = seen_SP[:, -season:].sum(axis=1)
    total_S = np.where(seen_SP, label_SP, 0)[:, -season:].sum(axis=1)
    level_S = _ratio(total_S, count_S, count_S > 0, 0.0)
    counts_SP = seen_SP & (level_S > 0)[:, None]
    sold_GP, expected_GP = np.zeros((2, int(group_S.max()) + 1, label_SP.shape[1]))
    np.add.at(sold_GP, group_S, np.where(counts_SP, label_SP, 0))
    np.add.at(expected_GP, group_S, np.where(counts_SP, level_S[:, None], 0))
    return level_S, _ratio(sold_GP, expected_GP, expected_GP > 0, np.nan)


def _ridge(label_SP: Floats, time_P: Floats, width: int) -> tuple[Floats, Floats, Floats]:
    """Return [S] level and [S] slope, and [S, K] the effect of each place in the season."""
    seen_SP = np.isfinite(label_SP)
    told_SP = np.where(seen_SP, label_SP, 0.0)
    count_SK, time_SK, label_SK = (
        _by_place(values_SP, width) for values_SP in (seen_SP, seen_SP * time_P, told_SP)
    )
    share_SK = 1 / (count_SK + SEASON_PENALTY)
    left_SK = SEASON_PENALTY * share_SK  # of a place, once its effect is eliminated
    level_level_S = LEVEL_PENALTY + (count_SK * left_SK).sum(axis=1)
    level_slope_S = (time_SK * left_SK).sum(axis=1)
    slope_slope_S = TREND_PENALTY + seen_SP @ time_P**2 - (time_SK**2 * share_SK).sum(axis=1)
    level_label_S = (label_SK * left_SK).sum(axis=1)
    slope_label_S = told_SP @ time_P - (time_SK * label_SK * share_SK).sum(axis=1)
    determinant_S = level_level_S * slope_slope_S - level_slope_S**2
    level_S = (level_label_S * slope_slope_S - slope_label_S * level_slope_S) / determinant_S
    slope_S = (level_level_S * slope_label_S - level_slope_S * level_label_S) / determinant_S
    fitted_SK = count_SK * level_S[:, None] + time_SK * slope_S[:, None]
    return level_S, slope_S, (label_SK - fitted_SK) * share_SK


def _by_place(values_SP: NDArray[Any], width: int) -> Floats:
    """Return [S, K] sums over the periods at each of K places in the season."""
    seasons = -(-values_SP.shape[1] // width)
    padded = np.pad(values_SP, ((0, 0), (0, seasons * width - values_SP.shape[1])))
    sums: Floats = padded.reshape(len(values_SP), seasons, width).sum(axis=1, dtype=np.float64)
    return sums


def _ratio(above: Floats, below: Floats, told: NDArray[np.bool_], otherwise: float) -> Floats:
    ratio: Floats = np.where(told, above / np.where(told, below, 1), otherwise)
    return ratio


def _last_observed(label_SP: Floats) -> Floats:
    """Return [S, P]: the newest label at or before each period, zero before the first."""
    position_P = np.arange(label_SP.shape[1])
    seen_SP = np.maximum.accumulate(np.where(np.isfinite(label_SP), position_P, -1), axis=1)
    last_SP = np.take_along_axis(label_SP, np.maximum(seen_SP, 0), axis=1)
    filled: Floats = np.where(seen_SP >= 0, last_SP, 0.0)
    return filled
