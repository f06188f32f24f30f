"""features.sql: by calendar and not by row, known at its time, holidays by rule."""

import math
import statistics
import sys
from datetime import date, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feastrain.dataset.transform import Steps, run_transform
from feastrain.errors import DataError, FeastrainError, ProjectError
from kaggle_tables import TEMPLATE

WEEK = timedelta(weeks=1)
FIRST = date(2010, 2, 5)
Tables = dict[str, pd.DataFrame]


def close(dates: "pd.Series[Any]") -> "pd.Series[pd.Timestamp]":
    last_second = pd.to_datetime(dates).dt.tz_localize("UTC") + pd.Timedelta(days=1, seconds=-1)
    return last_second.dt.as_unit("us")


def raw_tables(weeks: "list[date]", sales: "list[float]", store: int = 1) -> Tables:
    """One department of one store with the given weeks, and externals for each of them."""
    rows = pd.DataFrame({"store": store, "dept": 1, "date": weeks, "weekly_sales": sales})
    externals = pd.DataFrame({"store": store, "date": weeks, "temperature": 50.0})
    for name in ("fuel_price", *(f"markdown_{n}" for n in range(1, 6)), "cpi", "unemployment"):
        externals[name] = 1.0
    for table in (rows, externals):
        table["is_holiday"] = False
        table["created_timestamp"] = close(table["date"])
    stores = pd.DataFrame({"store": [store], "type": ["A"], "size": [150_000]})
    return {"sales": rows, "stores": stores, "externals": externals}


def engineered(raw: Tables) -> Tables:
    """Return the feature tables that features.sql makes of raw tables."""
    with TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "raw", Path(folder) / "features"
        inputs.mkdir()
        outputs.mkdir()
        for name, table in raw.items():
            table.to_parquet(inputs / f"{name}.parquet")
        rows = run_transform(
            Steps(TEMPLATE / "features.sql", TEMPLATE / "baseline.py"), inputs, outputs
        )
        tables = {path.stem: pd.read_parquet(path) for path in outputs.iterdir()}
    assert rows == {name: len(table) for name, table in tables.items()}
    return tables


@pytest.fixture(scope="module")
def raw(small_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """The small tables of the test suite: 12 series with gaps, late starts and early stops."""
    folder = tmp_path_factory.mktemp("raw")
    sys.path.insert(0, str(TEMPLATE))
    try:
        import_module("data").prepare(small_tables, folder)
    finally:
        sys.path.remove(str(TEMPLATE))
    return {path.stem: pd.read_parquet(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def features(raw: Tables) -> Tables:
    return engineered(raw)


def test_a_gap_does_not_shift_a_lag() -> None:
    """After a missing week, lag 2 is that week, unknown, and not the row before it."""
    weeks = [FIRST, FIRST + 1 * WEEK, FIRST + 3 * WEEK]
    history = engineered(raw_tables(weeks, [10.0, 20.0, 40.0]))["sales_history"]
    assert [10.0, 20.0, None, 40.0] == _plain(history["sales_lag_1"])
    assert [None, 10.0, 20.0, None] == _plain(history["sales_lag_2"])
    assert [None, None, None, 10.0] == _plain(history["sales_lag_4"])
    assert [10.0, 15.0, 15.0, 70 / 3] == _plain(history["sales_mean_4"])


def test_a_history_goes_on_to_the_last_week_of_the_data() -> None:
    """A series that stops has rows until others stop: it may be forecast still."""
    long = raw_tables([FIRST + n * WEEK for n in range(9)], [1.0] * 9)
    short = raw_tables([FIRST, FIRST + WEEK], [1.0, 2.0], store=2)
    tables = engineered({name: pd.concat([long[name], short[name]]) for name in long})
    assert {1: 9, 2: 9} == tables["sales_history"]["store"].value_counts().to_dict()


def test_every_value_is_what_the_definition_says(raw: Tables, features: Tables) -> None:
    """Each column equals a plain computation from a dictionary of weeks, row by row."""
    history = features["sales_history"]
    of_series = dict(iter(raw["sales"].groupby(["store", "dept"])))
    for key, rows in history.groupby(["store", "dept"]):
        series = of_series[key]
        sales = dict(zip(series["date"], series["weekly_sales"], strict=True))
        assert [min(sales) + n * WEEK for n in range(len(rows))] == [
            stamp.date() for stamp in rows["event_timestamp"]
        ]
        for row in rows.to_dict("records"):
            _compare(row, _defined(sales, row["event_timestamp"].date()))


def _defined(sales: dict[date, float], week: date) -> dict[str, float | None]:
    """Return the features of one series at the close of `week`, by their definition."""

    def ago(weeks: int) -> float | None:
        return sales.get(week - weeks * WEEK)

    def window(newest: int, oldest: int) -> list[float]:
        return [s for n in range(newest, oldest + 1) if (s := ago(n)) is not None]

    def mean(values: list[float]) -> float | None:
        return statistics.fmean(values) if values else None

    def deviation(values: list[float]) -> float | None:
        return statistics.pstdev(values) if values else None

    recent, before = mean(window(0, 3)), mean(window(52, 55))
    known = recent is not None and before is not None and before > 0
    growth = min(max((recent or 0) / (before or 1) - 1, -1), 9) if known else None
    return {
        **{f"sales_lag_{n}": ago(n - 1) for n in (1, 2, 4, 8, 52)},
        **{f"sales_mean_{n}": mean(window(0, n - 1)) for n in (4, 12, 52)},
        **{f"sales_std_{n}": deviation(window(0, n - 1)) for n in (4, 12)},
        **{f"sales_last_year_{h}": ago(52 - h) for h in range(1, 9)},
        **{f"sales_around_last_year_{h}": mean(window(51 - h, 53 - h)) for h in range(1, 9)},
        "sales_growth": growth,
    }


def _compare(row: dict[Any, Any], expected: dict[str, float | None]) -> None:
    assert set(expected) == set(row) - {"store", "dept", "event_timestamp", "created_timestamp"}
    for name, value in expected.items():
        if value is None:
            assert math.isnan(row[name]), (name, row)
        else:
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-6), (name, row)


def test_growth_is_unknown_where_a_year_ago_nothing_was_sold() -> None:
    """A mean of returns a year ago gives no growth, a tiny one gives the bound."""
    weeks = [FIRST + n * WEEK for n in range(57)]
    for before, expected in ((-5.0, None), (0.0, None), (0.01, 9.0), (50.0, 1.0)):
        sales = [before] * 4 + [100.0] * 53
        history = engineered(raw_tables(weeks, sales))["sales_history"]
        assert [expected] == _plain(history["sales_growth"].iloc[[55]])


WRITTEN = {"sales_history", "labels", "store_external", "computed"}


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cutoff=st.integers(1, 108), seed=st.integers(0, 1_000_000), removed=st.floats(0, 1))
def test_what_happens_later_changes_no_earlier_row(
    raw: Tables, features: Tables, cutoff: int, seed: int, removed: float
) -> None:
    """Facts after a cut-off may change or vanish at random: rows up to it stay as they are."""
    rng = np.random.default_rng(seed)
    last_known = FIRST + cutoff * WEEK
    changed = dict(raw)
    for name, columns in (("sales", ["weekly_sales"]), ("externals", ["temperature", "cpi"])):
        table = raw[name].copy()
        later = (table["date"] > last_known).to_numpy()
        for column in columns:
            table.loc[later, column] = rng.normal(0, 1e6, later.sum())
        table.loc[later, "is_holiday"] = rng.random(later.sum()) < 0.5
        changed[name] = table[~later | (rng.random(len(table)) > removed)]
    actual = engineered(changed)
    moment = close(pd.Series([last_known]))[0]
    for name in WRITTEN:
        pd.testing.assert_frame_equal(_until(features[name], moment), _until(actual[name], moment))
    known = features["calendar"]["week"].isin(actual["calendar"]["week"])
    pd.testing.assert_frame_equal(
        features["calendar"][known].reset_index(drop=True), actual["calendar"]
    )


def _until(table: pd.DataFrame, moment: pd.Timestamp) -> pd.DataFrame:
    return table[table["event_timestamp"] <= moment].reset_index(drop=True)


def test_sales_published_late_delay_the_rows_that_use_them() -> None:
    """A row was created no earlier than the latest published of the sales behind it."""
    raw = raw_tables([FIRST + n * WEEK for n in range(70)], [1.0] * 70)
    late = pd.Timestamp("2010-03-31", tz="UTC")
    raw["sales"].loc[2, "created_timestamp"] = late
    history = engineered(raw)["sales_history"]
    created, event = history["created_timestamp"], history["event_timestamp"]
    assert (created[:2] == event[:2]).all()
    assert (created[2:8] == late).all()
    assert (created[8:] == event[8:]).all()


def test_every_table_has_both_times_in_utc_and_one_row_a_key(features: Tables) -> None:
    """Timestamps are aware and never null, nothing is created before it is known, keys differ."""
    keys = {
        "labels": ["store", "dept"],
        "sales_history": ["store", "dept"],
        "seasonal_baseline": ["store", "dept"],
        "store_external": ["store"],
        "computed": ["store"],
        "store_static": ["store"],
        "calendar": ["week"],
    }
    assert set(keys) == set(features)
    for name, table in features.items():
        for column in ("event_timestamp", "created_timestamp"):
            assert "UTC" == str(table[column].dt.tz)
            assert not table[column].isna().any()
        assert (table["created_timestamp"] >= table["event_timestamp"]).all()
        assert not table.duplicated([*keys[name], "event_timestamp"]).any()


def test_labels_weigh_five_in_holiday_weeks(raw: Tables, features: Tables) -> None:
    """Weights follow Kaggle's flag, and the flagged weeks are those that have a name."""
    labels = features["labels"]
    assert len(raw["sales"]) == len(labels)
    flagged = labels["holiday"] != ""
    assert {5.0} == set(labels.loc[flagged, "weight"])
    assert {1.0} == set(labels.loc[~flagged, "weight"])
    assert {"super_bowl", "labor_day", "thanksgiving", "christmas"} == set(
        labels.loc[flagged, "holiday"]
    )


def test_the_calendar_is_known_two_years_ahead(features: Tables) -> None:
    """It has each week from the first of the sales to 52 after the last, 104 weeks before."""
    calendar = features["calendar"]
    assert [str(FIRST + n * WEEK) for n in range(110 + 52)] == list(calendar["week"])
    known = close(calendar["week"]) - 104 * pd.Timedelta(weeks=1)
    assert list(known) == list(calendar["event_timestamp"])
    assert calendar.filter(like="weeks_to_").abs().le(26).all(axis=None)


def test_the_rule_gives_every_flag_of_the_real_file(walmart: Path) -> None:
    """The holidays by rule are Kaggle's holiday weeks, all and only, as far as its file goes."""
    real = pd.read_csv(walmart / "features.csv")
    weeks = sorted(date.fromisoformat(day) for day in real["Date"].unique())
    calendar = engineered(raw_tables(weeks, [1.0] * len(weeks)))["calendar"]
    flags = dict(zip(calendar["week"], calendar["is_holiday"], strict=True))
    expected = dict(zip(real["Date"], real["IsHoliday"], strict=True))
    assert expected == {week: flags[week] for week in expected}


@pytest.mark.parametrize(
    ("day", "holiday"),
    [
        ("2021-02-07", "super_bowl"),
        ("2022-02-13", "super_bowl"),
        ("2024-02-11", "super_bowl"),
        ("2026-02-08", "super_bowl"),
        ("2015-09-07", "labor_day"),
        ("2025-09-01", "labor_day"),
        ("2018-11-22", "thanksgiving"),
        ("2019-11-28", "thanksgiving"),
        ("2015-12-25", "christmas"),
        ("2021-12-25", "christmas"),
        ("2008-03-23", "easter"),
        ("2019-04-21", "easter"),
        ("2024-03-31", "easter"),
        ("2038-04-25", "easter"),
        ("2049-04-18", "easter"),
        ("2076-04-19", "easter"),
    ],
)
def test_a_holiday_of_any_year_is_in_its_week(day: str, holiday: str) -> None:
    """The week that holds the day is the one from which and to which weeks are counted."""
    on = date.fromisoformat(day)
    week_end = on + timedelta(days=(4 - on.weekday()) % 7)
    weeks = [week_end - 3 * WEEK, week_end + 3 * WEEK]
    calendar = engineered(raw_tables(weeks, [1.0, 1.0]))["calendar"].set_index("week")
    distances = calendar[f"weeks_to_{holiday}"]
    expected = [3, 2, 1, 0, -1, -2, -3]
    assert expected == [distances[str(week_end + n * WEEK)] for n in range(-3, 4)]
    if holiday != "easter":
        assert holiday == calendar.loc[str(week_end), "holiday"]


def test_the_statics_are_known_before_the_first_week(features: Tables) -> None:
    """A store's type and size can be read at every cut-off."""
    statics = features["store_static"]
    assert statics["event_timestamp"].max() < features["labels"]["event_timestamp"].min()


def test_the_baseline_is_last_year_grown() -> None:
    """Where each week sells a tenth more than a year ago, the baseline is last year's, grown."""
    weeks = [date(2010, 2, 5) + timedelta(weeks=number) for number in range(100)]
    rhythm = [100 + 40 * math.sin(number / 5) for number in range(52)]
    sales = [rhythm[n % 52] * 1.1 ** (n // 52) for n in range(len(weeks))]
    made = engineered(raw_tables(weeks, sales))["seasonal_baseline"]
    row = made[made["event_timestamp"] == close(pd.Series([weeks[85]])).iloc[0]].iloc[0]
    growth = (1.1 + 1.1 + math.sqrt(1.1)) / 3
    for step in range(1, 9):
        # Dates are a day earlier than in last year's week: one day belongs to the week before.
        last_year = (6 * sales[85 + step - 52] + sales[85 + step - 53]) / 7
        assert last_year == pytest.approx(row[f"smooth_last_year_{step}"])
        assert last_year * growth == pytest.approx(row[f"baseline_{step}"])
    assert [0, 1, 1] == pytest.approx(
        [row["missed_4"], row["missed_dept_4"], row["missed_store_4"]]
    )
    assert 1.1 == pytest.approx(row["baseline_growth_13"])


def test_christmas_moves_sales_between_weeks() -> None:
    """In 2011 it falls a day later in the week than in 2010, and so does a seventh of the sales."""
    weeks = [date(2010, 2, 5) + timedelta(weeks=number) for number in range(95)]
    peak = {date(2010, 12, 17): 200.0, date(2010, 12, 24): 300.0, date(2010, 12, 31): 50.0}
    sales = [peak.get(week, 100.0) for week in weeks]
    made = engineered(raw_tables(weeks, sales))["seasonal_baseline"]
    row = made[made["event_timestamp"] == close(pd.Series([date(2011, 11, 11)])).iloc[0]].iloc[0]
    expected = [(6 * 200 + 100) / 7, (6 * 300 + 200) / 7, (6 * 50 + 300) / 7, (6 * 100 + 50) / 7]
    assert expected == pytest.approx([row[f"smooth_last_year_{step}"] for step in range(5, 9)])


def test_easter_is_looked_for_where_it_was() -> None:
    """A week of Easter has the sales of last year's, and last year's Easter is in no other."""
    weeks = [date(2010, 2, 5) + timedelta(weeks=number) for number in range(64)]
    sales = [300.0 if week == date(2010, 4, 2) else 100.0 for week in weeks]
    made = engineered(raw_tables(weeks, sales))["seasonal_baseline"]
    row = made[made["event_timestamp"] == close(pd.Series([date(2011, 3, 25)])).iloc[0]].iloc[0]
    found = [row[f"smooth_last_year_{step}"] for step in range(1, 7)]
    assert [100, 100, 100, 300, 100, 100] == pytest.approx(found)


def test_the_baseline_reads_what_was_published_by_its_week(raw: Tables, features: Tables) -> None:
    """Sales that are published later, of any series, and series to come change no earlier row."""
    moment = features["seasonal_baseline"]["event_timestamp"].sort_values().iloc[-1]
    moment -= 20 * pd.Timedelta(WEEK)
    sales = raw["sales"].copy()
    late = sales.sample(frac=0.1, random_state=0).index
    new = sales[sales["dept"] == sales["dept"].iloc[0]].assign(dept=98)
    new = pd.concat([new, new.assign(store=99)])
    new = new[close(new["date"]) > moment]
    published = sales["created_timestamp"].copy()
    published.loc[late] = moment + pd.Timedelta(days=1)
    before = engineered(raw | {"sales": sales.drop(late)})["seasonal_baseline"]
    sales["created_timestamp"] = published
    sales.loc[late, "weekly_sales"] *= 3
    after = engineered(raw | {"sales": pd.concat([sales, new])})["seasonal_baseline"]
    rows = [
        table[table["event_timestamp"] <= moment].reset_index(drop=True)
        for table in (before, after)
    ]
    pd.testing.assert_frame_equal(*rows)
    assert len(rows[0]) > 300


def test_a_python_step_that_fails_is_told_in_one_line(tmp_path: Path, raw: Tables) -> None:
    """Without `make`, or where it cannot work with the data, the file is named."""
    for name, table in raw.items():
        table.to_parquet(tmp_path / f"{name}.parquet")
    step = tmp_path / "step.py"
    for text, told in {
        "def made(connection): pass": "has no function make",
        "def make(connection): connection.execute('FROM nowhere')": "step.py: CatalogException",
        "def make(connection): {}['price']": "step.py: KeyError: 'price'",
    }.items():
        step.write_text(text)
        with pytest.raises(FeastrainError, match=told):
            run_transform(Steps(TEMPLATE / "features.sql", step), tmp_path, tmp_path)


def test_sql_that_makes_no_table_is_told_in_one_line(tmp_path: Path, raw: Tables) -> None:
    """A table outside the schema `features` is none that a project can read."""
    raw["stores"].to_parquet(tmp_path / "stores.parquet")
    sql = tmp_path / "features.sql"
    sql.write_text("CREATE TABLE elsewhere AS FROM raw.stores")
    with pytest.raises(ProjectError, match=r"features\.sql makes no table in the schema `featur"):
        run_transform(Steps(sql), tmp_path, tmp_path)


def test_a_raw_table_without_a_column_is_told_in_one_line(raw: Tables) -> None:
    """DuckDB's complaint reaches the user with the file it is about."""
    broken = {**raw, "stores": raw["stores"].drop(columns="size")}
    with pytest.raises(DataError, match=r"features\.sql: .*size"):
        engineered(broken)


def _plain(values: "pd.Series[float]") -> "list[float | None]":
    return [None if math.isnan(value) else value for value in values]
