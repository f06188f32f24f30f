"""What could be forecast: the numbers of a Feast repo's tables, the likeliest first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from feastrain.adopt.reading import table_of_file
from feastrain.errors import UsageError

if TYPE_CHECKING:
    from feastrain.adopt.reading import Found, Table

NUMBER = re.compile(r"\w*INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)")
"""DuckDB's names of numbers."""


@dataclass(frozen=True)
class Candidate:
    """A column that could be the label, and what speaks for it."""

    table: Table
    column: str
    why: str

    @property
    def name(self) -> str:
        """How `--label` names it."""
        return f"{self.table.name}.{self.column}"


def find_candidates(found: Found) -> list[Candidate]:
    """Return every column that could be the label, the likeliest first."""
    ranked = [
        (rank, Candidate(table, column, why))
        for table in found.tables
        if table.path.is_file() and keys_in(table, found) and _rows(table)
        for column in _numbers(table, found)
        for rank, why in [_reason(table, column, found)]
    ]
    return [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])]


def find_label(found: Found, label: str | None) -> Candidate:
    """Return the column that `SOURCE.COLUMN`, `VIEW.COLUMN` or `FILE.parquet.COLUMN` names.

    Raises:
        UsageError: it names none, or more than one could be meant.
    """
    candidates = find_candidates(found)
    names = ", ".join(candidate.name for candidate in candidates) or "no column of numbers"
    if label is None:
        message = f"say what to forecast with --label SOURCE.COLUMN; there is {names}"
        raise UsageError(message)
    source, _, column = label.rpartition(".")
    by_view = {view.name: view.table.name for view in found.views}
    for candidate in candidates:
        if (candidate.table.name, candidate.column) == (by_view.get(source, source), column):
            return candidate
    if source.endswith(".parquet"):
        return _of_file(found, source, column)
    message = f"--label {label!r} names nothing to forecast; there is {names}"
    raise UsageError(message)


def keys_in(table: Table, found: Found) -> list[str]:
    """Return the join keys that a table has, in the order of the widest view that has them."""
    held = {key for key in found.join_keys if key in table.columns}
    widest = max(found.views, key=lambda view: len(held & {*view.keys}))
    ordered = [key for key in widest.keys if key in held]
    return ordered + sorted(held - {*ordered})


def _of_file(found: Found, source: str, column: str) -> Candidate:
    places = (Path(source), found.repo / source, found.repo.parent / source)
    path = next((place for place in places if place.is_file()), None)
    table = f"{source} does not exist" if path is None else table_of_file(path)
    if isinstance(table, str):
        message = f"--label {source}.{column}: {table}"
        raise UsageError(message)
    if column not in _numbers(table, found) or not keys_in(table, found):
        message = (
            f"--label {source}.{column}: needs a number of that name and the join keys of the "
            f"repo ({', '.join(sorted(found.join_keys))}); it has {', '.join(table.columns)}"
        )
        raise UsageError(message)
    return Candidate(table, column, "you said so")


def _numbers(table: Table, found: Found) -> list[str]:
    taken = {*found.join_keys, table.event_timestamp, table.created}
    return [
        column
        for column, kind in table.columns.items()
        if column not in taken and NUMBER.fullmatch(kind)
    ]


def _reason(table: Table, column: str, found: Found) -> tuple[int, str]:
    if table.name in found.labelled:
        return 0, "a label view of Feast reads it"
    features = {
        feature
        for view in found.views
        if view.table.path == table.path
        for feature in view.features
    }
    if column not in features:
        return 1, "no feature view has it"
    return 2, "a feature view has its past, read as of the cut-off"


def _rows(table: Table) -> int:
    with duckdb.connect(":memory:") as connection:
        row = connection.execute(f"SELECT count(*) FROM {table.sql}").fetchone()  # noqa: S608 - quoted
    return int(row[0]) if row else 0
