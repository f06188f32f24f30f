"""The stage that forecasts every series at once, through the same code as the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from feastrain.artifacts import fingerprint, is_published, open_manifest, publishing

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa

    from feastrain.serving.forecaster import Forecaster

FILE = "forecasts.parquet"


@dataclass(frozen=True)
class BatchForecast:
    """A published forecast: one Parquet row for each series and step."""

    path: Path
    series: int
    rows: int
    as_of: datetime
    cached: bool


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
        table = forecaster.forecast(series).table
        rows = len(table)
        manifest: dict[str, Any] = {
            "bundle": forecaster.bundle.fingerprint,
            "as_of": as_of.isoformat(),
            "rows": rows,
        }
        with publishing(final, manifest) as scratch:
            pq.write_table(table, scratch / FILE, compression="zstd")
    return BatchForecast(final / FILE, len(series), rows, as_of, cached)
