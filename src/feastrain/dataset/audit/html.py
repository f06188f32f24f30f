"""An audit as one self-contained page: no script, nothing fetched."""

from __future__ import annotations

from html import escape
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feastrain.dataset.audit.report import AuditReport, Finding

HEADLINES = {
    "clean": "No feature knows the future",
    "leak": "A feature knows the future",
    "unstable": "A feature is not the same twice",
    "suspicious": "A feature tells the label too well",
    "not proven": "Not everything could be proven",
}


def as_html(report: AuditReport) -> str:
    """Return the report as a page."""
    return _PAGE.substitute(
        headline=escape(HEADLINES[report.verdict]),
        verdict=report.verdict.replace(" ", "-"),
        recipe=escape(report.recipe),
        service=escape(report.service),
        counts=_counts(report),
        method=_method(report),
        findings="\n".join(_row(finding) for finding in report.findings),
        tables="".join(
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(when)}</td></tr>"
            for name, when in report.tables.items()
        ),
        notes="".join(f"<p class=note>{escape(note)}</p>" for note in report.notes),
    )


def _counts(report: AuditReport) -> str:
    verdicts = [finding.verdict for finding in report.findings]
    return " ".join(
        _badge(verdict, f"{verdicts.count(verdict)} {verdict}")
        for verdict in dict.fromkeys(verdicts)
    )


def _badge(verdict: str, text: str) -> str:
    return f'<span class="badge {verdict.replace(" ", "-")}">{text}</span>'


def _method(report: AuditReport) -> str:
    if not report.cutoffs:
        return "The label can be reached from the feature service, so no row was built again."
    ahead = f" and {report.known_rows:,} rows known ahead" if report.known_rows else ""
    return (
        f"{report.rows:,} rows{ahead} at {len(report.cutoffs)} cut-offs "
        f"({', '.join(cutoff[:10] for cutoff in report.cutoffs)}) were built again from sources "
        f"whose later facts were {escape(', '.join(report.mutations))} at random "
        f"(seed {report.seed}). What did not move cannot have known them."
    )


def _row(finding: Finding) -> str:
    examples = "".join(
        f"<tr><td>{escape(', '.join(f'{k} {v}' for k, v in example.keys.items()))}</td>"
        f"<td>{escape(example.cutoff[:19])}</td><td>{escape(example.before)}</td>"
        f"<td>{escape(example.after)}</td></tr>"
        for example in finding.examples
    )
    table = (
        "<table class=examples><tr><th>row</th><th>cut-off</th><th>before</th><th>after</th></tr>"
        f"{examples}</table>"
        if examples
        else ""
    )
    origin = "".join(f"<code>{escape(source)}</code> " for source in finding.sources)
    return (
        f"<tr><td>{_badge(finding.verdict, finding.verdict)}"
        f"</td><td><code>{escape(finding.feature)}</code></td><td>{escape(finding.view)}</td>"
        f"<td>{escape(finding.evidence)}{f'<p>Comes from {origin}</p>' if origin else ''}{table}"
        "</td></tr>"
    )


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Leakage audit: $recipe</title>
<style>
:root { color-scheme: light dark;
  --line: #8884; --leak: #c62828; --warn: #b26a00; --clean: #2e7d32; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; border-left: .4rem solid var(--line);
  padding-left: .8rem; }
h1.leak { border-color: var(--leak); } h1.clean { border-color: var(--clean); }
h1.unstable, h1.suspicious, h1.not-proven { border-color: var(--warn); }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .4rem .6rem;
  border-bottom: 1px solid var(--line); }
.examples { margin-top: .4rem; font-size: .85rem; width: auto; font-variant-numeric: tabular-nums; }
.badge { border-radius: 1rem; padding: .05rem .6rem; font-size: .85rem; white-space: nowrap;
  color: #fff; background: #777; }
.badge.leak { background: var(--leak); } .badge.clean { background: var(--clean); }
.badge.unstable, .badge.suspicious { background: var(--warn); }
.note { border-left: .3rem solid var(--warn); padding-left: .8rem; }
</style></head><body>
<h1 class="$verdict">$headline</h1>
<p>Recipe <code>$recipe</code>, feature service <code>$service</code> &middot; $counts</p>
<p>$method</p>
$notes
<table><tr><th>verdict</th><th>feature</th><th>view</th><th>evidence</th></tr>
$findings
</table>
<h2>What was changed</h2>
<table><tr><th>table</th><th>its rows count as</th></tr>$tables</table>
</body></html>
""")
