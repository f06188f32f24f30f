"""The stage that scores a bundle and its baselines on the same held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feastrain.artifacts import fingerprint, is_published, open_manifest, publishing
from feastrain.dataset.labels import lay_out
from feastrain.evaluation.metrics import Scores, score
from feastrain.models.baselines import seasonal_naive, seasonal_naive_growth
from feastrain.models.trees import forecast_with_trees, trees_available

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.models.bundle import Bundle
    from feastrain.recipe import Recipe

    Floats = NDArray[np.float64]

FORMAT = 1
REFERENCE = "seasonal-naive"


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard."""

    system: str
    scores: Scores
    special: Scores | None
    """Scores on the periods that weigh more than others (holidays); None where there are none."""
    improvement: float
    """How much less WMAE than the seasonal naive forecast, as a fraction of its own."""


@dataclass(frozen=True)
class Backtest:
    """A published backtest: every system scored on the same labels, best first."""

    path: Path
    origins: tuple[str, ...]
    scores: tuple[Entry, ...]
    missing: tuple[str, ...]
    """Systems that are not installed."""
    cached: bool

    def to_json(self) -> dict[str, Any]:
        """Return the backtest as plain JSON values."""
        return {
            "path": str(self.path),
            "origins": list(self.origins),
            "missing": list(self.missing),
            "scores": [_entry_to_json(entry) for entry in self.scores],
        }


def backtest(recipe: Recipe, snapshot: Snapshot, bundle: Bundle, directory: Path) -> Backtest:
    """Score `bundle` and the baselines on the snapshot's test rows, and publish the forecasts.

    Every system sees what was known at the cut-off and nothing later; the fitted ones learned
    from the training rows alone.
    """
    missing = () if trees_available() else ("lightgbm",)
    final = directory / fingerprint(FORMAT, bundle.fingerprint, recipe.season, missing)
    cached = is_published(final)
    if not cached:
        rows = snapshot.rows("test")
        forecasts = _forecasts(recipe, snapshot, bundle, rows, with_trees=not missing)
        label_NH, weight_NH = _stepped(rows, "label", recipe), _stepped(rows, "weight", recipe)
        manifest = {
            "bundle": bundle.fingerprint,
            "origins": sorted({str(moment) for moment in rows["event_timestamp"].to_pylist()}),
            "scores": _leaderboard(label_NH, weight_NH, forecasts, bundle.quantiles),
        }
        with publishing(final, manifest) as scratch:
            table = _long_table(recipe, rows, forecasts)
            pq.write_table(table, scratch / "forecasts.parquet", compression="zstd")
    kept = open_manifest(final)
    entries = tuple(_entry_from_json(entry) for entry in kept["scores"])
    return Backtest(final, tuple(kept["origins"]), entries, missing, cached)


def _forecasts(
    recipe: Recipe, snapshot: Snapshot, bundle: Bundle, rows: pa.Table, *, with_trees: bool
) -> dict[str, Floats]:
    """Return [N, H] or [N, H, Q] in the label's unit, by system."""
    panel = lay_out(snapshot.labels(), recipe)
    series_N, cutoff_N = panel.positions_of(rows)
    known = snapshot.known()
    about = (panel.label_SP, series_N, cutoff_N, recipe.horizon, recipe.season)
    forecasts = {
        recipe.model.kind: bundle.forecast(rows, known, snapshot.rows()),
        REFERENCE: seasonal_naive(*about),
        "seasonal-naive-growth": seasonal_naive_growth(*about),
    }
    if with_trees:
        forecasts["lightgbm"] = forecast_with_trees(
            bundle.encoder,
            snapshot.rows("train"),
            snapshot.rows("validation"),
            rows,
            known,
            seed=recipe.training.seed,
        )
    return forecasts


def _leaderboard(
    label_NH: Floats,
    weight_NH: Floats,
    forecasts: dict[str, Floats],
    quantiles: tuple[float, ...],
) -> list[dict[str, Any]]:
    special_NH = np.where(weight_NH > np.nanmin(weight_NH), label_NH, np.nan)
    reference = score(label_NH, weight_NH, forecasts[REFERENCE]).wmae
    entries = []
    for system, forecast in forecasts.items():
        point, spread = _point_and_spread(forecast, quantiles)
        scores = score(label_NH, weight_NH, point, spread, quantiles)
        special = None
        if np.isfinite(special_NH).any():
            special = score(special_NH, weight_NH, point, spread, quantiles)
        improvement = 1 - scores.wmae / reference
        entries.append(_entry_to_json(Entry(system, scores, special, improvement)))
    return sorted(entries, key=lambda entry: entry["scores"]["wmae"])


def _point_and_spread(
    forecast: Floats, quantiles: tuple[float, ...]
) -> tuple[Floats, Floats | None]:
    if forecast.ndim == 2:
        return forecast, None
    return forecast[:, :, quantiles.index(0.5)], forecast


def _stepped(rows: pa.Table, stem: str, recipe: Recipe) -> Floats:
    return np.column_stack(
        [rows[name].to_numpy(zero_copy_only=False) for name in recipe.stepped_columns(stem)]
    )


def _long_table(recipe: Recipe, rows: pa.Table, forecasts: dict[str, Floats]) -> pa.Table:
    """Return one row for each test row and step, with every system's point forecast."""
    horizon = recipe.horizon
    repeated = pa.array(np.repeat(np.arange(len(rows)), horizon))
    table = rows.select([*recipe.entities, "event_timestamp"]).take(repeated)
    table = table.append_column("step", pa.array(np.tile(np.arange(1, horizon + 1), len(rows))))
    for stem in ("label", "weight"):
        table = table.append_column(
            stem, pa.array(_stepped(rows, stem, recipe).ravel(), from_pandas=True)
        )
    for system, forecast in forecasts.items():
        point, _ = _point_and_spread(forecast, recipe.model.quantiles)
        table = table.append_column(system, pa.array(point.ravel()))
    return table


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "system": entry.system,
        "improvement": entry.improvement,
        "scores": entry.scores.to_json(),
        "special": entry.special.to_json() if entry.special else None,
    }


def _entry_from_json(content: dict[str, Any]) -> Entry:
    special = content["special"]
    return Entry(
        system=content["system"],
        scores=Scores(**content["scores"]),
        special=Scores(**special) if special else None,
        improvement=content["improvement"],
    )
