"""What a published backtest says of the model that is served: scores, and its past forecasts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from feastrain.artifacts import MANIFEST, named, open_manifest
from feastrain.recipe import recipe_of

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.recipe import Recipe
    from feastrain.serving.history import Key

FILE = "forecasts.parquet"
NAIVE = "seasonal-naive"


@dataclass(frozen=True)
class Evidence:
    """One backtest of a recipe: M rows, one for a series, cut-off and step."""

    name: str
    recipe: Recipe
    system: str
    """The column of the model's point forecast; its quantiles are `SYSTEM@0.1` ..."""
    levels: tuple[float, ...]
    entry: dict[str, Any]
    table: pa.Table

    def figures(self) -> dict[str, Any]:
        """Return the scores over every series, cut-off and step."""
        scores = self.entry["scores"]
        return {
            "backtest": self.name,
            "wape": scores["wape"],
            "bias": scores["bias"],
            "coverage": scores["coverage"],
            "nominal": self.levels[-1] - self.levels[0] if self.levels else None,
            "improvement": self.entry["improvement"],
            "labels": scores["rows"],
            "cutoffs": len(self.table["event_timestamp"].unique()),
        }

    def by_step(self) -> list[dict[str, Any]]:
        """Return WAPE of the model and of the seasonal naive forecast at each step."""
        step_M, label_M = self._numbers("step"), self._numbers("label")
        seen = np.isfinite(label_M)
        step_M, size_M = step_M[seen].astype(np.int64), np.abs(label_M[seen])
        size = np.bincount(step_M, weights=size_M)
        told = {"wape": self.system, "naive": NAIVE}
        sums = {}
        for name, system in told.items():
            error_M = np.abs(self._numbers(system)[seen] - label_M[seen])
            sums[name] = np.bincount(step_M, weights=error_M)
        return [
            {"step": step, **{name: _over(sums[name][step], size[step]) for name in told}}
            for step in range(1, len(size))
        ]

    def of(self, key: Key) -> list[dict[str, Any]]:
        """Return the forecasts of one series by cut-off, oldest first, with what happened."""
        start, stop = self._bounds.get(key, (0, 0))
        rows = self.table.slice(start, stop - start)
        stamps = rows["event_timestamp"].to_pylist()
        values = {
            str(level): rows[f"{self.system}@{level}"].to_pylist() for level in self.levels
        } or {"0.5": rows[self.system].to_pylist()}
        told: dict[Any, list[dict[str, Any]]] = {}
        for row, (at, step) in enumerate(zip(stamps, rows["step"].to_pylist(), strict=True)):
            end = at + step * self.recipe.frequency
            quantiles = {level: column[row] for level, column in values.items()}
            one = {"step": step, "period": self.recipe.period_name(end), "quantiles": quantiles}
            told.setdefault(at, []).append(one)
        return [
            {"cutoff": self.recipe.period_name(at), "steps": steps} for at, steps in told.items()
        ]

    @cached_property
    def _bounds(self) -> dict[Key, tuple[int, int]]:
        entities = list(self.recipe.entities)
        counts = self.table.group_by(entities, use_threads=False).aggregate([("step", "count")])
        stops = np.cumsum(counts["step_count"].to_numpy()).tolist()
        columns = [counts[name].to_pylist() for name in entities]
        keys = zip(*columns, strict=True)
        return dict(zip(keys, zip([0, *stops], stops, strict=False), strict=True))

    def _numbers(self, column: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self.table[column].to_numpy().astype(np.float64)
        return values


def newest_evidence(artifacts: Path, recipe: Recipe) -> Evidence | None:
    """Return the recipe's backtest that was published last, or None if there is none.

    Raises:
        ArtifactError: the backtest is damaged.
    """
    folder = artifacts / "backtests"
    found = folder.glob(f"*/{MANIFEST}") if folder.is_dir() else ()
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        manifest = open_manifest(path.parent)
        if _recipe_name(artifacts, manifest) == recipe.name:
            return _read(path.parent, manifest, recipe)
    return None


def _read(path: Path, manifest: dict[str, Any], recipe: Recipe) -> Evidence | None:
    system = recipe.model.kind
    entry = next((one for one in manifest["scores"] if one["system"] == system), None)
    if entry is None:
        return None  # the recipe has another model now
    levels = tuple(manifest["systems"][system])
    names = [*recipe.entities, "event_timestamp", "step", "label", NAIVE, system]
    columns = list(dict.fromkeys([*names, *(f"{system}@{level}" for level in levels)]))
    order = [(name, "ascending") for name in (*recipe.entities, "event_timestamp", "step")]
    table = pq.read_table(path / FILE, columns=columns).sort_by(order)
    return Evidence(path.name, recipe, system, levels, entry, table)


def _recipe_name(artifacts: Path, manifest: dict[str, Any]) -> str | None:
    """Return the name of the recipe that a backtest is of: that of its bundles."""
    for origin in manifest["forecasts"][-1:]:
        path = named(artifacts / "origins", origin)
        if not (path / MANIFEST).is_file():
            return None
        bundle = named(artifacts / "bundles", open_manifest(path)["bundle"])
        if (bundle / MANIFEST).is_file():
            text = (bundle / "lineage.json").read_text()
            return recipe_of(json.loads(text)).name
    return None


def _over(total: float, count: float) -> float | None:
    value = float(total) / float(count) if count else math.nan
    return value if math.isfinite(value) else None
