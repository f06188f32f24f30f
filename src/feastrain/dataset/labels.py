"""The label source: read, checked, and laid out as one matrix of series by period."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa

from feastrain.errors import DataError, ProjectError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from feastrain.recipe import Recipe

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Panel:
    """Labels on a regular grid. S series, P periods; what was not observed is NaN."""

    series: pa.Table
    """[S] entity columns, in order."""
    periods: NDArray[np.datetime64]
    """[P] close of each period, every one from the first to the last, UTC."""
    label_SP: NDArray[np.float64]
    weight_SP: NDArray[np.float64]
    table: pa.Table
    """The observed labels as rows: entities, event_timestamp, label, weight, event."""

    @property
    def last_period(self) -> datetime:
        """The close of the last period, the newest cut-off there is."""
        last: datetime = self.periods[-1].astype("datetime64[us]").item()
        return last.replace(tzinfo=UTC)

    def of_series(self, start: int, stop: int) -> Panel:
        """Return the series from `start` to `stop` alone, without their rows."""
        part = slice(start, stop)
        return Panel(
            self.series.slice(start, stop - start).combine_chunks(),
            self.periods,
            self.label_SP[part],
            self.weight_SP[part],
            self.table.slice(0, 0),
        )

    def positions_of(self, rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the series and period positions of rows with the entities and a timestamp."""
        keys = [f"key {number}" for number, _ in enumerate(self.series.column_names)]
        asked = rows.select(self.series.column_names).rename_columns(keys)
        numbered = self.series.rename_columns(keys)
        numbered = numbered.append_column("series", pa.array(np.arange(len(numbered))))
        joined = asked.append_column("row", pa.array(np.arange(len(asked)))).join(numbered, keys)
        stamps = rows["event_timestamp"].to_numpy().astype("datetime64[us]")
        return (
            joined.sort_by("row")["series"].to_numpy(),
            np.searchsorted(self.periods, stamps),
        )


def read_labels(source: Path, recipe: Recipe, as_of: datetime | None = None) -> Panel:
    """Read the label source up to `as_of` and lay it out by series and period.

    Raises:
        ProjectError: the source is missing.
        DataError: it is no Parquet file, a column is missing, a key is null, doubled or a fraction,
            a label is not a finite number, or a timestamp is off the recipe's grid.
    """
    try:
        table = _read(source, recipe, as_of)
    except duckdb.Error as error:  # it is no Parquet file, or a label no number, a time none
        message = f"{source} cannot be read as labels: {' '.join(str(error).split())}"
        raise DataError(message) from error
    _check_values(table, recipe, source)
    try:
        return lay_out(table, recipe)
    except DataError as error:
        message = f"{source}: {error}"
        raise DataError(message) from error


def lay_out(table: pa.Table, recipe: Recipe) -> Panel:
    """Lay rows of labels out by series and period.

    Raises:
        DataError: a key is doubled, or a timestamp is off the recipe's grid.
    """
    entities = list(recipe.entities)
    series = table.select(entities).group_by(entities).aggregate([])
    series = series.sort_by([(name, "ascending") for name in entities])
    timestamps = table["event_timestamp"].to_numpy().astype("datetime64[us]")
    first, step = timestamps.min(), np.timedelta64(recipe.frequency, "us")
    off_grid = (timestamps - first) % step != np.timedelta64(0)
    if off_grid.any():
        example = table["event_timestamp"][int(np.flatnonzero(off_grid)[0])]
        message = (
            f"{int(off_grid.sum()):,} timestamps are not a whole number of periods after the "
            f"first, e.g. {example}; correct them or the recipe's frequency"
        )
        raise DataError(message)
    periods = first + np.arange((timestamps.max() - first) // step + 1) * step
    shape = (len(series), len(periods))
    panel = Panel(series, periods, np.full(shape, np.nan), np.full(shape, np.nan), table)
    position = panel.positions_of(table)
    panel.label_SP[position] = table["label"].to_numpy()
    panel.weight_SP[position] = table["weight"].to_numpy()
    if repeated := len(table) - int(np.isfinite(panel.label_SP).sum()):
        key = ", ".join((*entities, "event_timestamp"))
        message = f"{repeated:,} rows repeat a key of {key}; keep one row for each"
        raise DataError(message)
    return panel


def _read(source: Path, recipe: Recipe, as_of: datetime | None) -> pa.Table:
    if not source.is_file():
        message = f"{source}: no such label source; the recipe's label.source names it"
        raise ProjectError(message)
    label = recipe.label
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        relation = connection.read_parquet(str(source))
        wanted = [*recipe.entities, label.event_timestamp, label.column, label.weight, label.event]
        for name in wanted:
            if name is not None and name not in relation.columns:
                message = f"{source} has no column {name!r}; it has {', '.join(relation.columns)}"
                raise DataError(message)
        keys = ", ".join(_quoted(name) for name in recipe.entities)
        weight = _quoted(label.weight) if label.weight else "1.0"
        event = f"coalesce({_quoted(label.event)}, '')" if label.event else "''"
        relation = relation.project(
            f"{keys}, {_quoted(label.event_timestamp)}::TIMESTAMPTZ AS event_timestamp,"
            f" {_quoted(label.column)}::DOUBLE AS label, {weight}::DOUBLE AS weight,"
            f" {event} AS event"
        )
        if as_of is not None:
            relation = relation.filter(f"event_timestamp <= '{as_of.isoformat()}'::TIMESTAMPTZ")
        table = relation.order(f"{keys}, event_timestamp").to_arrow_table()
    if not len(table):
        message = f"{source} holds no label" + (f" at or before {as_of}" if as_of else "")
        raise DataError(message)
    position = table.schema.get_field_index("event_timestamp")
    return table.set_column(position, "event_timestamp", table["event_timestamp"].cast(TIMESTAMP))


def _check_values(table: pa.Table, recipe: Recipe, source: Path) -> None:
    for name in (*recipe.entities, "event_timestamp"):
        if table[name].null_count:
            message = f"{source}: {table[name].null_count:,} rows have no {name}; give each its key"
            raise DataError(message)
        if pa.types.is_floating(table[name].type):
            message = (
                f"{source}: the key {name!r} is {table[name].type}; make it whole numbers or text, "
                "as the feature views have it"
            )
            raise DataError(message)
    columns = {"label": recipe.label.column, "weight": recipe.label.weight or "weight"}
    for name, original in columns.items():
        values = table[name].to_numpy(zero_copy_only=False)
        if broken := int((~np.isfinite(values)).sum()):
            message = (
                f"{source}: {broken:,} rows have no finite number in {original!r}; "
                "leave a period out rather than filling it"
            )
            raise DataError(message)
    if (table["weight"].to_numpy() < 0).any():
        message = f"{source}: {recipe.label.weight!r} holds a negative weight"
        raise DataError(message)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
