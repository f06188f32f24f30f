"""The raw tables of the reference application: Kaggle's files as found, or a synthetic twin."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from feastrain.errors import DataError, UsageError
from kaggle_tables import TEMPLATE

Spoil = Callable[[Path], None]

KAGGLE_FLAGS = {
    date(*map(int, day.split("-")))
    for day in (
        *("2010-02-12", "2011-02-11", "2012-02-10", "2013-02-08"),
        *("2010-09-10", "2011-09-09", "2012-09-07"),
        *("2010-11-26", "2011-11-25", "2012-11-23"),
        *("2010-12-31", "2011-12-30", "2012-12-28"),
    )
}


@pytest.fixture(scope="module")
def data() -> ModuleType:
    sys.path.insert(0, str(TEMPLATE))
    try:
        return import_module("data")
    finally:
        sys.path.remove(str(TEMPLATE))


@pytest.fixture
def tables(small_tables: Path, tmp_path: Path) -> Path:
    """A copy of the small tables, to spoil."""
    copy = tmp_path / "tables"
    shutil.copytree(small_tables, copy)
    return copy


def set_field(file: str, line: int, column: int, text: str) -> Spoil:
    """Return what writes `text` into one field; lines count from 1, columns from 0."""

    def spoil(folder: Path) -> None:
        lines = (folder / file).read_text().splitlines()
        fields = lines[line - 1].split(",")
        fields[column] = text
        lines[line - 1] = ",".join(fields)
        (folder / file).write_text("\n".join(lines) + "\n")

    return spoil


def repeat_line(file: str, line: int) -> Spoil:
    """Return what writes a line once more at the end of the file."""

    def spoil(folder: Path) -> None:
        lines = (folder / file).read_text().splitlines()
        (folder / file).write_text("\n".join([*lines, lines[line - 1]]) + "\n")

    return spoil


def write(file: str, content: bytes) -> Spoil:
    """Return what replaces a whole file."""

    def spoil(folder: Path) -> None:
        (folder / file).write_bytes(content)

    return spoil


HEADER = b"Store,Dept,Date,Weekly_Sales,IsHoliday\n"
FAULTS: dict[str, tuple[Spoil, str]] = {
    "no file": (lambda folder: (folder / "train.csv").unlink(), "train.csv: no such file"),
    "empty file": (write("train.csv", b""), "train.csv line 1: the file holds no rows"),
    "only a header": (write("train.csv", HEADER), "train.csv line 1: the file holds no rows"),
    "not text": (write("stores.csv", b"Store,Type,Size\n1,\xff,3\n"), "stores.csv is not UTF-8"),
    "column missing": (
        set_field("train.csv", 1, 3, "Sales"),
        "train.csv line 1: no column Weekly_Sales (it has Store, Dept, Date, Sales, IsHoliday)",
    ),
    "column twice": (
        set_field("train.csv", 1, 1, "Store"),
        "train.csv line 1: column Store stands there twice",
    ),
    "fields missing": (
        write("stores.csv", b"Store,Type,Size\n1,A\n"),
        "stores.csv line 2: 2 fields where the header has 3",
    ),
    "blank line": (
        write("stores.csv", b"Store,Type,Size\n\n1,A,151315\n"),
        "stores.csv line 2: 0 fields where the header has 3",
    ),
    "store is no number": (
        set_field("train.csv", 5, 0, "one"),
        "train.csv line 5: Store is 'one', not a whole number",
    ),
    "store is negative": (
        set_field("stores.csv", 2, 0, "-1"),
        "stores.csv line 2: Store is '-1', not a whole number",
    ),
    "type is empty": (set_field("stores.csv", 3, 1, ""), "stores.csv line 3: Type is ''"),
    "impossible date": (
        set_field("train.csv", 6, 2, "2010-02-30"),
        "train.csv line 6: Date is '2010-02-30', not a date like 2012-09-07",
    ),
    "American date": (
        set_field("features.csv", 4, 1, "02/19/2010"),
        "features.csv line 4: Date is '02/19/2010', not a date like 2012-09-07",
    ),
    "date by week number": (
        set_field("train.csv", 6, 2, "2010-W05-5"),
        "train.csv line 6: Date is '2010-W05-5', not a date like 2012-09-07",
    ),
    "sales are a word": (
        set_field("train.csv", 7, 3, "many"),
        "train.csv line 7: Weekly_Sales is 'many', not a finite number",
    ),
    "sales are missing": (
        set_field("train.csv", 7, 3, "NA"),
        "train.csv line 7: Weekly_Sales is 'NA', not a finite number",
    ),
    "sales are infinite": (
        set_field("train.csv", 7, 3, "inf"),
        "train.csv line 7: Weekly_Sales is 'inf', not a finite number",
    ),
    "sales overflow": (
        set_field("train.csv", 7, 3, "1e999"),
        "train.csv line 7: Weekly_Sales is '1e999', not a finite number",
    ),
    "temperature is a word": (
        set_field("features.csv", 3, 2, "cold"),
        "features.csv line 3: Temperature is 'cold', neither a finite number nor NA",
    ),
    "flag is a number": (
        set_field("train.csv", 3, 4, "1"),
        "train.csv line 3: IsHoliday is '1', neither TRUE nor FALSE",
    ),
    "week twice": (
        repeat_line("train.csv", 2),
        "train.csv line 1252: store 1, dept 11, date 2010-02-05 stands on line 2 already",
    ),
    "store twice": (
        repeat_line("stores.csv", 3),
        "stores.csv line 5: store 2 stands on line 3 already",
    ),
    "external week twice": (
        repeat_line("features.csv", 2),
        "features.csv line 449: store 1, date 2010-02-05 stands on line 2 already",
    ),
    "unknown store": (
        set_field("train.csv", 8, 0, "77"),
        "train.csv line 8: store 77 is not in stores.csv",
    ),
    "not a Friday": (
        set_field("train.csv", 2, 2, "2010-02-04"),
        "train.csv line 2: Date 2010-02-04 is a Thursday, the weeks end on Fridays",
    ),
    "externals by other weeks": (
        set_field("features.csv", 2, 1, "2010-02-06"),
        "features.csv line 2: Date 2010-02-06 is a Saturday, the weeks end on Fridays",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_in_one_line_with_its_place(
    data: ModuleType, tables: Path, tmp_path: Path, fault: str
) -> None:
    """Each fault is refused with file, line and remedy, and nothing is written."""
    spoil, expected = FAULTS[fault]
    spoil(tables)
    destination = tmp_path / "raw"
    destination.mkdir()
    with pytest.raises(DataError) as refusal:
        data.prepare(tables, destination)
    actual = str(refusal.value)
    assert actual.startswith(f"{tables}/{expected}"), actual
    assert ";" in actual, "a remedy follows the fact"
    assert "\n" not in actual
    assert [] == list(destination.iterdir())


def test_a_missing_folder_is_a_usage_error(data: ModuleType, tmp_path: Path) -> None:
    """A folder that is not there was asked for wrongly, so it ends in exit code 2."""
    with pytest.raises(UsageError, match="no such folder"):
        data.prepare(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_any_line_ending_and_a_byte_order_mark_are_read(
    data: ModuleType, tables: Path, ending: str, mark: bytes
) -> None:
    """The same content in another encoding of lines gives the same tables."""
    expected = data.read_kaggle(tables)
    for path in tables.iterdir():
        path.write_bytes(mark + ending.join(path.read_text().splitlines()).encode())
    assert expected == data.read_kaggle(tables)


def test_column_and_row_order_do_not_matter(data: ModuleType, tables: Path) -> None:
    """Columns are found by their header, extra ones left alone, rows put in order."""
    expected = data.read_kaggle(tables)
    for path in tables.iterdir():
        shuffled = pd.read_csv(path, dtype=str, keep_default_na=False)
        shuffled = shuffled.assign(Note="x").sample(frac=1, random_state=0)
        shuffled[shuffled.columns[::-1]].to_csv(path, index=False)
    assert expected == data.read_kaggle(tables)


def test_a_row_says_when_it_was_published(data: ModuleType, tables: Path) -> None:
    """A week's row is created at the last second of its last day, UTC."""
    first = data.read_kaggle(tables).sales.slice(0, 1).to_pylist()[0]
    assert date(2010, 2, 5) == first["date"]
    assert datetime(2010, 2, 5, 23, 59, 59, tzinfo=UTC) == first["created_timestamp"]


def test_kaggles_real_files_are_read(data: ModuleType, walmart: Path, tmp_path: Path) -> None:
    """The files as Kaggle gives them need no preparation."""
    expected = {
        "source": f"Kaggle's tables in {walmart}",
        "rows": 421_570,
        "series": 3_331,
        "weeks": 143,
    }
    assert expected == data.prepare(walmart, tmp_path)
    sales = pd.read_parquet(tmp_path / "sales.parquet")
    assert -4_988.94 == sales["weekly_sales"].min()
    assert 45 == len(pd.read_parquet(tmp_path / "stores.parquet"))
    assert 8_190 == len(pd.read_parquet(tmp_path / "externals.parquet"))


@pytest.fixture(scope="module")
def twin(data: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twin")
    facts = data.prepare(None, folder)
    assert {
        "source": "synthetic twin (seed 0)",
        "rows": 421_570,
        "series": 3_331,
        "weeks": 143,
    } == facts
    return folder


def test_the_twin_has_kaggles_size(twin: Path) -> None:
    """As many stores, departments, series, weeks and rows, between the same dates."""
    sales = pd.read_parquet(twin / "sales.parquet")
    assert 421_570 == len(sales)
    assert 45 == sales["store"].nunique()
    assert 81 == sales["dept"].nunique()
    assert 3_331 == len(sales[["store", "dept"]].drop_duplicates())
    assert 143 == sales["date"].nunique()
    assert (date(2010, 2, 5), date(2012, 10, 26)) == (sales["date"].min(), sales["date"].max())
    assert not sales.duplicated(["store", "dept", "date"]).any()


def test_the_twin_has_kaggles_structure(twin: Path) -> None:
    """Gaps, late starts, early stops, returns, heavy tails and the Christmas peak are there."""
    sales = pd.read_parquet(twin / "sales.parquet")
    by_series = sales.groupby(["store", "dept"])["date"].agg(["min", "max", "count"])
    span = (pd.to_datetime(by_series["max"]) - pd.to_datetime(by_series["min"])).dt.days // 7 + 1
    assert 500 < (span > by_series["count"]).sum() < 750
    assert 250 < (by_series["min"] > date(2010, 2, 5)).sum() < 700
    assert 250 < (by_series["max"] < date(2012, 10, 26)).sum() < 700
    assert 0.002 < (sales["weekly_sales"] < 0).mean() < 0.004
    assert sales["weekly_sales"].mean() > 1.5 * sales["weekly_sales"].median()
    by_week = sales.groupby("date")["weekly_sales"].sum()
    assert {date(2010, 12, 24), date(2011, 12, 23)} == set(by_week.nlargest(2).index)
    assert by_week[date(2010, 12, 31)] < by_week[date(2010, 12, 3)]
    assert by_week[date(2011, 11, 25)] > 1.15 * by_week[date(2011, 11, 18)]


def test_the_twin_can_be_forecast_better_than_by_last_year(twin: Path) -> None:
    """Seasonal naive is wrong by 10 to 20% at the end, and last week's sales are not the answer."""
    sales = pd.read_parquet(twin / "sales.parquet", columns=["store", "dept", "date"]).assign(
        sales=pd.read_parquet(twin / "sales.parquet")["weekly_sales"]
    )
    sales["date"] = pd.to_datetime(sales["date"])

    def error_of(weeks: int) -> float:
        before = sales.assign(date=sales["date"] + pd.Timedelta(weeks=weeks))
        both = sales[sales["date"] > "2012-08-31"].merge(before, on=["store", "dept", "date"])
        return float((both["sales_x"] - both["sales_y"]).abs().sum() / both["sales_x"].sum())

    assert 0.10 < error_of(52) < 0.20
    assert 0.06 < error_of(1) < 0.13


def test_the_twins_externals_are_kaggles(twin: Path) -> None:
    """Markdowns start in November 2011, CPI and unemployment end early, flags are Kaggle's."""
    externals = pd.read_parquet(twin / "externals.parquet")
    assert 8_190 == len(externals)
    assert date(2013, 7, 26) == externals["date"].max()
    for number in range(1, 6):
        given = externals.loc[externals[f"markdown_{number}"].notna(), "date"]
        assert date(2011, 11, 11) == given.min()
    for name in ("cpi", "unemployment"):
        assert date(2013, 5, 3) == externals.loc[externals[name].isna(), "date"].min()
    assert set(externals.loc[externals["is_holiday"], "date"]) == KAGGLE_FLAGS


def test_the_twins_flags_are_those_of_the_real_file(twin: Path, walmart: Path) -> None:
    """The twin's holiday weeks are the holiday weeks of Kaggle's features.csv."""
    real = pd.read_csv(walmart / "features.csv")
    externals = pd.read_parquet(twin / "externals.parquet")
    expected = set(real.loc[real["IsHoliday"], "Date"])
    actual = {str(day) for day in externals.loc[externals["is_holiday"], "date"]}
    assert expected == actual


def test_the_same_seed_makes_the_same_bytes(data: ModuleType, twin: Path, tmp_path: Path) -> None:
    """A twin made again is the same file for file; another seed makes another."""

    def digests(folder: Path) -> dict[str, str]:
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}

    again, other = tmp_path / "again", tmp_path / "other"
    for folder, seed in ((again, 0), (other, 1)):
        folder.mkdir()
        data.prepare(None, folder, seed)
    assert digests(twin) == digests(again)
    assert not set(digests(twin).values()) & set(digests(other).values())


@pytest.mark.parametrize(
    ("stores", "departments", "series", "rows", "weeks"),
    [
        (1, 1, 1, 1, 1),
        (3, 4, 12, 1_250, 110),
        (4, 3, 4, 4 - 1 + 20, 20),
        (5, 7, 30, 30 * 40, 40),
    ],
)
def test_a_small_twin_has_the_size_asked_for(
    data: ModuleType, stores: int, departments: int, series: int, rows: int, weeks: int
) -> None:
    """Counts hold exactly, down to the fewest and up to the most rows there can be."""
    tables = data.synthesize(7, stores, departments, series, rows, weeks)
    sales = tables.sales.to_pandas()
    assert rows == len(sales)
    assert stores == sales["store"].nunique() == len(tables.stores)
    assert departments == sales["dept"].nunique()
    assert series == len(sales[["store", "dept"]].drop_duplicates())
    assert weeks == sales["date"].nunique()
    assert np.isfinite(sales["weekly_sales"]).all()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"stores": 0}, "at least 1"),
        ({"series": 4_000}, "between 81 and 3645"),
        ({"series": 80}, "between 81 and 3645"),
        ({"rows": 10}, "between 3473 and 476333"),
        ({"rows": 476_334}, "between 3473 and 476333"),
    ],
)
def test_contradicting_counts_are_refused(
    data: ModuleType, counts: dict[str, int], message: str
) -> None:
    """A twin that cannot exist is refused before anything is drawn."""
    with pytest.raises(ValueError, match=message):
        data.synthesize(**counts)
