"""What every system says at one origin, beside what happened: the rows that scores are made of.

A system is a model or a baseline. `NAME` is the column of its point forecast and, where it has
quantiles, `NAME@0.1` that of one of them. Shapes: N rows (series, cut-off), H steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feastrain.artifacts import fingerprint, is_published, open_manifest, publishing
from feastrain.dataset.labels import lay_out
from feastrain.models import baselines
from feastrain.models.events import events_ahead, special_ahead
from feastrain.models.trees import forecast_with_trees, trees_available

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.models.bundle import Bundle
    from feastrain.recipe import Recipe

    Floats = NDArray[np.float64]

FORMAT = 2
"""Raised when a baseline or the file changes, so that old ones are made anew."""
FILE = "forecasts.parquet"


@dataclass(frozen=True)
class Origin:
    """Published forecasts of one origin."""

    path: Path
    origin: str
    """The first cut-off."""
    cached: bool


@dataclass(frozen=True)
class Forecasts:
    """The forecasts of one origin or several, one row a series, cut-off and step."""

    table: pa.Table
    """Entities, event_timestamp (the cut-off), step, label, weight, special, and the systems."""
    systems: dict[str, tuple[float, ...]]
    """The quantiles of each system, none for a point forecast; the model itself is the first."""
    entities: tuple[str, ...]

    @property
    def model(self) -> str:
        """The system that was trained from the recipe."""
        return next(iter(self.systems))

    def point(self, system: str) -> Floats:
        """Return [M] point forecasts."""
        return self.numbers(system)

    def quantile(self, system: str) -> Floats | None:
        """Return [M, Q] quantiles, or None for a system that has none."""
        columns = [f"{system}@{level}" for level in self.systems[system]]
        return np.column_stack([self.numbers(name) for name in columns]) if columns else None

    def numbers(self, column: str) -> Floats:
        """Return [M] numbers of a column, NaN where there is none."""
        values: Floats = self.table[column].to_numpy(zero_copy_only=False).astype(np.float64)
        return values

    @classmethod
    def pooled(cls, paths: list[Path], entities: tuple[str, ...]) -> Forecasts:
        """Read the forecasts of several origins as one table.

        Raises:
            ArtifactError: a file is missing or damaged.
        """
        manifests = [open_manifest(path) for path in paths]
        table = pa.concat_tables([pq.read_table(path / FILE) for path in paths])
        systems = {name: tuple(levels) for name, levels in manifests[0]["systems"]}
        return cls(table, systems, entities)


def missing_systems() -> tuple[str, ...]:
    """Return the systems that need a package which is not installed."""
    return () if trees_available() else ("lightgbm",)


def forecast_origin(recipe: Recipe, snapshot: Snapshot, bundle: Bundle, directory: Path) -> Origin:
    """Forecast the snapshot's test rows with the bundle and every baseline, and publish that.

    Every system sees what was known at the cut-off and nothing later; the fitted ones learned
    from the training rows alone, or from each cut-off's own past.
    """
    final = directory / fingerprint(FORMAT, bundle.fingerprint, recipe.season, missing_systems())
    cached = is_published(final)
    if not cached:
        rows = snapshot.rows("test")
        answers = _answers(recipe, snapshot, bundle, rows)
        quantiled = [name for name, forecast in answers.items() if forecast.ndim == 3]
        manifest = {
            "bundle": bundle.fingerprint,
            "origin": str(min(rows["event_timestamp"].to_pylist())),
            "systems": [
                [name, list(bundle.quantiles) if name in quantiled else []] for name in answers
            ],
        }
        with publishing(final, manifest) as scratch:
            table = _long_table(recipe, snapshot, rows, answers, bundle.quantiles)
            pq.write_table(table, scratch / FILE, compression="zstd")
    return Origin(final, str(open_manifest(final)["origin"]), cached)


def _answers(
    recipe: Recipe, snapshot: Snapshot, bundle: Bundle, rows: pa.Table
) -> dict[str, Floats]:
    """Return [N, H] or [N, H, Q] in the label's unit, by system."""
    known, kind = snapshot.known(), recipe.model.kind
    answers: dict[str, Floats] = {kind: bundle.forecast(rows, known, snapshot.rows())}
    if len(bundle.members) > 1:
        for number, member in enumerate(bundle.members):
            name = f"{kind}/{number}-{recipe.members[number].kind}"
            answers[name] = member.forecast(bundle.encoder, rows, known, snapshot.rows())
    past, group_S = _history(recipe, snapshot, rows)
    answers |= {
        "seasonal-naive": baselines.seasonal_naive(past),
        "seasonal-naive-growth": baselines.seasonal_naive_growth(past),
        "group-season-product": baselines.group_season_product(past, group_S),
        "trend-season-ridge": baselines.trend_season_ridge(past),
    }
    if not missing_systems():
        parts = (snapshot.rows("train"), snapshot.rows("validation"), rows)
        answers["lightgbm"] = forecast_with_trees(
            bundle.encoder, *parts, known, seed=recipe.training.seed
        )
    return answers


def _history(
    recipe: Recipe, snapshot: Snapshot, rows: pa.Table
) -> tuple[baselines.History, NDArray[np.int64]]:
    """Return what baselines read, and [S] the group of each series: all entities but the first."""
    panel = lay_out(snapshot.labels(), recipe)
    series_N, cutoff_N = panel.positions_of(rows)
    name_SP = np.full(panel.label_SP.shape, "", dtype=object)
    name_SP[panel.positions_of(panel.table)] = panel.table["event"].to_numpy(zero_copy_only=False)
    ahead_NH = events_ahead(rows, snapshot.known(), snapshot.columns, recipe.label.event)
    _, code = np.unique(
        np.concatenate([[""], name_SP.ravel(), ahead_NH.ravel()]).astype(str), return_inverse=True
    )
    past_SP = code[1 : 1 + name_SP.size].reshape(name_SP.shape)
    events = baselines.Events(past_SP, code[1 + name_SP.size :].reshape(ahead_NH.shape))
    shared = panel.series.select(recipe.entities[1:]).to_pandas()
    group_S = np.zeros(len(panel.series), dtype=np.int64)
    if recipe.entities[1:]:
        group_S = shared.groupby(list(recipe.entities[1:])).ngroup().to_numpy()
    about = (series_N, cutoff_N, recipe.horizon, recipe.season, events)
    return baselines.History(panel.label_SP, *about), group_S


def _long_table(
    recipe: Recipe,
    snapshot: Snapshot,
    rows: pa.Table,
    answers: dict[str, Floats],
    quantiles: tuple[float, ...],
) -> pa.Table:
    """Return one row for each test row and step."""
    horizon = recipe.horizon
    repeated = pa.array(np.repeat(np.arange(len(rows)), horizon))
    table = rows.select([*recipe.entities, "event_timestamp"]).take(repeated)
    columns: dict[str, NDArray[Any]] = {"step": np.tile(np.arange(1, horizon + 1), len(rows))}
    label_NH, weight_NH = (_stepped(rows, stem, recipe) for stem in ("label", "weight"))
    special_NH = weight_NH > np.nanmin(weight_NH, initial=np.inf)
    if recipe.label.event in snapshot.columns.known_ahead:
        about = snapshot.known(), snapshot.columns, recipe.label.event
        special_NH = special_ahead(rows, *about)
    columns |= {"label": label_NH, "weight": weight_NH, "special": special_NH}
    for system, forecast in answers.items():
        if forecast.ndim == 2:
            columns[system] = forecast
        else:
            columns[system] = forecast[:, :, quantiles.index(0.5)]
            columns |= {f"{system}@{q}": forecast[:, :, i] for i, q in enumerate(quantiles)}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values.ravel(), from_pandas=True))
    return table


def _stepped(rows: pa.Table, stem: str, recipe: Recipe) -> Floats:
    return np.column_stack(
        [rows[name].to_numpy(zero_copy_only=False) for name in recipe.stepped_columns(stem)]
    )
