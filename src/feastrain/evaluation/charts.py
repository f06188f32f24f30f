"""Charts as SVG text: no script, and colours by class, so that a page may be light or dark."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40


class Plot:
    """A plane of data with axes, onto which lines, bands and dots are drawn in order."""

    def __init__(self, xs: Iterable[float], ys: Iterable[float], height: int = HEIGHT) -> None:
        xs, self._y_ticks = list(xs), ticks(ys)
        self._x_from, self._x_to = min(xs), max(*xs, min(xs) + 1e-9)
        self._y_from, self._y_to = self._y_ticks[0], self._y_ticks[-1]
        self._height = height
        self._parts: list[str] = []
        for tick in self._y_ticks:
            y = self._y(tick)
            self._parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
            )

    def mark_x(self, marks: Mapping[float, str]) -> None:
        """Write texts under the plane."""
        for at, text in marks.items():
            self._parts.append(
                f'<text x="{self._x(at):.1f}" y="{self._height - 22}" text-anchor="middle">'
                f"{escape(text)}</text>"
            )

    def name_x(self, text: str) -> None:
        """Say what the horizontal axis is."""
        x = (LEFT + WIDTH - RIGHT) / 2
        self._parts.append(
            f'<text class="axis" x="{x}" y="{self._height - 5}" text-anchor="middle">'
            f"{escape(text)}</text>"
        )

    def line(self, points: Points, style: str, title: str = "") -> None:
        """Draw a line through points; one that is not a number interrupts it."""
        path, pen = [], "M"
        for x, y in points:
            if math.isfinite(y):
                path.append(f"{pen}{self._x(x):.1f} {self._y(y):.1f}")
            pen = "L" if math.isfinite(y) else "M"
        told = f"<title>{escape(title)}</title>" if title else ""
        self._parts.append(f'<path class="line {style}" d="{" ".join(path)}">{told}</path>')

    def band(self, low: Points, high: Points, style: str) -> None:
        """Fill what lies between two lines."""
        edge = [*low, *reversed(high)]
        points = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in edge)
        self._parts.append(f'<polygon class="band {style}" points="{points}"/>')

    def dots(self, points: Points, style: str, titles: Sequence[str]) -> None:
        """Draw a dot with a tip at each point."""
        for (x, y), title in zip(points, titles, strict=True):
            if math.isfinite(y):
                self._parts.append(
                    f'<circle class="dot {style}" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" '
                    f'r="3.5"><title>{escape(title)}</title></circle>'
                )

    def wall(self, at: float) -> None:
        """Draw a vertical line."""
        x = self._x(at)
        bottom = self._height - BOTTOM
        self._parts.append(f'<line class="wall" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>')

    def svg(self, label: str) -> str:
        """Return the chart; `label` says what it shows to those who do not see it."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {self._height}" width="{WIDTH}" role="img" '
            f'aria-label="{escape(label)}">{"".join(self._parts)}</svg>'
        )

    def _x(self, x: float) -> float:
        share = (x - self._x_from) / (self._x_to - self._x_from)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def _y(self, y: float) -> float:
        share = (y - self._y_from) / (self._y_to - self._y_from)
        return self._height - BOTTOM - share * (self._height - TOP - BOTTOM)


def ticks(values: Iterable[float], most: int = 5) -> list[float]:
    """Return round numbers, evenly apart, that enclose the values and zero."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    rough = (high - low) / most or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * place, 10) for place in range(first, max(last, first + 1) + 1)]


def short(value: float) -> str:
    """Write a number in few characters: 1.2M, 34k, 0.25."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"
