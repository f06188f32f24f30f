"""What the rows of a table tell: how far apart, from when on, and what moves with what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb

from feastrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feastrain.adopt.reading import Table

ISOLATED = 100
"""Periods without any row after which what came before is no history of what comes after."""
FEW = 0.05
ALIKE = 0.9
BULK = 3
"""Most different creation times of a table that was written at one go."""


def ask(sql: str) -> list[tuple[Any, ...]]:
    """Return what DuckDB answers, in UTC."""
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(sql).fetchall()


def quoted(name: str) -> str:
    """Return a name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def listed(names: Sequence[str]) -> str:
    """Return names as SQL takes them, with commas."""
    return ", ".join(map(quoted, names))


@dataclass(frozen=True)
class Grid:
    """The periods of a label: how far apart, how many, and the first one that counts."""

    frequency: timedelta
    periods: int
    series: int
    since: datetime | None
    """The first row that counts, where earlier ones are few and far away."""
    ignored: int
    """How many rows come before it."""


def find_grid(table: Table, keys: Sequence[str]) -> Grid:
    """Find the periods of a table.

    Raises:
        UsageError: its rows do not lie whole hours apart.
    """
    at = f"{quoted(table.event_timestamp)}::TIMESTAMPTZ"
    steps = ask(
        f"SELECT step, count(*) FROM (SELECT (epoch_us(moment) - lag(epoch_us(moment)) OVER"  # noqa: S608 - quoted
        f" (PARTITION BY {listed(keys)} ORDER BY moment)) // 1000000 AS step FROM"
        f" (SELECT DISTINCT {listed(keys)}, {at} AS moment FROM {table.sql}))"
        " WHERE step IS NOT NULL GROUP BY step ORDER BY count(*) DESC, step LIMIT 1"
    )
    seconds = int(steps[0][0]) if steps else 0
    if not seconds or seconds % 3600:
        message = (
            f"rows of {table.name} lie {seconds} seconds apart for a series; a period is a whole "
            "number of hours: aggregate them first"
        )
        raise UsageError(message)
    frequency = timedelta(seconds=seconds)
    counted = ask(f"SELECT {at} AS moment, count(*) FROM {table.sql} GROUP BY ALL ORDER BY moment")  # noqa: S608 - quoted
    moments = [moment.astimezone(UTC) for moment, _ in counted]
    first = _first_that_counts(moments, [rows for _, rows in counted], frequency)
    series = ask(f"SELECT count(*) FROM (SELECT DISTINCT {listed(keys)} FROM {table.sql})")[0][0]  # noqa: S608 - quoted
    return Grid(
        frequency,
        int((moments[-1] - moments[first]) / frequency) + 1,
        series,
        moments[first] if first else None,
        sum(rows for _, rows in counted[:first]),
    )


def _first_that_counts(moments: list[datetime], rows: list[int], frequency: timedelta) -> int:
    for place in range(len(moments) - 1, 0, -1):
        is_far = moments[place] - moments[place - 1] > ISOLATED * frequency
        if is_far and sum(rows[:place]) <= FEW * sum(rows):
            return place
    return 0


def written_at_once(table: Table, frequency: timedelta) -> str | None:
    """Say why the creation times of a table tell nothing; None where they do, or are none."""
    if table.created is None or table.created not in table.columns:
        return None
    created = f"{quoted(table.created)}::TIMESTAMPTZ"
    ((times, late),) = ask(
        f"SELECT count(DISTINCT {created}), avg(({created} >"  # noqa: S608 - quoted
        f" {quoted(table.event_timestamp)}::TIMESTAMPTZ"
        f" + INTERVAL {int(frequency.total_seconds())} SECOND)::INT) FROM {table.sql}"
    )
    if times > BULK or (late or 0) < 0.5:
        return None
    return (
        f"its {table.created!r} says when the table was written ({times} different times), not "
        "when a row became known: rows count from their event timestamp"
    )


def is_constant(table: Table, keys: Sequence[str], columns: Sequence[str]) -> bool:
    """Tell whether no column has two values for one key."""
    counts = ", ".join(f"count(DISTINCT {quoted(column)})" for column in columns)
    most = f"greatest({counts})" if len(columns) > 1 else counts
    return bool(
        ask(
            f"SELECT max(most) <= 1 FROM (SELECT {most} AS most FROM {table.sql}"  # noqa: S608 - quoted
            f" GROUP BY {listed(keys)})"
        )[0][0]
    )


def is_about_steps(table: Table, keys: Sequence[str], near: str, far: str) -> bool:
    """Tell whether `far` of one row is `near` of the next: both are about the period they name.

    For lags it is the other way about.
    """
    ((forward, backward),) = ask(
        f"SELECT avg((farther = near)::INT), avg((nearer = far)::INT) FROM (SELECT"  # noqa: S608 - quoted
        f" {quoted(near)} AS near, {quoted(far)} AS far, lag({quoted(near)}) OVER w AS nearer,"
        f" lag({quoted(far)}) OVER w AS farther FROM {table.sql} WINDOW w AS"
        f" (PARTITION BY {listed(keys)} ORDER BY {quoted(table.event_timestamp)}))"
    )
    return forward is not None and forward > ALIKE and forward > (backward or 0)


def days_ahead(table: Table, key: str) -> float | None:
    """Return how long before its period a row is known at the latest, in days.

    None where the key names no periods: text that is the date (and time) of one.
    """
    if table.columns.get(key) != "VARCHAR":
        return None
    period = f"TRY_CAST({quoted(key)} AS TIMESTAMPTZ)"
    ((broken, least),) = ask(
        f"SELECT count(*) - count({period}), min(epoch({period}) - epoch("  # noqa: S608 - quoted
        f"{quoted(table.event_timestamp)}::TIMESTAMPTZ)) FROM {table.sql}"
    )
    return None if broken or least is None else float(least) / 86400


def typical(table: Table, columns: Sequence[str]) -> dict[str, float]:
    """Return the median size of numbers, by column."""
    medians = ", ".join(f"median(abs({quoted(column)}::DOUBLE))" for column in columns)
    (row,) = ask(f"SELECT {medians} FROM {table.sql}")  # noqa: S608 - quoted
    return {c: float(value or 0) for c, value in zip(columns, row, strict=True)}
