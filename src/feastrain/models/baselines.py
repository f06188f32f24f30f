"""What a model must beat: forecasts that anyone could make from the labels alone.

Shapes: S series, P periods, N rows (series, cut-off), H steps. Both baselines use labels up
to the cut-off only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Positions = NDArray[np.int64]

RECENT = 13
"""Periods that tell the recent growth: a quarter of weeks."""


def seasonal_naive(
    label_SP: Floats, series_N: Positions, cutoff_N: Positions, horizon: int, season: int
) -> Floats:
    """Return [N, H]: the label one season before the target period.

    With `season` weeks of 52 the holidays of a retailer's year fall on the same week. Where
    that period was not observed, or lies after the cut-off, the series' last observed label
    stands in, and zero for a series without any (Hyndman & Athanasopoulos, FPP3, 5.2).
    """
    step_H = np.arange(1, horizon + 1)
    seasons_back_H = -(-step_H // season)
    position_NH = cutoff_N[:, None] + (step_H - season * seasons_back_H)[None, :]
    forecast_NH = np.where(
        position_NH >= 0, label_SP[series_N[:, None], np.maximum(position_NH, 0)], np.nan
    )
    last_N = _last_observed(label_SP)[series_N, cutoff_N]
    return np.where(np.isfinite(forecast_NH), forecast_NH, last_N[:, None])


def seasonal_naive_growth(
    label_SP: Floats, series_N: Positions, cutoff_N: Positions, horizon: int, season: int
) -> Floats:
    """Return [N, H]: the seasonal naive forecast times the series' recent growth.

    Growth is the sum of the last quarter over the same periods one season earlier, where
    both were observed, held within a half and the double; 1 where it cannot be told.
    """
    naive_NH = seasonal_naive(label_SP, series_N, cutoff_N, horizon, season)
    position_NR = cutoff_N[:, None] - np.arange(RECENT)[None, :]
    recent_NR = label_SP[series_N[:, None], np.maximum(position_NR, 0)]
    earlier_NR = label_SP[series_N[:, None], np.maximum(position_NR - season, 0)]
    both_NR = np.isfinite(recent_NR) & np.isfinite(earlier_NR) & (position_NR >= season)
    recent_N = np.where(both_NR, recent_NR, 0).sum(axis=1)
    earlier_N = np.where(both_NR, earlier_NR, 0).sum(axis=1)
    told_N = (earlier_N > 0) & (recent_N > 0)
    growth_N = np.where(told_N, recent_N / np.where(told_N, earlier_N, 1), 1.0)
    grown_NH: Floats = naive_NH * np.clip(growth_N, 0.5, 2.0)[:, None]
    return grown_NH


def _last_observed(label_SP: Floats) -> Floats:
    """Return [S, P]: the newest label at or before each period, zero before the first."""
    position_P = np.arange(label_SP.shape[1])
    seen_SP = np.maximum.accumulate(np.where(np.isfinite(label_SP), position_P, -1), axis=1)
    last_SP = np.take_along_axis(label_SP, np.maximum(seen_SP, 0), axis=1)
    filled: Floats = np.where(seen_SP >= 0, last_SP, 0.0)
    return filled
