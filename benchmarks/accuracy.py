"""How well the product forecasts Walmart's weekly sales, beside those it must beat.

Every (store, department, week) that has sales is scored; a series with no history is forecast as 0.
Each origin is a snapshot that ends with its weeks, and a bundle fitted on what was known at it:
the recipe `best` of the demand project, as `feastrain train` fits it.

- `h8`: eight weeks from each of four origins, pooled, and by step, for holiday weeks and for
  the two weeks that hold most of Christmas's sales; `h8-ORIGIN`: one of them.
- `h39-ORIGIN`: Kaggle's horizon of 39 weeks. The bundle forecasts the first eight; the weeks after
  them are the seasonal baseline's, and so is `blend`.
- `one-step`: the next week, at 39 origins from 2012-01-27, fitted every 13 weeks.

`feastrain-network` is the bundle's networks by themselves. `wmae_low` and `wmae_high` bound 95% of
what the WMAE would be had other weeks been drawn (bootstrap of whole weeks: Künsch 1989), since
the errors of one week are alike.

Long: about ten minutes an origin on two cores. Bundles are kept in `--folder`, so that a second
run, or one that was stopped, goes on with what is there.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from feastrain.dataset.labels import TIMESTAMP, lay_out
from feastrain.dataset.snapshot import Snapshot
from feastrain.evaluation.metrics import score
from feastrain.jobs.train import train
from feastrain.models.baselines import History, seasonal_naive, seasonal_naive_growth
from feastrain.models.bundle import load_bundle
from feastrain.models.exported import Exported
from feastrain.models.trees import forecast_with_trees
from feastrain.project import Project
from feastrain.scaffold import scaffold
from figures import WALMART, Figure, options, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from feastrain.dataset.labels import Panel
    from feastrain.models.bundle import Bundle
    from feastrain.recipe import Recipe

    Floats = NDArray[np.float64]

NAME = "accuracy"
H8 = ("2011-11-11", "2012-02-03", "2012-05-04", "2012-08-31")
ONE_STEP, REFIT, WEEKS = "2012-01-27", 13, 39
H39, KAGGLE_WEEKS = ("2012-01-27", "2011-10-28"), 39
CASES = (
    "h8",
    *(f"h8-{origin}" for origin in H8),
    *(f"h39-{origin}" for origin in H39),
    "one-step",
)
CLOSE = timedelta(days=1) - timedelta(seconds=1)
WEEK = timedelta(weeks=1)
METRICS = ("wmae", "wape", "bias", "coverage_p10_p90")
STEPS = ((1, 1), (2, 4), (5, 8))
PEAKS = ("2011-12-16", "2011-12-23", "2010-12-17", "2010-12-24")
"""The weeks before Christmas, that Kaggle does not flag as holidays."""
DRAWS = 2_000


@dataclass(frozen=True)
class Forecasts:
    """Labels, weights, steps and weeks [M]; by system quantiles [M, Q] or point forecasts [M]."""

    label_M: Floats
    weight_M: Floats
    step_M: NDArray[np.int64]
    week_M: NDArray[np.datetime64]
    systems: dict[str, Floats]

    @classmethod
    def pooled(cls, parts: list[Forecasts]) -> Forecasts:
        """Put the rows of several origins together."""
        columns = ("label_M", "weight_M", "step_M", "week_M")
        together = (np.concatenate([getattr(part, name) for part in parts]) for name in columns)
        systems = {
            name: np.concatenate([part.systems[name] for part in parts])
            for name in parts[0].systems
        }
        return cls(*together, systems)

    def chosen(self, which_M: NDArray[np.bool_]) -> Forecasts:
        """Return some of the rows."""
        systems = {name: forecast[which_M] for name, forecast in self.systems.items()}
        columns = self.label_M, self.weight_M, self.step_M, self.week_M
        return Forecasts(*(column[which_M] for column in columns), systems)

    def figures(self, case: str) -> Iterator[Figure]:
        """Score every system."""
        for system, forecast in self.systems.items():
            spread = forecast if forecast.ndim == 2 else None
            point_M = forecast[:, 1] if forecast.ndim == 2 else forecast
            scores = score(self.label_M, self.weight_M, point_M, spread, (0.1, 0.5, 0.9))
            values = (scores.wmae, scores.wape, scores.bias, scores.coverage)
            for metric, value in zip(METRICS, values, strict=True):
                if value is not None:
                    yield Figure(NAME, case, system, metric, value)
            for bound, value in zip(("low", "high"), self._interval(point_M), strict=True):
                yield Figure(NAME, case, system, f"wmae_{bound}", value)

    def _interval(self, point_M: Floats) -> Floats:
        """Return the bounds of 95% of the WMAEs of weeks drawn with replacement."""
        _, week_M = np.unique(self.week_M, return_inverse=True)
        missed_W = np.bincount(week_M, self.weight_M * np.abs(point_M - self.label_M))
        weight_W = np.bincount(week_M, self.weight_M)
        drawn_DW = np.random.default_rng(0).integers(len(weight_W), size=(DRAWS, len(weight_W)))
        return np.quantile(missed_W[drawn_DW].sum(1) / weight_W[drawn_DW].sum(1), (0.025, 0.975))


def main() -> None:
    """Forecast from every origin that is asked for, and tell how good it was."""
    asked = options(__doc__, _extend)
    walmart = Path(os.environ.get("FEASTRAIN_WALMART_DIR") or WALMART)
    if not walmart.is_dir():
        sys.exit("Kaggle's tables are absent: set FEASTRAIN_WALMART_DIR to their folder")
    if not (asked.folder / "recipes").is_dir():
        scaffold(asked.folder, walmart, 0)
    cases = (
        [CASES[1]]
        if asked.quick
        else asked.case or ["h8", *(f"h39-{origin}" for origin in H39), "one-step"]
    )
    figures: list[Figure] = []
    for case in cases:
        figures += _case(case, asked)
    tell(figures, asked.json)


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--case", choices=CASES, action="append", help="by default all")
    parser.add_argument("--recipe", default="best", help="of the demand project: %(default)s")
    cache = Path.home() / ".cache" / "feastrain" / "bench" / "accuracy"
    parser.add_argument("--folder", type=Path, default=cache, help="%(default)s")


def _case(case: str, asked: argparse.Namespace) -> Iterator[Figure]:
    project = Project(asked.folder)
    if case == "one-step":
        parts = [_one_step(project, asked.recipe, number) for number in range(WEEKS // REFIT)]
        yield from Forecasts.pooled(parts).figures(case)
        return
    if case.startswith("h39-"):
        yield from _kaggle(project, asked.recipe, case.removeprefix("h39-")).figures(case)
        return
    origins = H8 if case == "h8" else (case.removeprefix("h8-"),)
    parts = [_eight_weeks(project, asked.recipe, origin) for origin in origins]
    if len(parts) > 1:
        for origin, part in zip(origins, parts, strict=True):
            yield from part.figures(f"h8-{origin}")
    pooled = Forecasts.pooled(parts)
    yield from pooled.figures(case)
    for name, which_M in _slices(pooled):
        yield from pooled.chosen(which_M).figures(f"{case}-{name}")


def _slices(pooled: Forecasts) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield what is scored by itself, where there is any of it."""
    for first, last in STEPS:
        span = str(first) if first == last else f"{first}-{last}"
        yield f"step-{span}", (first <= pooled.step_M) & (pooled.step_M <= last)
    yield "holidays", pooled.weight_M > 1
    peak_M = np.isin(pooled.week_M.astype("datetime64[D]"), np.array(PEAKS, "datetime64[D]"))
    if peak_M.any():
        yield "christmas", peak_M


def _eight_weeks(project: Project, name: str, origin: str) -> Forecasts:
    recipe, snapshot, bundle = _fitted(project, name, _moment(origin))
    rows = snapshot.rows("test")
    panel = lay_out(snapshot.labels(), recipe)
    systems = _systems(recipe, snapshot, bundle, rows)
    return _scored(panel, rows, recipe.horizon, systems)


def _kaggle(project: Project, name: str, origin: str) -> Forecasts:
    """Forecast 39 weeks: the bundle as far as it looks, the seasonal baseline from there on."""
    recipe, snapshot, bundle = _fitted(project, name, _moment(origin))
    rows = snapshot.rows("test")
    panel = lay_out(project.build(_without_audit(project, name)).labels(), recipe)
    history = History(panel.label_SP, *panel.positions_of(rows), KAGGLE_WEEKS, recipe.season)
    blend_NH = _long_baseline(project, recipe, panel, rows)
    past = snapshot.rows() if bundle.looks_back else None
    forecast_NHQ = np.repeat(blend_NH[:, :, None], 3, axis=2)
    forecast_NHQ[:, : recipe.horizon] = bundle.forecast(rows, snapshot.known(), past)
    systems = {
        "feastrain": forecast_NHQ[:, :, 1],
        "blend": blend_NH,
        "seasonal-naive-growth": seasonal_naive_growth(history),
        "seasonal-naive": seasonal_naive(history),
    }
    return _scored(panel, rows, KAGGLE_WEEKS, systems)


def _one_step(project: Project, name: str, number: int) -> Forecasts:
    """Fit at one moment, and forecast the next week from it and from the weeks that follow."""
    first = _moment(ONE_STEP) + number * REFIT * WEEK
    recipe, _, bundle = _fitted(project, name, first)
    everything = project.build(_without_audit(project, name))
    panel = lay_out(everything.labels(), recipe)
    moments = pa.array([first + week * WEEK for week in range(REFIT)], pa.timestamp("us", "UTC"))
    rows = everything.rows()
    rows = rows.filter(pc.is_in(rows["event_timestamp"], value_set=moments))
    return _scored(panel, rows, 1, _systems(recipe, everything, bundle, rows))


def _scored(panel: Panel, rows: pa.Table, horizon: int, systems: dict[str, Floats]) -> Forecasts:
    """Return what came out of every series after the cut-offs of rows, beside the forecasts.

    A series that has sales then but no row at the cut-off had none before: its forecast is 0.
    """
    series_N, position_N = panel.positions_of(rows)
    cutoff_G, group_N = np.unique(position_N, return_inverse=True)
    ahead_GH = cutoff_G[:, None] + np.arange(horizon) + 1
    label_SGH, weight_SGH = panel.label_SP[:, ahead_GH], panel.weight_SP[:, ahead_GH]
    seen_SGH = np.isfinite(label_SGH)
    found = {}
    for system, forecast in systems.items():
        told = np.zeros((*label_SGH.shape, *forecast.shape[2:]))
        told[series_N, group_N] = forecast[:, :horizon]
        found[system] = told[seen_SGH]
    step_SGH, week_SGH = (
        np.broadcast_to(of_GH, label_SGH.shape)
        for of_GH in (np.arange(horizon) + 1, panel.periods[ahead_GH])
    )
    columns = (label_SGH, weight_SGH, step_SGH, week_SGH)
    return Forecasts(*(column[seen_SGH] for column in columns), found)


def _long_baseline(project: Project, recipe: Recipe, panel: Panel, rows: pa.Table) -> Floats:
    """Return [N, 39]: the project's seasonal baseline of rows of one cut-off."""
    assert recipe.transform is not None
    module = runpy.run_path(str(project.root / recipe.transform.python))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA raw; CREATE SCHEMA features")
        for table in (project.root / recipe.transform.inputs).glob("*.parquet"):
            connection.execute(f"CREATE VIEW raw.{table.stem} AS FROM '{table}'")
        connection.execute((project.root / recipe.transform.sql).read_text())
        weeks = module["Panel"](connection, horizon=KAGGLE_WEEKS)
    series_N, position_N = panel.positions_of(rows)
    made = weeks.rows(int(position_N[0]))
    stamps = pa.array([rows["event_timestamp"][0].as_py()] * len(made), TIMESTAMP)
    made_M, _ = panel.positions_of(made.append_column("event_timestamp", stamps))
    base_SH = np.zeros((len(panel.series), KAGGLE_WEEKS))
    steps = range(1, KAGGLE_WEEKS + 1)
    base_SH[made_M] = np.column_stack([made[f"baseline_{step}"].to_numpy() for step in steps])
    return base_SH[series_N]


def _systems(
    recipe: Recipe, snapshot: Snapshot, bundle: Bundle, rows: pa.Table
) -> dict[str, Floats]:
    """Return every system's forecasts of the rows, [N, H] or [N, H, Q]."""
    known = snapshot.known()
    panel = lay_out(snapshot.labels(), recipe)
    history = History(panel.label_SP, *panel.positions_of(rows), recipe.horizon, recipe.season)
    learnt = Snapshot.open(snapshot.path.with_name(bundle.lineage["snapshot"]))
    past = snapshot.rows() if bundle.looks_back else None
    networks = [
        member.forecast(bundle.encoder, rows, known, past)[:, :, 1]
        for member in bundle.members
        if isinstance(member, Exported)
    ]
    alone = {"feastrain-network": np.mean(networks, axis=0)} if networks else {}
    return {
        "feastrain": bundle.forecast(rows, known, past),
        **alone,
        "lightgbm": forecast_with_trees(
            bundle.encoder, learnt.rows("train"), learnt.rows("validation"), rows, known, seed=0
        ),
        "blend": bundle.encoder.base(rows, "baseline"),
        "seasonal-naive-growth": seasonal_naive_growth(history),
        "seasonal-naive": seasonal_naive(history),
    }


def _fitted(project: Project, name: str, origin: datetime) -> tuple[Recipe, Snapshot, Bundle]:
    path = _without_audit(project, name)
    recipe = project.recipe(path)
    snapshot = project.build(path, as_of=origin + recipe.horizon * WEEK)
    return recipe, snapshot, load_bundle(train(path, snapshot, project.artifacts).path)


def _without_audit(project: Project, name: str) -> Path:
    """Write the recipe as it is, but for the audit of every snapshot: one is enough."""
    content = yaml.safe_load(project.recipe_path(name).read_text())
    content |= {"name": f"{name}-accuracy", "audit": {"enabled": False}}
    content.pop("drift", None)
    path = project.root / "recipes" / f"{name}-accuracy.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _moment(origin: str) -> datetime:
    return datetime.fromisoformat(origin).replace(tzinfo=UTC) + CLOSE


if __name__ == "__main__":
    main()
