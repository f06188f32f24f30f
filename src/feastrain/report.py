"""Results as tables on standard output, for a person to read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feastrain.dataset.audit import AuditReport
    from feastrain.evaluation.backtest import Backtest


def show_leaderboard(result: Backtest) -> None:
    """Print every system's scores on the same labels, best first."""
    rows = result.scores[0].scores.rows
    origins = ", ".join(origin[:10] for origin in result.origins)
    table = Table(title=f"{rows:,} held-out labels after the cut-off {origins}", title_style="bold")
    table.add_column("system")
    for heading in ("WMAE", "vs seasonal naive", "WAPE", "bias", "P10-P90 covers", "WMAE special"):
        table.add_column(heading, justify="right")
    for entry in result.scores:
        scores = entry.scores
        table.add_row(
            entry.system,
            f"{scores.wmae:,.0f}",
            f"{-entry.improvement:+.1%}" if entry.improvement else "",
            f"{scores.wape:.1%}",
            f"{scores.bias:+.1%}",
            "" if scores.coverage is None else f"{scores.coverage:.1%}",
            "" if entry.special is None else f"{entry.special.wmae:,.0f}",
        )
    console = _console()
    console.print(table)
    for system in result.missing:
        console.print(f"{system} is not installed: pip install 'feastrain[baselines]'")


def show_verdicts(verdicts: list[dict[str, Any]]) -> None:
    """Print what every expectation of the recipe found."""
    table = Table(title="Expectations", title_style="bold")
    for heading in ("column", "expects", "verdict"):
        table.add_column(heading)
    table.add_column("rows failing", justify="right")
    table.add_column("for example")
    for verdict in verdicts:
        word = "holds" if verdict["holds"] else verdict["severity"]
        table.add_row(
            verdict["column"],
            verdict["expectation"],
            word,
            f"{verdict['failures']:,} of {verdict['rows']:,}",
            ", ".join(verdict["examples"]),
        )
    _console().print(table)


def show_audit(report: AuditReport) -> None:
    """Print the verdict of an audit on every feature; clean views take one line each."""
    title = f"{report.rows:,} rows at {len(report.cutoffs)} cut-offs, built again"
    table = Table(title=title, title_style="bold")
    for heading in ("feature", "view", "verdict", "evidence"):
        table.add_column(heading, overflow="fold")
    for finding in report.findings:
        if finding.verdict != "clean":
            style = "bold red" if finding.verdict == "leak" else "yellow"
            word = "LEAK" if finding.verdict == "leak" else finding.verdict
            evidence = escape(finding.evidence)
            table.add_row(finding.feature, finding.view, f"[{style}]{word}[/]", evidence)
    clean = Counter(finding.view for finding in report.of("clean"))
    for view, count in clean.items():
        table.add_row(f"{count} features", view, "[green]clean[/]", "no row moved")
    console = _console()
    console.print(table)
    for note in report.notes:
        console.print(note, markup=False)


def show_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values, one a line."""
    table = Table(title=title, title_style="bold", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    _console().print(table)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)
