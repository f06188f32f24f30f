"""A backtest as one self-contained page: drawn in SVG, no script, nothing fetched."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.evaluation.charts import Plot, short
from feastrain.evaluation.metrics import reached, score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feastrain.evaluation.backtest import Entry
    from feastrain.evaluation.forecasts import Forecasts

WORST, FANS = 15, 4
"""Series in the table, and charts of the best and of the worst forecasts."""
HISTORY = 3
"""A chart shows so many times the horizon before the cut-off, and at least `LEAST_HISTORY`."""
LEAST_HISTORY = 26
COLOURS = 8


@dataclass(frozen=True)
class Report:
    """What the page is made from."""

    name: str
    label: str
    """The label's column, whose unit errors are in."""
    bar: str
    """The system that a model must beat."""
    entries: Sequence[Entry]
    forecasts: Forecasts
    scores: pa.Table
    labels: pa.Table


def as_page(report: Report) -> str:
    """Return the backtest as a page."""
    cutoffs = pc.unique(report.forecasts.table["event_timestamp"]).to_pylist()
    dates = ", ".join(f"{cutoff:%Y-%m-%d}" for cutoff in sorted(cutoffs))
    fans = _Fans(report)
    best, worst = fans.extremes()
    return _PAGE.substitute(
        recipe=escape(report.name),
        about=escape(
            f"{report.entries[0].scores.rows:,} labels ({report.label}) after the cut-offs {dates}."
        ),
        leaderboard=_leaderboard(report),
        steps=_steps(report),
        legend=_legend(report),
        calibration=_calibration(report),
        series=_series(report),
        best="".join(map(fans.draw, best)),
        worst="".join(map(fans.draw, worst)),
        colours=_COLOURS,
    )


def _leaderboard(report: Report) -> str:
    rows = []
    for entry in report.entries:
        weak = not entry.beats_growth and entry.system != report.bar
        mark = f' <span class="weak">no better than {escape(report.bar)}</span>' if weak else ""
        ours = ' class="ours"' if entry.system == report.forecasts.model else ""
        rows.append(
            f"<tr{ours}><td>{escape(entry.system)}{mark}</td>" + _cells(*entry.cells) + "</tr>"
        )
    heads = ("WMAE", "vs seasonal naive", "MAE", "RMSE", "WAPE", "bias", "quantile loss")
    return _table(("system", *heads, "inside the band", "WMAE on special periods"), rows)


def _steps(report: Report) -> str:
    """Draw WMAE by step, a line a system."""
    of = report.forecasts
    step_M = of.table["step"].to_numpy()
    label_M, weight_M = of.numbers("label"), of.numbers("weight")
    steps = np.unique(step_M[np.isfinite(label_M)])
    chosen = [np.flatnonzero(step_M == step) for step in steps]
    lines = {
        system: [
            (float(step), score(label_M[index], weight_M[index], point_M[index]).wmae)
            for step, index in zip(steps, chosen, strict=True)
        ]
        for system in of.systems
        for point_M in [of.point(system)]
    }
    plot = Plot(steps, [wmae for points in lines.values() for _, wmae in points])
    every = max(1, -(-len(steps) // 13))
    plot.mark_x({float(step): str(step) for step in steps[::every]})
    plot.name_x("step")
    for place, (system, points) in reversed(list(enumerate(lines.items()))):
        plot.line(points, f"c{place % COLOURS}", system)
        titles = [f"{system}, step {step:g}: {wmae:,.0f}" for step, wmae in points]
        plot.dots(points, f"c{place % COLOURS}", titles)
    return plot.svg("WMAE by step of every system")


def _legend(report: Report) -> str:
    return "".join(
        f'<li><span class="swatch c{place % COLOURS}"></span>{escape(system)}</li>'
        for place, system in enumerate(report.forecasts.systems)
    )


def _calibration(report: Report) -> str:
    """Draw the share of labels that each quantile of the model reached, and say it by group."""
    of = report.forecasts
    levels, quantile_MQ = of.systems[of.model], of.quantile(of.model)
    assert quantile_MQ is not None
    label_M = of.numbers("label")
    special_M = of.table["special"].to_numpy(zero_copy_only=False)
    kinds = {"all": np.ones(len(label_M), bool), "ordinary": ~special_M, "special": special_M}
    plot = Plot([0, 1], [0, 1])
    plot.mark_x({level: f"{level:g}" for level in (0.0, *levels, 1.0)})
    plot.name_x("quantile; on the diagonal it is reached as often as it says")
    plot.line([(0, 0), (1, 1)], "wall")
    for place, (kind, of_kind) in enumerate(kinds.items()):
        index = np.flatnonzero(of_kind & np.isfinite(label_M))
        if len(index):
            shares = reached(label_M[index], quantile_MQ[index])
            points = list(zip(levels, shares, strict=True))
            titles = [f"{kind}: {share:.1%} at or below the {q:g} quantile" for q, share in points]
            plot.line(points, f"c{place}", kind)
            plot.dots(points, f"c{place}", titles)
    names = "".join(
        f'<li><span class="swatch c{n}"></span>{kind}</li>' for n, kind in enumerate(kinds)
    )
    svg = plot.svg("Share of labels at or below each quantile")
    return f'{svg}<ul class="legend">{names}</ul>{_coverage(report)}'


def _coverage(report: Report) -> str:
    of, levels = report.forecasts, report.forecasts.systems[report.forecasts.model]
    rows = [
        f"<tr><td>{escape(_said_of(row))}</td>"
        + _cells(f"{row['rows']:,}", f"{row['coverage']:.1%}")
        + "</tr>"
        for row in report.scores.to_pylist()
        if row["system"] == of.model and row["by"] in {"all", "step", "special"}
    ]
    aim = f"inside {levels[0]:g} to {levels[-1]:g} (aim {levels[-1] - levels[0]:.0%})"
    return _table(("labels", "counted", aim), rows)


def _said_of(row: dict[str, Any]) -> str:
    if row["by"] == "special":
        return "special periods" if row["group"] == "yes" else "ordinary periods"
    return "all" if row["by"] == "all" else f"step {row['group']}"


def _series(report: Report) -> str:
    """Tabulate the series whose forecasts were off by most, in the label's unit."""
    of = report.forecasts
    frame = of.table.select([*of.entities, "label", of.model]).to_pandas().dropna()
    frame["error"] = frame[of.model] - frame["label"]
    frame["absolute"], frame["size"] = frame["error"].abs(), frame["label"].abs()
    grouped = frame.groupby(list(of.entities), sort=False)[["absolute", "error", "size"]].sum()
    total = float(grouped["absolute"].sum()) or 1.0
    rows = [
        f"<tr>{''.join(f'<td>{escape(str(part))}</td>' for part in _tuple(key))}"
        + _cells(
            f"{off:,.0f}",
            f"{off / total:.1%}",
            f"{error:+,.0f}",
            f"{off / size:.1%}" if size else "",
        )
        + "</tr>"
        for key, off, error, size in grouped.nlargest(WORST, "absolute").itertuples()
    ]
    heads = (f"{report.label} off", "of all error", "too much or too little", "WAPE")
    return _table((*of.entities, *heads), rows)


class _Fans:
    """Charts of the model's forecasts of one series from one cut-off."""

    def __init__(self, report: Report) -> None:
        self._report, of = report, report.forecasts
        self._keys = [*of.entities, "event_timestamp"]
        frame = of.table.select([*self._keys, "label", of.model]).to_pandas()
        frame["off"] = (frame[of.model] - frame["label"]).abs()
        frame["size"] = frame["label"].abs()
        self._rows = frame.groupby(self._keys, sort=False)[["off", "size"]].sum().reset_index()

    def extremes(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the best forecasts of the larger half of series, and those off by most."""
        rows = self._rows[self._rows["size"] > 0]
        large = rows[rows["size"] >= rows["size"].median()]
        nearest = (large["off"] / large["size"]).nsmallest(FANS).index
        best, worst = rows.loc[nearest], rows.nlargest(FANS, "off")
        return best.to_dict("records"), worst.to_dict("records")

    def draw(self, row: dict[str, Any]) -> str:
        """Draw one: what was sold before and after the cut-off, the median, and the bands."""
        of, cutoff = self._report.forecasts, row["event_timestamp"]
        ahead = _of_key(of.table, {key: row[key] for key in self._keys}).sort_by("step")
        steps = [float(step) for step in ahead["step"].to_pylist()]
        horizon = len(steps)
        history = self._history(row, cutoff, horizon)
        levels = of.systems[of.model]
        spread = {q: _points(steps, ahead[f"{of.model}@{q}"]) for q in levels}
        actual, median = _points(steps, ahead["label"]), _points(steps, ahead[of.model])
        every = [history, actual, median, *spread.values()]
        plot = Plot(
            [x for points in every for x, _ in points] or [0, 1],
            [y for points in every for _, y in points],
            height=220,
        )
        for low, high in zip(levels[: len(levels) // 2], reversed(levels), strict=False):
            plot.band(spread[low], spread[high], "c0")
        plot.wall(0)
        plot.line(history + actual, "truth", self._report.label)
        plot.line(median, "c0", of.model)
        titles = [f"step {x:g}: {y:,.0f} forecast" for x, y in median]
        plot.dots(median, "c0", titles)
        seen = [(x, y) for x, y in actual if np.isfinite(y)]
        plot.dots(seen, "truth", [f"step {x:g}: {y:,.0f} came" for x, y in seen])
        marks = {
            float(x): f"{x:+g}" for x in (-LEAST_HISTORY, -horizon, horizon) if x >= history[0][0]
        }
        plot.mark_x({0.0: f"{cutoff:%Y-%m-%d}", **marks})
        name = ", ".join(f"{entity} {row[entity]}" for entity in of.entities)
        told = f"off by {short(row['off'])} of {short(row['size'])}"
        chart = plot.svg(f"Forecast of {name} from {cutoff:%Y-%m-%d}")
        return f"<figure><figcaption>{escape(name)}: {told}</figcaption>{chart}</figure>"

    def _history(self, row: dict[str, Any], cutoff: Any, horizon: int) -> list[tuple[float, float]]:
        """Return what came before the cut-off by period, 0 at the cut-off and less before it."""
        entities = self._report.forecasts.entities
        series = _of_key(self._report.labels, {name: row[name] for name in entities})
        stamps = series["event_timestamp"].to_numpy().astype("datetime64[s]").astype(np.int64)
        grid = self._report.labels["event_timestamp"]
        every = np.unique(grid.to_numpy().astype("datetime64[s]").astype(np.int64))
        period = int(np.diff(every).min(initial=np.iinfo(np.int64).max))
        lags = (stamps - int(cutoff.timestamp())) / period
        known = dict(zip(lags, series["label"].to_pylist(), strict=True))
        first = -max(LEAST_HISTORY, HISTORY * horizon)
        return [(float(lag), known.get(lag, np.nan)) for lag in range(first, 1)]


def _of_key(table: pa.Table, key: dict[str, Any]) -> pa.Table:
    for name, value in key.items():
        scalar = pa.scalar(value).cast(table.schema.field(name).type)
        table = table.filter(pc.equal(table[name], scalar))
    return table


def _points(xs: Sequence[float], ys: pa.ChunkedArray) -> list[tuple[float, float]]:
    values = ys.to_numpy().astype(float)
    return list(zip(xs, values.tolist(), strict=True))


def _tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _cells(*texts: str) -> str:
    return "".join(f'<td class="number">{escape(text)}</td>' for text in texts)


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


_LIGHT = ("#1f6fd0", "#c2410c", "#2f855a", "#8e44ad", "#a16207", "#0e7490", "#be185d", "#64748b")
_DARK = ("#7db4ff", "#ff9a62", "#6fd39b", "#d29bf0", "#e5b94e", "#5cc9dd", "#ff8dc0", "#a9b4c2")


def _rules(colours: Sequence[str], indent: str) -> str:
    return "\n".join(f"{indent}.c{n} {{ --c: {colour}; }}" for n, colour in enumerate(colours))


_COLOURS = (
    f"{_rules(_LIGHT, '')}\n@media (prefers-color-scheme: dark) {{\n{_rules(_DARK, '  ')}\n}}"
)

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Backtest of $recipe</title>
<style>
:root { color-scheme: light dark; --edge: #d5d9e0; --faint: #5b6472; --warn: #a33a00; }
@media (prefers-color-scheme: dark) {
  :root { --edge: #3a404a; --faint: #a0a8b5; --warn: #ffb185; }
}
$colours
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
p { color: var(--faint); margin: .2rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--edge); }
td.number { text-align: right; white-space: nowrap; }
tr.ours td { font-weight: 600; }
.weak { color: var(--warn); font-size: .85em; font-weight: 400; white-space: nowrap; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr));
  gap: 0 2rem; }
figure { margin: 0 0 1rem; }
figcaption { font-size: .9rem; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: currentColor; } svg text.axis { fill: var(--faint); }
.line { fill: none; stroke: var(--c, currentColor); stroke-width: 1.6; }
.line.wall { stroke: var(--faint); stroke-dasharray: 4 4; stroke-width: 1; }
.band { fill: var(--c); fill-opacity: .22; }
.dot { fill: var(--c, currentColor); }
.grid { stroke: var(--edge); } .wall { stroke: var(--faint); stroke-dasharray: 4 4; }
.legend { list-style: none; margin: .2rem 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .2rem 1.2rem; font-size: .9rem; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em;
  background: var(--c); border-radius: 2px; }
</style></head><body>
<h1>Backtest of $recipe</h1>
<p>$about Each origin was forecast by a model that knew nothing later. Errors are forecast minus
label.</p>
<h2>Leaderboard</h2>
$leaderboard
<div class="pair">
<section><h2>WMAE by step</h2>$steps<ul class="legend">$legend</ul></section>
<section><h2>Calibration</h2>$calibration</section>
</div>
<h2>Series that were off by most</h2>
$series
<h2>Best forecasts</h2>
<p>Of the larger half of series, the least error for what came. The line is what came, the dots
the median, the band the outermost quantiles.</p>
<div class="pair">$best</div>
<h2>Worst forecasts</h2>
<p>The largest error in the unit of the label.</p>
<div class="pair">$worst</div>
</body></html>
""")
