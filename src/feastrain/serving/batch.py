"""The stage that forecasts every series at once, through the same code as the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from feastrain.artifacts import fingerprint, is_published, open_manifest, publishing
from feastrain.errors import RecipeError
from feastrain.shown import Shown

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from feastrain.recipe import Recipe
    from feastrain.serving.forecaster import Forecaster

FILE = "forecasts.parquet"


@dataclass(frozen=True)
class BatchForecast(Shown):
    """A published forecast: one Parquet row for each series and step."""

    path: Path
    series: int
    rows: int
    as_of: datetime
    cached: bool

    def to_json(self) -> dict[str, Any]:
        """Return what there is to say of it, as plain JSON values."""
        about = {"path": str(self.path), "as_of": self.as_of.isoformat()}
        return about | {"series": self.series, "rows": self.rows}


def rows_to_push(forecasts: pa.Table, recipe: Recipe) -> pa.Table:
    """Return published forecasts as rows of a feature view.

    They are keyed by the entities and the recipe's period key, and happened at the cut-off. The
    quantiles are called by their percent (`q10`, `q97_5`), since a feature's name has no dot.

    Raises:
        RecipeError: the recipe has no period key.
    """
    key = recipe.features.period_key
    if key is None:
        message = (
            f"recipe {recipe.name!r} has no features.period_key, so pushed forecasts would have "
            "no week to be found by; name the join key of the view they are for"
        )
        raise RecipeError(message)
    names = [recipe.period_name(end) for end in forecasts["period"].to_pylist()]
    renamed = {
        name: f"q{float(name[1:]) * 100:.10g}".replace(".", "_")
        for name in forecasts.column_names
        if name.startswith("q0.")
    }
    rows = forecasts.rename_columns([renamed.get(name, name) for name in forecasts.column_names])
    return rows.drop_columns(["period"]).append_column(key, pa.array(names))


def forecast_all(
    forecaster: Forecaster, labels: pa.Table, directory: Path, state: str
) -> BatchForecast:
    """Forecast every series of `labels` and publish the table under `directory`.

    Args:
        forecaster: the bundle and the online store.
        labels: observed labels, with the entity columns.
        directory: folder of forecasts.
        state: what the online store was last materialised from.
    """
    entities = list(forecaster.bundle.columns.entities)
    series = labels.select(entities).group_by(entities).aggregate([])
    series = series.sort_by([(name, "ascending") for name in entities])
    as_of = forecaster.source.as_of()
    final = directory / fingerprint(forecaster.bundle.fingerprint, as_of.isoformat(), state)
    cached = is_published(final)
    if cached:
        rows = int(open_manifest(final)["rows"])
    else:
        table = forecaster.forecast(series).table()
        rows = len(table)
        manifest: dict[str, Any] = {
            "bundle": forecaster.bundle.fingerprint,
            "as_of": as_of.isoformat(),
            "rows": rows,
        }
        with publishing(final, manifest) as scratch:
            pq.write_table(table, scratch / FILE, compression="zstd")
    return BatchForecast(final / FILE, len(series), rows, as_of, cached)
