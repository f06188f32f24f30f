"""What every benchmark shares: its options, its table, and its figures as JSON lines."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WALMART = Path(__file__).parents[2] / "shared" / "data" / "walmart"


@dataclass(frozen=True)
class Figure:
    """One measured value."""

    benchmark: str
    case: str
    system: str
    metric: str
    value: float


def options(
    description: str | None, extend: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Read `--quick` (a short form), `--json FILE` (append each figure as a line), and more.

    `extend` adds a benchmark's own options.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a short form, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the figures to FILE")
    if extend is not None:
        extend(parser)
    return parser.parse_args()


def tell(figures: Iterable[Figure], file: Path | None) -> None:
    """Print figures as one table, a row for each case and system, and append them to `file`."""
    figures = list(figures)
    metrics = list(dict.fromkeys(figure.metric for figure in figures))
    table = Table(title=figures[0].benchmark)
    for name in ("case", "system"):
        table.add_column(name, no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right")
    cells = {(figure.case, figure.system): {} for figure in figures}
    for figure in figures:
        cells[figure.case, figure.system][figure.metric] = _shown(figure.value)
    for (case, system), values in cells.items():
        table.add_row(case, system, *(values.get(metric, "") for metric in metrics))
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    if file is not None:
        with file.open("a") as lines:
            lines.writelines(json.dumps(asdict(figure)) + "\n" for figure in figures)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
