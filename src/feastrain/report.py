"""Results as tables on standard output, for a person to read."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.prompt import IntPrompt
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from feastrain.adopt.candidates import Candidate
    from feastrain.adopt.reading import Guess
    from feastrain.dataset.audit import AuditReport
    from feastrain.dataset.diff import Change, Difference
    from feastrain.dataset.drift import Drift
    from feastrain.dataset.plan import Plan
    from feastrain.dataset.skew import SkewReport
    from feastrain.evaluation.backtest import Backtest
    from feastrain.evaluation.explain import Shares
    from feastrain.jobs.job import Job
    from feastrain.jobs.sizing import Size
    from feastrain.training.tuning import Tuned

SHOWN = 240
"""Most characters of a value in a table; `--json` has all of it."""
BAR = "seasonal-naive-growth"
"""The baseline that a model must beat."""
SCORED = ("WMAE", "vs naive", "MAE", "RMSE", "WAPE", "bias", "WQL", "covers", "WMAE special")
WIDEST = 40
"""Characters of the longest bar."""
_COLOURS = {"holds": "green", "warn": "yellow", "error": "red"}


def show_leaderboard(result: Backtest) -> None:
    """Print every system's scores on the same labels, best first, then by step and event."""
    rows, origins = result.scores[0].scores.rows, [origin[:10] for origin in result.origins]
    after = f"the cut-off {origins[0]}"
    if len(origins) > 1:
        after = f"{len(origins)} cut-offs, {origins[0]} to {origins[-1]}"
    table = Table(title=f"{rows:,} held-out labels after {after}", title_style="bold")
    table.add_column("system")
    for heading in SCORED:
        table.add_column(heading, justify="right")
    for entry in result.scores:
        table.add_row(
            entry.system + ("" if entry.beats_growth or entry.system == BAR else " *"),
            *entry.cells,
        )
    console = _console()
    console.print(table)
    if any(not entry.beats_growth and entry.system != BAR for entry in result.scores):
        console.print(f"* no better than {BAR}", markup=False)
    console.print(_band_table(result))
    for system in result.missing:
        console.print(
            f"{system} is not installed: pip install 'feastrain[baselines]'", markup=False
        )
    console.print(f"report: {result.page}", markup=False)


def ask_for_label(candidates: Sequence[Candidate]) -> str:
    """Show what could be forecast, and ask which of it is to be."""
    table = Table(title="What could be forecast", title_style="bold")
    for heading in ("", "column", "why"):
        table.add_column(heading)
    for number, candidate in enumerate(candidates, 1):
        _add_row(table, str(number), candidate.name, candidate.why)
    _console().print(table)
    number = IntPrompt.ask("Forecast", choices=[str(n + 1) for n in range(len(candidates))])
    return candidates[number - 1].name


def show_guesses(guesses: Sequence[Guess], root: Path) -> None:
    """Print what each part of a Feast repo was taken for, and why."""
    table = Table(title="What was guessed, and why", title_style="bold")
    for heading in ("what", "taken as", "because"):
        table.add_column(heading)
    for guess in guesses:
        _add_row(table, guess.what, guess.taken, guess.why)
    console = _console()
    console.print(table)
    console.print(f"Read {root / 'recipes' / 'mlp.yaml'} and correct it, then:", markup=False)
    console.print(f"  feastrain build mlp -C {root}", markup=False)


def _band_table(result: Backtest) -> Table:
    """Return WMAE by step and by special periods, a line a system and a column a group."""
    groups = list(dict.fromkeys((row["by"], row["group"]) for row in result.tables))
    found = {(row["system"], row["by"], row["group"]): row for row in result.tables}
    table = Table(title="WMAE by step, and on special periods or not", title_style="bold")
    table.add_column("system")
    for by, group in groups:
        counted = found[(result.scores[0].system, by, group)]["rows"]
        said = f"step {group}" if by == "step" else "special" if group == "yes" else "ordinary"
        table.add_column(f"{said}\n{counted:,}", justify="right")
    for entry in result.scores:
        scored = [found[(entry.system, *group)]["wmae"] for group in groups]
        _add_row(table, entry.system, *("" if one is None else f"{one:,.0f}" for one in scored))
    return table


def show_trials(tuned: Tuned) -> None:
    """Print every trial of a search, the best first, and where the best recipe lies."""
    table = Table(title=f"{len(tuned.trials)} trials", title_style="bold")
    for heading in ("trial", "WMAE on validation rows", "epochs"):
        table.add_column(heading, justify="right")
    table.add_column("outcome")
    for key in tuned.trials[0].values:
        table.add_column(key, justify="right")
    for trial in tuned.trials:
        wmae = "" if trial.wmae is None else f"{trial.wmae:,.2f}"
        values = [
            f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
            for value in trial.values.values()
        ]
        _add_row(table, str(trial.number), wmae, str(trial.epochs), trial.outcome, *values)
    console = _console()
    console.print(table)
    console.print(f"best recipe: {tuned.recipe}", markup=False)


def show_jobs(jobs: Sequence[Job]) -> None:
    """Print jobs: their state, how far each is, and what is said of it."""
    table = Table(title=f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}", title_style="bold")
    for heading in ("job", "recipe", "state", "nodes", "done", "left", "why"):
        table.add_column(heading)
    for job in jobs:
        done = "" if job.percent is None else f"{job.percent}%"
        left = (
            "" if job.remaining_seconds is None else str(timedelta(seconds=job.remaining_seconds))
        )
        _add_row(table, job.name, job.recipe, job.state, str(job.nodes), done, left, job.why)
    _console().print(table)


def show_verdicts(verdicts: list[dict[str, Any]]) -> None:
    """Print what every expectation of the recipe found, the broken ones first, with their rows."""
    if not verdicts:
        _console().print("The recipe has no `expectations`, which say what data build refuses.")
        return
    table = Table(title="Expectations", title_style="bold")
    for heading in ("column", "expects", "verdict"):
        table.add_column(heading)
    table.add_column("failing", justify="right")
    table.add_column("found")
    ranked = sorted(verdicts, key=lambda verdict: bool(verdict["holds"]))
    for verdict in ranked:
        word = "holds" if verdict["holds"] else verdict["severity"]
        one = verdict["rows"] == 1
        _add_row(
            table,
            verdict["column"],
            verdict["expectation"],
            Text(word, style=_COLOURS[word]),
            "" if one else f"{verdict['failures']:,} of {verdict['rows']:,}",
            verdict["found"],
        )
    console = _console()
    console.print(table)
    for verdict in ranked:
        if verdict["examples"]:
            console.print(_example_table(verdict))


def _example_table(verdict: dict[str, Any]) -> Table:
    title = f"{verdict['column']}: {verdict['expectation']}"
    table = Table(title=title, title_style="bold", title_justify="left")
    for name in verdict["examples"][0]["key"]:
        table.add_column(name)
    table.add_column("value", justify="right")
    for example in verdict["examples"]:
        value = "null" if example["value"] is None else str(example["value"])
        _add_row(table, *(str(part) for part in example["key"].values()), value)
    return table


def show_drift(drift: Drift, title: str) -> None:
    """Print how far every feature moved, worst first."""
    table = Table(title=title, title_style="bold")
    table.add_column("feature")
    table.add_column("as")
    for heading in ("PSI", "KS", "missing before", "after"):
        table.add_column(heading, justify="right")
    table.add_column("new categories")
    for feature in drift.features:
        new = ", ".join(feature.new_categories)
        _add_row(
            table,
            feature.feature,
            feature.kind,
            f"{feature.psi:.3f}",
            "" if feature.ks is None else f"{feature.ks:.3f}",
            f"{feature.missing_before:.1%}",
            f"{feature.missing_after:.1%}",
            f"{new} ({feature.new_share:.1%} of rows)" if new else "",
        )
    console = _console()
    console.print(table)
    console.print(f"{drift.rows_before:,} rows before, {drift.rows_after:,} after")
    for word, names in (("only before", drift.removed), ("only after", drift.added)):
        if names:
            console.print(f"{word}: {', '.join(names)}", markup=False)


def show_difference(difference: Difference) -> None:
    """Print every input that changed between two snapshots, and what came of it."""
    for title, changes in (
        ("What they were made from", difference.inputs),
        ("What came of it", difference.outcome),
    ):
        _show_changes(title, difference.before, difference.after, changes)


def show_plan(plan: Plan) -> None:
    """Print what building a recipe would do."""
    console = _console()
    if plan.parts:
        console.print(_split_table(plan))
    facts: dict[str, object] = {
        f"{role} features": ", ".join(names) for role, names in plan.features.items() if names
    }
    for source in plan.sources:
        rows = "" if source.rows is None else f", {source.rows:,} rows"
        facts[f"reads {source.name}"] = f"{source.path} ({_size(source.bytes)}{rows})"
    facts["memory"] = f"{_size(plan.memory_bytes)}: rows x columns x 8 bytes, once"
    facts["time"] = "unknown" if plan.seconds is None else f"about {plan.seconds:,.1f} s"
    facts["snapshot"] = _said_of_snapshot(plan)
    show_facts(f"Plan of {plan.recipe}", facts)
    for sentence in (*plan.pending, *plan.missing):
        console.print(sentence, markup=False)
    if plan.changed:
        _show_changes("Changed since the last snapshot", str(plan.last), "now", plan.changed)


def show_size(size: Size, title: str) -> None:
    """Print what to ask for to train, a figure a line, and why."""
    table = Table(title=title, title_style="bold")
    table.add_column("to ask for", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("because", overflow="fold")
    for figure in size.figures:
        _add_row(table, figure.name, figure.value, figure.why)
    _console().print(table)


def _split_table(plan: Plan) -> Table:
    table = Table(title=f"Split (embargo {plan.embargo} periods)", title_style="bold")
    for heading in ("part", "first cut-off", "last cut-off"):
        table.add_column(heading)
    for heading in ("cut-offs", "rows", "labels"):
        table.add_column(heading, justify="right")
    for part in plan.parts:
        counts = (f"{count:,}" for count in (part.cutoffs, part.rows, part.labels))
        _add_row(table, part.name, part.first, part.last, *counts)
    return table


def _said_of_snapshot(plan: Plan) -> str:
    if plan.cached is None:
        return "unknown until what is listed below is there"
    return f"{plan.snapshot} ({'made already' if plan.cached else 'to be made'})"


def _show_changes(title: str, before: str, after: str, changes: Sequence[Change]) -> None:
    table = Table(title=title, title_style="bold")
    table.add_column("key", overflow="fold")
    table.add_column(before, overflow="fold")
    table.add_column(after, overflow="fold")
    for change in changes:
        _add_row(table, change.key, _short(change.before), _short(change.after))
    if changes:
        _console().print(table)
    else:
        _console().print(f"{title}: no difference")


def _short(value: object) -> str:
    """Return a value as one short text; nothing for what is not there."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _add_row(table: Table, *cells: str | Text) -> None:
    """Add a row as it reads: square brackets in data are no markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))


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


def show_explanation(shares: Shares) -> None:
    """Print the share of every variable, and of every past period, as bars."""
    console = _console()
    console.print(f"Means over {shares.rows:,} {shares.part} rows", markup=False)
    for title, of in (
        ("What does not change", shares.static),
        ("The past, period by period", shares.past),
        ("The periods ahead", shares.future),
    ):
        console.print(_share_table(title, "variable", of))
    by_lag = {str(lag): share for lag, share in shares.by_lag().items()}
    console.print(_share_table("Attention on the past (1 closed at the cut-off)", "lag", by_lag))
    console.print(f"on the periods ahead: {1 - sum(by_lag.values()):.1%}")
    if shares.special is not None:
        special, ordinary = shares.special["special"], shares.special["ordinary"]
        told = f"a special past period draws {special:.2%}, an ordinary one {ordinary:.2%}"
        console.print(told)


def _share_table(title: str, heading: str, shares: Mapping[str, float]) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left")
    table.add_column(heading)
    table.add_column("share", justify="right")
    table.add_column("")
    largest = max(shares.values(), default=0.0) or 1.0
    for name, share in shares.items():
        bar = "█" * round(WIDEST * share / largest)
        _add_row(table, name, f"{share:.1%}", Text(bar, style="blue"))
    return table


def show_skew(report: SkewReport) -> None:
    """Print what differs between the stores, by feature and cause, with its worst value."""
    title = (
        f"{report.differing:,} of {report.values:,} values of {report.series:,} series differ "
        f"as of {report.as_of[:19]}"
    )
    table = Table(title=title, title_style="bold")
    for heading in ("view", "feature", "cause"):
        table.add_column(heading)
    for heading in ("values", "worst: entity", "online", "offline"):
        table.add_column(heading, justify="right")
    for finding in report.findings:
        worst = finding.examples[0]
        keys = ", ".join(f"{name} {value}" for name, value in worst.keys.items())
        told = (finding.view, finding.feature, finding.cause, f"{finding.count:,}", keys)
        _add_row(table, *told, worst.online, worst.offline)
    if not report.findings:
        for view, count in report.compared.items():
            _add_row(table, view, "", "", f"0 of {count:,}")
    _console().print(table)


def show_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values, one a line."""
    table = Table(title=title, title_style="bold", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        _add_row(table, name, str(value))
    _console().print(table)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)
