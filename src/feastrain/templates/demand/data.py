"""The raw tables of the demand project, from Kaggle's CSV files or made up.

Kaggle's "Walmart Recruiting - Store Sales Forecasting" comes as `train.csv`, `stores.csv`
and `features.csv`. They are read as they are found: any line ending, `NA` for what is
missing, negative sales (returns), series that start late, stop early or skip weeks. Nothing
is repaired: what cannot be read is refused, with the line it stands on.
"""

from __future__ import annotations

import csv
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# The project's own modules, found beside this one.
from raw_tables import DATE, EXTERNALS, SALES, STORES, RawTables, close_of_week
from twin import synthesize

from feastrain.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Rows = list[list[str]]
FIRST_LINE = 2  # line 1 is the header
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def prepare(source: Path | None, destination: Path, seed: int = 0) -> dict[str, object]:
    """Write `sales`, `stores` and `externals` as Parquet files into `destination`.

    Args:
        source: folder with Kaggle's three files; None makes the synthetic twin.
        destination: an existing folder.
        seed: what the twin is drawn from.

    Returns:
        Where the tables come from and how large they are.

    Raises:
        UsageError: `source` is no folder.
        DataError: a file is missing or refused.
    """
    tables = synthesize(seed) if source is None else read_kaggle(source)
    for name, table in tables._asdict().items():
        pq.write_table(table, destination / f"{name}.parquet", compression="zstd")
    dates = np.asarray(tables.sales["date"])
    return {
        "source": f"synthetic twin (seed {seed})"
        if source is None
        else f"Kaggle's tables in {source}",
        "rows": len(tables.sales),
        "series": len(tables.sales.group_by(["store", "dept"]).aggregate([])),
        "weeks": int((dates.max() - dates.min()).astype(int)) // 7 + 1,
    }


def read_kaggle(source: Path) -> RawTables:
    """Read Kaggle's three files from the folder `source`.

    Raises:
        UsageError: no such folder.
        DataError: a file is missing, or holds what cannot be understood.
    """
    if not source.is_dir():
        message = f"{source}: no such folder; it should hold train.csv, stores.csv and features.csv"
        raise UsageError(message)
    sales, stores, externals = (
        CsvFile(source / name) for name in ("train.csv", "stores.csv", "features.csv")
    )
    tables = RawTables(
        sales=sales.table(
            SALES,
            {
                "store": ("Store", _whole),
                "dept": ("Dept", _whole),
                "date": ("Date", _date),
                "weekly_sales": ("Weekly_Sales", _number),
                "is_holiday": ("IsHoliday", _flag),
            },
        ),
        stores=stores.table(
            STORES,
            {"store": ("Store", _whole), "type": ("Type", _word), "size": ("Size", _whole)},
        ),
        externals=externals.table(
            EXTERNALS,
            {
                "store": ("Store", _whole),
                "date": ("Date", _date),
                "temperature": ("Temperature", _number_or_missing),
                "fuel_price": ("Fuel_Price", _number_or_missing),
                **{f"markdown_{n}": (f"MarkDown{n}", _number_or_missing) for n in range(1, 6)},
                "cpi": ("CPI", _number_or_missing),
                "unemployment": ("Unemployment", _number_or_missing),
                "is_holiday": ("IsHoliday", _flag),
            },
        ),
    )
    sales.refuse_repeats(tables.sales, ["store", "dept", "date"])
    stores.refuse_repeats(tables.stores, ["store"])
    externals.refuse_repeats(tables.externals, ["store", "date"])
    week_end = _usual_weekday(tables.sales)
    for file, table in ((sales, tables.sales), (externals, tables.externals)):
        file.refuse_strangers(table, tables.stores)
        file.refuse_other_weekdays(table, week_end)
    return RawTables(
        tables.sales.sort_by([(key, "ascending") for key in ("store", "dept", "date")]),
        tables.stores.sort_by("store"),
        tables.externals.sort_by([(key, "ascending") for key in ("store", "date")]),
    )


class CsvFile:
    """One CSV file, whose faults are told with the line they stand on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header, self.rows = self._read()

    def table(
        self, schema: pa.Schema, columns: dict[str, tuple[str, Callable[[list[str]], pa.Array]]]
    ) -> pa.Table:
        """Return the file as a table of `schema`: for each column, its header and reader.

        A table with a date also gets the time at which each row was published.
        """
        wanted = [header for header, _ in columns.values()]
        if missing := [header for header in wanted if header not in self.header]:
            self._refuse(
                f"no column {', '.join(missing)} (it has {', '.join(self.header)})",
                f"give it the columns {','.join(wanted)}",
                line=1,
            )
        texts = dict(zip(self.header, zip(*self.rows, strict=True), strict=True))
        arrays = {}
        for name, (header, read) in columns.items():
            try:
                arrays[name] = read([text.strip() for text in texts[header]])
            except BadValueError as bad:
                line = bad.row + FIRST_LINE
                self._refuse(f"{header} is {bad.text!r}, {bad.fault}", "correct it", line)
        if "date" in arrays:
            arrays["created_timestamp"] = close_of_week(arrays["date"])
        return pa.table(arrays, schema=schema)

    def refuse_repeats(self, table: pa.Table, keys: list[str]) -> None:
        """Refuse a key that stands on two lines."""
        columns = [np.asarray(table[key].cast(_plain(table[key].type))) for key in keys]
        order = np.lexsort(columns[::-1])  # stable: of equal keys, the earlier line comes first
        same = np.logical_and.reduce([c[order][1:] == c[order][:-1] for c in columns])
        if same.any():
            position = min(np.flatnonzero(same), key=lambda at: order[at + 1])
            first, second = int(order[position]), int(order[position + 1])
            key = ", ".join(f"{key} {table[key][second]}" for key in keys)
            self._refuse(
                f"{key} stands on line {first + FIRST_LINE} already",
                "keep one of the two",
                second + FIRST_LINE,
            )

    def refuse_strangers(self, table: pa.Table, stores: pa.Table) -> None:
        """Refuse a row of a store that stores.csv does not list."""
        known = pc.is_in(table["store"], value_set=stores["store"].combine_chunks())
        if (row := _first(pc.invert(known))) is not None:
            self._refuse(
                f"store {table['store'][row]} is not in stores.csv",
                "add it there or remove its rows",
                row + FIRST_LINE,
            )

    def refuse_other_weekdays(self, table: pa.Table, week_end: int) -> None:
        """Refuse a date that does not close a week on the day that the others do."""
        other = pc.not_equal(pc.day_of_week(table["date"]), week_end)
        if (row := _first(other)) is not None:
            day = table["date"][row].as_py()
            names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
            self._refuse(
                f"Date {day} is a {names[day.weekday()]}, the weeks end on {names[week_end]}s",
                "give the sales by week, each dated by its last day",
                row + FIRST_LINE,
            )

    def _read(self) -> tuple[list[str], Rows]:
        try:
            text = self.path.read_text(encoding="utf-8-sig")  # any line ending becomes \n
        except FileNotFoundError as error:
            message = f"{self.path}: no such file; the folder must hold Kaggle's three files"
            raise DataError(message) from error
        except UnicodeDecodeError as error:
            message = f"{self.path} is not UTF-8 text ({error.reason}); save it as UTF-8"
            raise DataError(message) from error
        lines = list(csv.reader(text.rstrip().split("\n")))
        if len(lines) < FIRST_LINE:
            self._refuse("the file holds no rows", "get it again from Kaggle", line=1)
        header = [name.strip() for name in lines[0]]
        for name in header:
            if header.count(name) > 1:
                self._refuse(f"column {name} stands there twice", "keep one of the two", line=1)
        for number, fields in enumerate(lines, start=1):
            if len(fields) != len(header):
                self._refuse(
                    f"{len(fields)} fields where the header has {len(header)}",
                    "correct or remove the line",
                    number,
                )
        return header, lines[1:]

    def _refuse(self, fact: str, remedy: str, line: int) -> None:
        message = f"{self.path} line {line}: {fact}; {remedy}"
        raise DataError(message)


class BadValueError(Exception):
    """A text that its column cannot hold: the row, the text, what is wrong with it."""

    def __init__(self, row: int, text: str, fault: str) -> None:
        super().__init__(row, text, fault)
        self.row, self.text, self.fault = row, text, fault


def _whole(texts: list[str]) -> pa.Array:
    return _matching(texts, r"^\d{1,15}$", "not a whole number").cast(pa.int64())


def _word(texts: list[str]) -> pa.Array:
    return _matching(texts, r"^\S", "nothing at all")


def _number(texts: list[str]) -> pa.Array:
    return _finite(_matching(texts, NUMBER, "not a finite number"), texts)


def _number_or_missing(texts: list[str]) -> pa.Array:
    given = [None if text in {"NA", ""} else text for text in texts]
    return _finite(_matching(given, NUMBER, "neither a finite number nor NA"), texts)


def _flag(texts: list[str]) -> pa.Array:
    flags = _matching(texts, r"^(?i)(true|false)$", "neither TRUE nor FALSE")
    return pc.equal(pc.utf8_upper(flags), "TRUE")


def _date(texts: list[str]) -> pa.Array:
    days: dict[str, date] = {}
    for row, text in enumerate(texts):
        if text not in days:
            if (day := _day(text)) is None:
                raise BadValueError(row, text, "not a date like 2012-09-07")
            days[text] = day
    return pa.array([days[text] for text in texts], DATE)


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if day.isoformat() == text else None  # it reads 20120907 and 2012-W36-5 too


def _matching(texts: list[str] | list[str | None], pattern: str, fault: str) -> pa.Array:
    array = pa.array(texts, pa.string())
    if (row := _first(pc.invert(pc.match_substring_regex(array, pattern)))) is not None:
        raise BadValueError(row, array[row].as_py(), fault)
    return array


def _finite(array: pa.Array, texts: list[str]) -> pa.Array:
    numbers = array.cast(pa.float64())
    if (row := _first(pc.invert(pc.is_finite(numbers)))) is not None:
        fault = "not a finite number"
        raise BadValueError(row, texts[row], fault)
    return numbers


def _first(mask: pa.Array | pa.ChunkedArray) -> int | None:
    row: int = pc.index(mask, value=True).as_py()
    return None if row < 0 else row


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if pa.types.is_date(kind) else kind


def _usual_weekday(sales: pa.Table) -> int:
    counts = np.bincount(np.asarray(pc.day_of_week(sales["date"])), minlength=7)
    return int(counts.argmax())
