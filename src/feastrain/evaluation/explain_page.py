"""An explanation as one self-contained page: drawn in SVG, no script, nothing fetched."""

from __future__ import annotations

from html import escape
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from feastrain.evaluation.explain import Shares

ROLES = {
    "static": "What does not change",
    "past": "The past, period by period",
    "future": "The periods ahead",
}
LABEL, WIDTH, ROW = 210, 330, 22
"""Pixels of a bar's name, of the longest bar, and of one row."""
CELL = 20


def as_page(shares: Shares) -> str:
    """Return the explanation as a page."""
    return _PAGE.substitute(
        recipe=escape(shares.recipe),
        about=escape(f"Means over {shares.rows:,} {shares.part} rows."),
        charts="\n".join(
            f"<section><h2>{title}</h2>{_bars(getattr(shares, role))}</section>"
            for role, title in ROLES.items()
        ),
        attention=_heat_map(shares.attention),
        special=_said_of_special(shares.special),
    )


def _bars(shares: Mapping[str, float]) -> str:
    largest = max(shares.values(), default=1.0) or 1.0
    rows = "".join(
        f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{LABEL}" y="{y + 4}" width="{WIDTH * share / largest:.1f}" height="14"/>'
        f'<text x="{LABEL + WIDTH * share / largest + 6:.1f}" y="{y + 15}">{share:.1%}</text>'
        for y, (name, share) in zip(range(0, ROW * len(shares), ROW), shares.items(), strict=True)
    )
    return _svg(LABEL + WIDTH + 60, ROW * len(shares), rows)


def _heat_map(attention: Sequence[Sequence[float]]) -> str:
    """Draw [H][L + H] shares: a row a step, a column a period, the darker the more."""
    horizon, periods = len(attention), len(attention[0])
    context, left, top = periods - horizon, 60, 26
    largest = max(max(row) for row in attention) or 1.0
    cells = "".join(
        f'<rect x="{left + CELL * column}" y="{top + CELL * row}" width="{CELL - 1}" '
        f'height="{CELL - 1}" fill-opacity="{share / largest:.3f}">'
        f"<title>step {row + 1}, {_period(column, context)}: {share:.1%}</title></rect>"
        for row, shares in enumerate(attention)
        for column, share in enumerate(shares)
    )
    steps = "".join(
        f'<text x="{left - 8}" y="{top + CELL * row + 14}" text-anchor="end">step {row + 1}</text>'
        for row in range(horizon)
    )
    marks = "".join(
        f'<text x="{left + CELL * column + CELL / 2}" y="16" text-anchor="middle">{text}</text>'
        for column in range(periods)
        for text in [_mark(column, context)]
    )
    line = left + CELL * context - 0.5
    border = f'<line x1="{line}" y1="4" x2="{line}" y2="{top + CELL * horizon}"/>'
    width = left + CELL * periods
    return _svg(width, top + CELL * horizon, cells + steps + marks + border)


def _period(column: int, context: int) -> str:
    if column >= context:
        return f"on step {column - context + 1}"
    return f"on lag {context - column}"


def _mark(column: int, context: int) -> str:
    """Name every fourth past period by its lag, and the steps by their number."""
    if column >= context:
        return f"+{column - context + 1}"
    lag = context - column
    return str(lag) if lag == 1 or lag % 4 == 0 else ""


def _said_of_special(special: Mapping[str, float] | None) -> str:
    if special is None:
        return ""
    return (
        f"<p>A special past period (a holiday, say) draws {special['special']:.2%} of the "
        f"attention, an ordinary one {special['ordinary']:.2%}.</p>"
    )


def _svg(width: float, height: float, inner: str) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">{inner}</svg>'


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What forecasts rest on: $recipe</title>
<style>
:root { color-scheme: light dark; --bar: #3465a4; }
@media (prefers-color-scheme: dark) { :root { --bar: #8ab4f8; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: currentColor; } svg rect { fill: var(--bar); } svg line { stroke: currentColor; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr));
  gap: 0 2rem; }
</style></head><body>
<h1>What forecasts rest on: $recipe</h1>
<p>$about Each share is of the weights that variable selection gives, or of the attention.</p>
<main>$charts</main>
<h2>Where each step looks</h2>
<p>By lag (1 is the period that closed at the cut-off), and on the steps up to its own.</p>
$attention
$special
</body></html>
""")
