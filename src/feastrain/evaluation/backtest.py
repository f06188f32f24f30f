"""The stage that scores a model and its baselines on the same held-out rows of all origins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feastrain.artifacts import fingerprint, is_published, open_manifest, publishing
from feastrain.errors import DataError
from feastrain.evaluation.forecasts import FILE, Forecasts, missing_systems
from feastrain.evaluation.metrics import Scores
from feastrain.evaluation.report_page import Report, as_page
from feastrain.evaluation.tables import ALL, SPECIAL, STEP, score_table
from feastrain.shown import Shown

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.recipe import Recipe

FORMAT = 2
SCORES, PAGE = "scores.parquet", "report.html"
REFERENCE, BAR = "seasonal-naive", "seasonal-naive-growth"


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard."""

    system: str
    scores: Scores
    special: Scores | None
    """Scores on special periods (holidays); None where there are none."""
    improvement: float
    """How much less WMAE than the seasonal naive forecast, as a fraction of its own."""
    beats_growth: bool
    """Whether its WMAE is less than that of the seasonal naive forecast times recent growth."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The line to read, empty where there is nothing to say.

        WMAE and how far from naive, MAE, RMSE, WAPE, bias, weighted quantile loss, coverage, and
        WMAE on special periods.
        """
        scores, special = self.scores, self.special
        return (
            f"{scores.wmae:,.0f}",
            f"{-self.improvement:+.1%}" if self.improvement else "",
            f"{scores.mae:,.0f}",
            f"{scores.rmse:,.0f}",
            f"{scores.wape:.1%}",
            f"{scores.bias:+.1%}",
            "" if scores.quantile_loss is None else f"{scores.quantile_loss:.4f}",
            "" if scores.coverage is None else f"{scores.coverage:.1%}",
            "" if special is None else f"{special.wmae:,.0f}",
        )


@dataclass(frozen=True)
class Backtest(Shown):
    """A published backtest: every system scored on the same labels, best first."""

    path: Path
    origins: tuple[str, ...]
    """All cut-offs that were forecast from."""
    scores: tuple[Entry, ...]
    tables: tuple[dict[str, Any], ...]
    """Scores of every system `by` step and special periods; by entity they are in the file."""
    missing: tuple[str, ...]
    """Systems that are not installed."""
    cached: bool

    @property
    def page(self) -> Path:
        """The report to look at."""
        return self.path / PAGE

    def to_json(self) -> dict[str, Any]:
        """Return the backtest as plain JSON values."""
        return {
            "path": str(self.path),
            "report": str(self.page),
            "origins": list(self.origins),
            "missing": list(self.missing),
            "scores": [_entry_to_json(entry) for entry in self.scores],
            "tables": list(self.tables),
        }


def backtest(recipe: Recipe, origins: list[Path], labels: pa.Table, directory: Path) -> Backtest:
    """Pool the forecasts of all origins, score every system, and publish scores and a report.

    Args:
        recipe: what was forecast.
        origins: the folders that `forecast_origin` published.
        labels: every label there is, for the report's charts.
        directory: folder of backtests; this one is `directory/FINGERPRINT`.

    Raises:
        DataError: no label was observed, or all weigh nothing.
    """
    final = directory / fingerprint(FORMAT, recipe.name, [path.name for path in origins])
    cached = is_published(final)
    if not cached:
        forecasts = Forecasts.pooled(origins, recipe.entities)
        scores = score_table(forecasts)
        entries = leaderboard(scores)
        manifest = {
            "origins": sorted({str(at) for at in forecasts.table["event_timestamp"].to_pylist()}),
            "forecasts": [path.name for path in origins],
            "scores": [_entry_to_json(entry) for entry in entries],
            "systems": {name: list(levels) for name, levels in forecasts.systems.items()},
        }
        with publishing(final, manifest) as scratch:
            pq.write_table(forecasts.table, scratch / FILE, compression="zstd")
            pq.write_table(scores, scratch / SCORES, compression="zstd")
            told = (recipe.name, recipe.label.column, BAR, entries, forecasts, scores, labels)
            (scratch / PAGE).write_text(as_page(Report(*told)))
    kept = open_manifest(final)
    tables = pq.read_table(final / SCORES)
    tables = tables.filter(pc.is_in(tables["by"], pa.array([STEP, SPECIAL]))).to_pylist()
    ranked = tuple(_entry_from_json(entry) for entry in kept["scores"])
    origins_told = tuple(kept["origins"])
    return Backtest(final, origins_told, ranked, tuple(tables), missing_systems(), cached)


def leaderboard(scores: pa.Table) -> list[Entry]:
    """Return one line for each system, the least WMAE first.

    Raises:
        DataError: no label was observed, or all weigh nothing.
    """
    overall = {row["system"]: row for row in scores.to_pylist() if row["by"] == ALL}
    special = {
        row["system"]: row
        for row in scores.to_pylist()
        if row["by"] == SPECIAL and row["group"] == "yes"
    }
    if not overall or overall[REFERENCE]["wmae"] is None:
        message = "no label of a test cut-off was observed, or all of them weigh nothing"
        raise DataError(message)
    reference, bar = overall[REFERENCE]["wmae"], overall[BAR]["wmae"]
    entries = [
        Entry(
            system=system,
            scores=_scores(row),
            special=_scores(special[system]) if system in special else None,
            improvement=1 - row["wmae"] / reference if reference else 0.0,
            beats_growth=row["wmae"] < bar,
        )
        for system, row in overall.items()
    ]
    return sorted(entries, key=lambda entry: entry.scores.wmae)


def _scores(row: dict[str, Any]) -> Scores:
    return Scores.from_json({name: row[name] for name in Scores.__dataclass_fields__})


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "system": entry.system,
        "improvement": entry.improvement,
        "beats_growth": entry.beats_growth,
        "scores": entry.scores.to_json(),
        "special": entry.special.to_json() if entry.special else None,
    }


def _entry_from_json(content: dict[str, Any]) -> Entry:
    special = content["special"]
    return Entry(
        system=content["system"],
        scores=Scores.from_json(content["scores"]),
        special=Scores.from_json(special) if special else None,
        improvement=content["improvement"],
        beats_growth=content["beats_growth"],
    )
