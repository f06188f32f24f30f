"""A synthetic twin of Kaggle's tables: invented numbers with the structure of the real ones.

Weekly sales are a product: the level of the series, its trend, the season of its
department, holidays, weather and noise that remembers last week. A mask then takes weeks
away: series that start late, stop early or skip weeks. Everything is drawn from one seed.

Arrays are named by their axes: S series, W weeks, T stores, D departments.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from raw_tables import EXTERNALS, SALES, STORES, RawTables, close_of_week

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]
    Flags = NDArray[np.bool_]

FIRST_WEEK = date(2010, 2, 5)
FIRST_MARKDOWN = date(2011, 11, 11)
EXTERNAL_WEEKS = 39
"""Weeks that the externals go on after the last sales; the CPI of the last 13 is not out yet."""
UNPUBLISHED_WEEKS = 13
RETURNS = 0.003
"""Share of weeks in which more was returned than sold."""
SPARSE = 0.2
"""Share of series that may miss weeks."""


class Calendar(NamedTuple):
    """What the weeks have in common. [W] each."""

    dates: list[date]
    year: Floats
    """Years since the first week."""
    season: Floats
    """Position in the calendar year, in radians."""
    flag: Flags
    """Whether Kaggle flags the week as a holiday week."""
    lifts: dict[str, Floats]
    """Strength of each event in the week, at most about 1."""


def synthesize(
    seed: int = 0,
    stores: int = 45,
    departments: int = 81,
    series: int = 3_331,
    rows: int = 421_570,
    weeks: int = 143,
) -> RawTables:
    """Make the three raw tables; equal arguments make equal tables.

    Raises:
        ValueError: the counts contradict each other.
    """
    _check(stores, departments, series, rows, weeks)
    rng = np.random.default_rng(seed)
    calendar = _calendar(weeks + EXTERNAL_WEEKS)
    kinds, sizes_T = _stores(rng, stores)
    externals = _externals(rng, calendar, stores)
    pairs, sparse_S = _pairs(rng, sizes_T, departments, series)
    observed_SW = _observed(rng, sparse_S, weeks, rows)
    sales_SW = _sales(rng, calendar, pairs, sparse_S, sizes_T, externals)[:, :weeks]
    sales_SW = _with_returns(rng, sales_SW, observed_SW, sparse_S)
    names_D = np.sort(
        rng.choice(np.arange(1, max(99, departments) + 1), departments, replace=False)
    )
    at_S, at_W = np.nonzero(observed_SW)
    dates = pa.array(calendar.dates)
    sale_dates = dates.take(pa.array(at_W))
    sales = {
        "store": pairs[at_S, 0] + 1,
        "dept": names_D[pairs[at_S, 1]],
        "date": sale_dates,
        "weekly_sales": sales_SW[at_S, at_W],
        "is_holiday": calendar.flag[at_W],
        "created_timestamp": close_of_week(sale_dates),
    }
    external_dates = pa.concat_arrays([dates] * stores)
    columns = {
        "store": np.repeat(np.arange(stores) + 1, len(dates)),
        "date": external_dates,
        **{name: pa.array(value.ravel(), from_pandas=True) for name, value in externals.items()},
        "is_holiday": np.tile(calendar.flag, stores),
        "created_timestamp": close_of_week(external_dates),
    }
    sites = {"store": np.arange(stores) + 1, "type": kinds, "size": sizes_T}
    return RawTables(
        pa.table(sales, schema=SALES),
        pa.table(sites, schema=STORES),
        pa.table(columns, schema=EXTERNALS),
    )


def _check(stores: int, departments: int, series: int, rows: int, weeks: int) -> None:
    if min(stores, departments, weeks) < 1:
        message = "stores, departments and weeks must each be at least 1"
        raise ValueError(message)
    if not max(stores, departments) <= series <= stores * departments:
        message = (
            f"series is {series}: it must reach every store and department, so be between "
            f"{max(stores, departments)} and {stores * departments}"
        )
        raise ValueError(message)
    if not series - 1 + weeks <= rows <= series * weeks:
        message = (
            f"rows is {rows}: with one week for each series and one series for each week it must "
            f"be between {series - 1 + weeks} and {series * weeks}"
        )
        raise ValueError(message)


def _calendar(weeks: int) -> Calendar:
    dates = [FIRST_WEEK + timedelta(weeks=week) for week in range(weeks)]
    years = range(dates[0].year, dates[-1].year + 1)
    super_bowl = [_nth_weekday(year, 2, 6, 1 if year < 2022 else 2) for year in years]
    labor_day = [_nth_weekday(year, 9, 0, 1) for year in years]
    thanksgiving = [_nth_weekday(year, 11, 3, 4) for year in years]
    christmas = [date(year, 12, 25) for year in years]
    lifts = {
        "super_bowl": _share_of_week(dates, super_bowl, [1.0]),
        "labor_day": _share_of_week(dates, labor_day, [1.0]),
        "thanksgiving": _share_of_week(dates, thanksgiving, [0.4, 0.2, 0.1, 0.1, 0.1, 0.1]),
        # Shopping grows day by day until the 24th, so the peak is the week before the one
        # that holds the 25th, and some of it falls into that one when the 25th is late in it.
        "christmas": _share_of_week(
            dates, christmas, [0.0, *(0.20 * 0.92**day for day in range(28))]
        ),
        "after_christmas": _share_of_week(dates, christmas, [1.0]),
        "easter": _share_of_week(dates, [_easter(year) for year in years], [0.0, *([1 / 6] * 6)]),
    }
    flag = sum(
        _share_of_week(dates, days, [1.0])
        for days in (super_bowl, labor_day, thanksgiving, christmas)
    )
    days = np.array([day.timetuple().tm_yday for day in dates])
    return Calendar(
        dates, np.arange(weeks) / 52.18, days * (2 * np.pi / 365.25), np.asarray(flag) > 0, lifts
    )


def _share_of_week(dates: list[date], days: list[date], weights: list[float]) -> Floats:
    """Return what falls into each week of `weights`: on the day itself, the day before, ..."""
    lift = np.zeros(len(dates))
    for day in days:
        for before, weight in enumerate(weights):
            week = -((dates[0] - day + timedelta(days=before)).days // 7)
            if 0 <= week < len(dates):
                lift[week] += weight
    return lift


def _nth_weekday(year: int, month: int, weekday: int, which: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (which - 1))


def _easter(year: int) -> date:
    """Return Easter Sunday by Gauss's rule, good for 1900 to 2099."""
    golden = year % 19
    moon = (19 * golden + 24) % 30
    sunday = (2 * (year % 4) + 4 * (year % 7) + 6 * moon + 5) % 7
    late = sunday == 6 and (moon == 29 or (moon == 28 and golden > 10))
    return date(year, 3, 22) + timedelta(days=moon + sunday - 7 * late)


def _stores(rng: Generator, stores: int) -> tuple[list[str], Whole]:
    kinds = rng.permutation(np.resize(list("ABABABCABABABCA"), stores))
    typical = {"A": 180_000, "B": 105_000, "C": 40_500}
    spread = {"A": 0.2, "B": 0.3, "C": 0.03}
    sizes = [typical[kind] * np.exp(rng.normal(0, spread[kind])) for kind in kinds]
    return [str(kind) for kind in kinds], np.round(sizes).astype(np.int64)


def _externals(rng: Generator, calendar: Calendar, stores: int) -> dict[str, Floats]:
    """Return each external as [T, W], NaN where it is not published."""
    weeks, year_W = len(calendar.dates), calendar.year
    of_store = (stores, 1)
    climate_T1, swing_T1 = rng.normal(60, 9, of_store), rng.uniform(12, 24, of_store)
    season_W = -np.cos(calendar.season - 0.35)
    temperature = climate_T1 + swing_T1 * season_W + _memory(rng, (stores, weeks), 0.5, 5.0)
    fuel = 2.7 + 0.9 * np.tanh(year_W) + _memory(rng, (1, weeks), 0.95, 0.05)
    base_T1 = rng.choice([126.0, 131.0, 189.0, 211.0], of_store)
    cpi = base_T1 + rng.uniform(0, 3, of_store) + base_T1 * 0.02 * year_W
    quarter_W = np.floor(year_W * 4)
    jobless = rng.normal(8.3, 1.6, of_store) - 0.09 * quarter_W + rng.normal(0, 0.1, of_store)
    unpublished = np.arange(weeks) >= weeks - UNPUBLISHED_WEEKS
    externals = {
        "temperature": np.clip(temperature, -10, 104),
        "fuel_price": np.clip(fuel + rng.normal(0, 0.15, of_store), 2.4, 4.6),
    }
    started = np.array([day >= FIRST_MARKDOWN for day in calendar.dates])
    typical = (4_700.0, 370.0, 36.0, 1_180.0, 2_700.0)
    missing = (0.005, 0.28, 0.11, 0.145, 0.0)
    for number, (median, share) in enumerate(zip(typical, missing, strict=True), start=1):
        amount = median * np.exp(rng.normal(0, 1.1, (stores, weeks)))
        given = started & (rng.random((stores, weeks)) >= share)
        externals[f"markdown_{number}"] = np.where(given, np.minimum(amount, 150_000), np.nan)
    externals["cpi"] = np.where(unpublished, np.nan, cpi)
    externals["unemployment"] = np.where(unpublished, np.nan, np.clip(jobless, 3.5, 14.5))
    return {name: np.round(values, 3) for name, values in externals.items()}


def _pairs(rng: Generator, sizes_T: Whole, departments: int, series: int) -> tuple[Whole, Flags]:
    """Choose which store sells which department, [S, 2], and which of these are sparse."""
    stores = len(sizes_T)
    appeal_TD = np.log(sizes_T)[:, None] * 0.6 + rng.normal(0, 1.2, departments)
    appeal_TD += rng.normal(0, 0.5, appeal_TD.shape)
    diagonal = np.arange(max(stores, departments))
    always_TD = np.zeros(appeal_TD.shape, bool)
    always_TD[diagonal % stores, diagonal % departments] = True
    ranked = np.argsort(np.where(always_TD, -np.inf, -appeal_TD), axis=None, kind="stable")
    chosen = np.sort(ranked[:series])
    appeal_S = appeal_TD.ravel()[chosen]
    sparse = np.zeros(series, bool)
    sparse[np.argsort(appeal_S, kind="stable")[: round(SPARSE * series)]] = True
    return np.stack(np.divmod(chosen, departments), axis=1), sparse


def _observed(rng: Generator, sparse_S: Flags, weeks: int, rows: int) -> Flags:
    """Return which weeks have sales: exactly `rows`, at least one of each series and week.

    Weeks are taken away in order of priority: those before a late start or after an early
    stop of a sparse series first, then those that a sparse series skips, then any.
    """
    series = len(sparse_S)
    week_W = np.arange(weeks)
    begins_S1 = np.where(rng.random(series) < 0.55, rng.beta(0.8, 3.0, series), 0)[:, None]
    ends_S1 = 1 - np.where(rng.random(series) < 0.55, rng.beta(0.8, 3.0, series), 0)[:, None]
    outside_SW = (week_W < begins_S1 * weeks) | (week_W >= np.maximum(ends_S1 * weeks, 1))
    skipping_S1 = 0.9 * rng.beta(0.6, 0.6, (series, 1))
    priority_SW = rng.random((series, weeks))
    priority_SW += np.where(sparse_S[:, None], 1 + skipping_S1 + 9 * outside_SW, 0)
    kept_S = rng.integers(0, weeks, series)
    priority_SW[np.arange(series), kept_S] = -1
    priority_SW[np.flatnonzero(~sparse_S)[:1]] = -1  # one series has every week
    observed = np.ones(series * weeks, bool)
    taken = series * weeks - rows
    observed[np.argsort(-priority_SW, axis=None, kind="stable")[:taken]] = False
    return observed.reshape(series, weeks)


def _sales(
    rng: Generator,
    calendar: Calendar,
    pairs: Whole,
    sparse_S: Flags,
    sizes_T: Whole,
    externals: dict[str, Floats],
) -> Floats:
    """Return sales in dollars, all positive, [S, W]."""
    store_S, dept_S = pairs.T
    series, departments, weeks = len(pairs), int(dept_S.max()) + 1, len(calendar.dates)
    stores = len(sizes_T)
    size_T = np.log(sizes_T / np.mean(sizes_T))
    level_S = (
        9.1
        + rng.normal(0, 0.9, departments)[dept_S]
        + (0.75 * size_T + rng.normal(0, 0.25, stores))[store_S]
        + rng.normal(0, 0.3, series)
        - 2.5 * sparse_S
    )
    trend_S = (
        rng.normal(0.01, 0.04, stores)[store_S]
        + rng.normal(0.0, 0.05, departments)[dept_S]
        + rng.normal(0.0, 0.05, series)
    )
    log_SW = level_S[:, None] + trend_S[:, None] * calendar.year
    log_SW += _season(rng, calendar, departments)[dept_S]
    log_SW += _holidays(rng, calendar, store_S, dept_S)
    warmth_TW = externals["temperature"] - externals["temperature"].mean(axis=1, keepdims=True)
    log_SW += rng.normal(0, 0.04, departments)[dept_S, None] * warmth_TW[store_S] / 15
    reduced_TW = np.log1p(np.nan_to_num(externals["markdown_1"]) / 4_700)
    log_SW += rng.gamma(1.0, 0.015, departments)[dept_S, None] * reduced_TW[store_S]
    log_SW += _memory(rng, (stores, weeks), 0.6, 0.02)[store_S]
    log_SW += _memory(rng, (departments, weeks), 0.8, 0.025)[dept_S]
    noise_S = 0.055 + 0.07 * np.exp(-0.6 * (level_S - 9.1)) * rng.lognormal(0, 0.3, series)
    log_SW += _memory(rng, (series, weeks), 0.45, 1.0) * np.minimum(noise_S, 0.6)[:, None]
    log_SW += np.cumsum(rng.normal(0, 0.008, (series, weeks)), axis=1)
    sales_SW: Floats = np.exp(np.minimum(log_SW, 13.4))
    return sales_SW


def _season(rng: Generator, calendar: Calendar, departments: int) -> Floats:
    """Return the yearly season of each department, [D, W]: mostly mild, for a few strong."""
    strength_D = np.minimum(rng.lognormal(-2.5, 0.8, departments), 0.9)
    season_DW = np.zeros((departments, len(calendar.dates)))
    for harmonic in (1, 2, 3, 5):
        phase_D1 = rng.uniform(0, 2 * np.pi, (departments, 1))
        wave_DW = np.cos(harmonic * calendar.season - phase_D1)
        season_DW += (strength_D / harmonic)[:, None] * wave_DW
    return season_DW


def _holidays(rng: Generator, calendar: Calendar, store_S: Whole, dept_S: Whole) -> Floats:
    """Return the lift of each event, [S, W], which depends on the department most."""
    departments, series = int(dept_S.max()) + 1, len(dept_S)
    typical = {
        "super_bowl": 0.05,
        "labor_day": 0.03,
        "thanksgiving": 0.26,
        "christmas": 0.5,
        "after_christmas": -0.10,
        "easter": 0.06,
    }
    of_store = rng.lognormal(0, 0.1, int(store_S.max()) + 1)[store_S]
    lift_SW = np.zeros((series, len(calendar.dates)))
    for event, size in typical.items():
        of_dept = size * np.minimum(rng.gamma(0.9, 1.1, departments), 5.0)[dept_S]
        lift_S = of_dept * of_store * rng.lognormal(0, 0.15, series)
        lift_SW += lift_S[:, None] * calendar.lifts[event]
    return lift_SW


def _memory(rng: Generator, shape: tuple[int, int], memory: float, deviation: float) -> Floats:
    """Return heavy-tailed noise that remembers a share of last week, along the last axis."""
    shocks = rng.standard_t(5, shape) * np.sqrt((1 - memory**2) * 3 / 5)
    noise: Floats = np.empty(shape)
    noise[:, 0] = shocks[:, 0]
    for week in range(1, shape[1]):
        noise[:, week] = memory * noise[:, week - 1] + shocks[:, week]
    return noise * deviation


def _with_returns(rng: Generator, sales_SW: Floats, observed_SW: Flags, sparse_S: Flags) -> Floats:
    """Return sales in cents, some weeks negative: mostly in series that sell little."""
    chance_S = np.where(sparse_S, 8.0, 0.2) / np.sqrt(np.median(sales_SW, axis=1))
    order = rng.random(sales_SW.shape) ** (1 / chance_S[:, None])
    order[~observed_SW] = -1
    returned = np.argsort(-order, axis=None, kind="stable")[: round(RETURNS * observed_SW.sum())]
    amounts = np.minimum(np.exp(rng.normal(2.8, 1.4, len(returned))), 4_990) + 0.01
    result: Floats = np.maximum(sales_SW, 0.01).round(2)
    result.ravel()[returned] = -np.round(amounts, 2)
    return result
