"""A seasonal baseline of every series as of every week, and what it has missed lately.

Runs after `features.sql`, on the same tables, and makes `features.seasonal_baseline`. The rule is
the same: a row may use only what is known at its event timestamp. Shapes: S series, D
departments, N stores, W weeks, H steps; `now` is the week of the row.

The baseline is last year's week, times growth. Last year's week is read from a smoothed copy of
the department: of the patterns that its stores have in common (its singular vectors, as the winner
of Kaggle's Walmart competition did) the strong ones are kept and the weak ones, which are mostly
the noise of one store in one week, are shrunk. Growth is the last weeks over the same weeks a year
ago, of the series and, where that says little, of its department and store.
"""

from datetime import date, timedelta

import duckdb
import numpy as np
import pyarrow as pa

HORIZON = 8
YEAR = 52  # weeks: the holidays of a retailer's year then fall on the same week
NOISE = 10  # of a pattern w / (w + NOISE x the median of all but the strongest w) is kept
GROWTH_WEEKS = (6, 13, 26)
RECENT_WEEKS = (1, 2, 4, 8)


def make(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `features.seasonal_baseline` from `raw.sales`."""
    panel = Panel(connection)
    rows = pa.concat_tables(panel.rows(now) for now in range(len(panel.weeks)))
    connection.register("baseline_rows", rows)
    connection.execute("""
        CREATE TABLE features.seasonal_baseline AS
        SELECT * EXCLUDE (week), close_of(week) AS event_timestamp,
            event_timestamp AS created_timestamp
        FROM baseline_rows
        ORDER BY store, dept, event_timestamp
    """)
    connection.unregister("baseline_rows")


class Panel:
    """Sales by series and week, and when each was published."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, horizon: int = HORIZON) -> None:
        self.horizon = horizon
        sales = connection.execute("""
            SELECT store, dept, date AS week, weekly_sales,
                greatest(created_timestamp, close_of(date)) AS published
            FROM raw.sales ORDER BY store, dept, week
        """).fetchnumpy()
        self.keys_S2, series = np.unique(
            np.stack([sales["store"], sales["dept"]], axis=1), axis=0, return_inverse=True
        )
        day = np.asarray(sales["week"]).astype("datetime64[D]")
        week = ((day - day.min()) // np.timedelta64(7, "D")).astype(int)
        first: date = day.min().item()
        self.weeks = [first + timedelta(weeks=number) for number in range(week.max() + 1)]
        self.ahead = [first + timedelta(weeks=n) for n in range(len(self.weeks) + horizon)]
        at = (series.ravel(), week)
        shape = (len(self.keys_S2), len(self.weeks))
        self.sales_SW = np.full(shape, np.nan)
        self.sales_SW[at] = np.asarray(sales["weekly_sales"], dtype=float)
        self.published_SW = np.full(shape, np.datetime64("NaT", "us"))
        self.published_SW[at] = np.asarray(sales["published"]).astype("datetime64[us]")
        self.fixed = {  # holidays that fall on the same week whatever the date
            week
            for (week,) in connection.execute(
                "SELECT week FROM named_weeks WHERE holiday NOT IN ('', 'christmas')"
            ).fetchall()
        }

    def rows(self, now: int) -> pa.Table:
        """Return the rows of one week: of every series that has begun."""
        known = Known(self, now)
        columns = {"store": known.keys_S2[:, 0], "dept": known.keys_S2[:, 1], **known.features()}
        columns["week"] = np.full(len(known.keys_S2), self.weeks[now], dtype="datetime64[D]")
        arrays = {name: pa.array(of, from_pandas=True) for name, of in sorted(columns.items())}
        return pa.table(arrays)


class Known:
    """What is known at the close of week `now`: series that have begun, sales published by then."""

    def __init__(self, panel: Panel, now: int) -> None:
        self.panel, self.now = panel, now
        close = np.datetime64(panel.weeks[now], "us") + np.timedelta64(86_399, "s")
        published_SW = panel.published_SW[:, : now + 1] <= close
        sales_SW = np.where(published_SW, panel.sales_SW[:, : now + 1], np.nan)
        begun_S = np.isfinite(sales_SW).any(axis=1)
        self.sales_SW, self.keys_S2 = sales_SW[begun_S], panel.keys_S2[begun_S]
        stores, self.store_S = np.unique(self.keys_S2[:, 0], return_inverse=True)
        depts, self.dept_S = np.unique(self.keys_S2[:, 1], return_inverse=True)
        self.groups = ((self.dept_S, len(depts)), (self.store_S, len(stores)))

    def features(self) -> dict[str, np.ndarray]:
        """Return every feature, [S]."""
        recent_S = self._recent_mean()
        steps = range(1, self.panel.horizon + 1)
        if self.now < YEAR:  # no week of last year is known: the baseline is the recent level
            nothing_S = np.full(len(recent_S), np.nan)
            names = [f"baseline_growth_{weeks}" for weeks in GROWTH_WEEKS]
            for weeks in RECENT_WEEKS:
                names += [f"missed_{weeks}", f"missed_dept_{weeks}", f"missed_store_{weeks}"]
            return (
                {f"baseline_{step}": recent_S for step in steps}
                | {f"smooth_last_year_{step}": nothing_S for step in steps}
                | dict.fromkeys(names, nothing_S)
            )
        smooth_SW = self._smoothed()
        growths = {weeks: self._growth(weeks) for weeks in GROWTH_WEEKS}
        short_S, long_S = growths[13], growths[26]
        growth_S = (short_S + long_S + np.sqrt(long_S)) / 3
        found = {}
        for step in steps:
            last_year_S = self._last_year(smooth_SW, step)
            baseline_S = last_year_S * growth_S
            found[f"smooth_last_year_{step}"] = last_year_S
            found[f"baseline_{step}"] = np.where(np.isfinite(baseline_S), baseline_S, recent_S)
        found |= {f"baseline_growth_{weeks}": growth for weeks, growth in growths.items()}
        for weeks in RECENT_WEEKS:
            found |= self._missed(smooth_SW, short_S, weeks)
        return found

    def _smoothed(self) -> np.ndarray:
        """Return [S, W]: each department's stores, with their weak patterns shrunk."""
        # Department by store; a store without the department, and a week without sales, is 0.
        cube_DNW = np.zeros((*(size for _, size in self.groups), self.now + 1))
        cube_DNW[self.dept_S, self.store_S] = np.nan_to_num(self.sales_SW)
        mean_DN1 = cube_DNW.mean(axis=2, keepdims=True)
        centred_DNW = cube_DNW - mean_DN1
        # The patterns of stores are the eigenvectors of their products.
        strength_DN, vector_DNN = np.linalg.eigh(centred_DNW @ centred_DNW.transpose(0, 2, 1))
        strength_DN = np.maximum(strength_DN, 0)
        weak_D1 = np.zeros((len(cube_DNW), 1))
        for dept, count in enumerate(np.bincount(self.dept_S)):
            if count > 1:
                weak_D1[dept] = np.median(strength_DN[dept, -count:-1])
        kept_DN = strength_DN / np.maximum(strength_DN + NOISE * weak_D1, 1e-9)
        projected_DNW = kept_DN[:, :, None] * (vector_DNN.transpose(0, 2, 1) @ centred_DNW)
        smooth_DNW = vector_DNN @ projected_DNW + mean_DN1
        smooth_SW: np.ndarray = smooth_DNW[self.dept_S, self.store_S]
        return smooth_SW

    def _last_year(self, smooth_SW: np.ndarray, step: int) -> np.ndarray:
        """Return [S]: the week a year before the one `step` ahead, moved to where holidays are."""
        now, days = self.now, self.panel.ahead
        before = now + step - YEAR
        while before > now:
            before -= YEAR
        day, day_before = days[now + step], days[before]
        value_S = smooth_SW[:, before]
        seen_S = np.isfinite(self.sales_SW[:, before])
        if before_easter(day) != before_easter(day_before):
            if before_easter(day):
                near = [w for w in range(before - 5, before + 6) if 0 <= w <= now]
                weeks = [w for w in near if before_easter(days[w])]
            else:
                weeks = [w for w in (before - 1, before + 1) if 0 <= w <= now]
            if weeks:
                value_S = smooth_SW[:, weeks].mean(axis=1)
        elif before and not self._is_fixed(day, day_before, days[before - 1]):
            # This week has earlier dates than last year's: as many days belong to the week before.
            share = days_earlier(day, day_before) / 7
            value_S = (1 - share) * value_S + share * smooth_SW[:, before - 1]
        return np.where(seen_S, value_S, np.nan)

    def _is_fixed(self, *weeks: date) -> bool:
        return any(week in self.panel.fixed or before_easter(week) for week in weeks)

    def _growth(self, weeks: int) -> np.ndarray:
        """Return [S]: the last weeks over the same a year ago, between a half and the double.

        A series counts as if its department and store had sold its usual week 13 times beside it.
        """
        span = np.arange(max(self.now - weeks + 1, YEAR), self.now + 1)
        after_SR, before_SR = self.sales_SW[:, span], self.sales_SW[:, span - YEAR]
        both_SR = np.isfinite(after_SR) & np.isfinite(before_SR)
        after_S = np.where(both_SR, after_SR, 0).sum(axis=1)
        before_S = np.where(both_SR, before_SR, 0).sum(axis=1)
        told_S = (after_S > 0) & (before_S > 0)
        after_S, before_S = np.where(told_S, after_S, 0), np.where(told_S, before_S, 0)
        total = before_S.sum()
        growth = after_S.sum() / total if total else 1.0
        parts = [
            pooled(after_S, group_S, size, growth * 0.1 * total / size)
            / np.maximum(pooled(before_S, group_S, size, 0.1 * total / size), 1e-9)
            for group_S, size in self.groups
        ]
        prior_S = parts[0] * parts[1] / growth
        usual_S = 13 * before_S / np.maximum(both_SR.sum(axis=1), 1)
        pooled_S = (after_S + prior_S * usual_S) / np.maximum(before_S + usual_S, 1e-9)
        growth_S: np.ndarray = np.clip(np.where(before_S > 0, pooled_S, prior_S), 0.5, 2.0)
        return growth_S

    def _missed(
        self, smooth_SW: np.ndarray, growth_S: np.ndarray, weeks: int
    ) -> dict[str, np.ndarray]:
        """Return what the last weeks sold beyond last year's times growth.

        Of the series in dollars a week; of its department and its store as a factor.
        """
        span = np.arange(max(self.now - weeks + 1, YEAR), self.now + 1)
        sold_SR = self.sales_SW[:, span]
        seen_SR = np.isfinite(sold_SR) & np.isfinite(self.sales_SW[:, span - YEAR])
        sold_S = np.where(seen_SR, sold_SR, 0).sum(axis=1)
        expected_S = np.where(seen_SR, smooth_SW[:, span - YEAR], 0).sum(axis=1) * growth_S
        factors = [
            pooled(sold_S, group_S, size, 0) / np.maximum(pooled(expected_S, group_S, size, 0), 1.0)
            for group_S, size in self.groups
        ]
        return {
            f"missed_{weeks}": (sold_S - expected_S) / weeks,
            f"missed_dept_{weeks}": np.clip(factors[0], 0.3, 3.0),
            f"missed_store_{weeks}": np.clip(factors[1], 0.3, 3.0),
        }

    def _recent_mean(self) -> np.ndarray:
        """Return [S]: the mean of the last 8 weeks that have sales, else the last that had."""
        seen_SW = np.isfinite(self.sales_SW)
        last_S = np.where(seen_SW, np.arange(self.now + 1), 0).max(axis=1)
        recent_SR = self.sales_SW[:, max(0, self.now - 7) :]
        count_S = np.isfinite(recent_SR).sum(axis=1)
        mean_S = np.nansum(recent_SR, axis=1) / np.maximum(count_S, 1)
        newest_S: np.ndarray = self.sales_SW[np.arange(len(last_S)), last_S]
        return np.where(count_S > 0, mean_S, newest_S)


def pooled(value_S: np.ndarray, group_S: np.ndarray, size: int, more: float) -> np.ndarray:
    """Return [S]: the sum over the group of each series, and `more`."""
    summed_S: np.ndarray = (np.bincount(group_S, value_S, size) + more)[group_S]
    return summed_S


def days_earlier(day: date, before: date) -> int:
    """Return how many days earlier in its year the one date is than the other, a year before."""
    now, then = (
        date(2001, each.month, min(each.day, 28 if each.month == 2 else 31))
        for each in (day, before)
    )
    return (then.toordinal() - now.toordinal() + 182) % 365 - 182


def before_easter(week: date) -> bool:
    """Tell whether the week that ends on this day leads up to Easter Sunday.

    It is then that people shop. By Gauss's rule, good for 1900 to 2099.
    """
    golden = week.year % 19
    moon = (19 * golden + 24) % 30
    sunday = (2 * (week.year % 4) + 4 * (week.year % 7) + 6 * moon + 5) % 7
    early = sunday == 6 and (moon == 29 or (moon == 28 and golden > 10))
    easter = date(week.year, 3, 22) + timedelta(days=moon + sunday - 7 * early)
    return timedelta(0) < easter - week <= timedelta(days=7)
