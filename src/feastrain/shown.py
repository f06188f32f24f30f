"""Results that show themselves in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_ROWS = 50


class Shown(ABC):
    """Shows itself as tables of what `to_json` returns."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""

    def _repr_html_(self) -> str:
        return f"<p><b>{escape(type(self).__name__)}</b></p>{as_html(self.to_json())}"


def as_html(value: object) -> str:
    """Return plain JSON values as tables; of a long list the first rows, and how many there are."""
    if isinstance(value, dict) and value:
        rows = "".join(
            f"<tr><th>{escape(str(key))}</th><td>{as_html(one)}</td></tr>"
            for key, one in value.items()
        )
        return f"<table>{rows}</table>"
    if isinstance(value, list | tuple) and value and all(isinstance(one, dict) for one in value):
        return _table(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(as_html, value)) or "none"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return escape("" if value is None else str(value))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a row for each dictionary, and a column for each key that any has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{as_html(row.get(name))}</td>" for name in names) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>{MOST_ROWS} of {len(rows):,} rows</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"
