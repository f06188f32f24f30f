"""A comparison of the two stores as one self-contained page: no script, nothing fetched."""

from __future__ import annotations

from html import escape
from string import Template
from typing import TYPE_CHECKING

from feastrain.dataset.skew.compare import CAUSES

if TYPE_CHECKING:
    from feastrain.dataset.skew.report import Example, Finding, SkewReport


def as_html(report: SkewReport) -> str:
    """Return the report as a page."""
    clean = not report.findings
    return _PAGE.substitute(
        verdict="clean" if clean else "skew",
        headline="Online and offline agree" if clean else "Online and offline differ",
        recipe=escape(report.recipe),
        store=escape(report.online_store),
        as_of=escape(report.as_of),
        told=f"{report.differing:,} of {report.values:,} values of {report.series:,} series differ",
        causes="".join(
            f"<tr><td>{cause}</td><td>{count:,}</td><td>{escape(CAUSES[cause])}</td></tr>"
            for cause, count in report.by_cause.items()
        ),
        views="".join(
            f"<tr><td><code>{escape(view)}</code></td><td>{count:,}</td></tr>"
            for view, count in report.compared.items()
        ),
        findings="".join(_row(finding) for finding in report.findings),
    )


def _row(finding: Finding) -> str:
    examples = "".join(_example(example) for example in finding.examples)
    return (
        f"<tr><td><code>{escape(finding.view)}</code></td>"
        f"<td><code>{escape(finding.feature)}</code></td>"
        f"<td>{finding.cause}</td><td>{finding.count:,}</td>"
        "<td><table><tr><th>entity</th><th>online</th><th>offline</th></tr>"
        f"{examples}</table></td></tr>"
    )


def _example(example: Example) -> str:
    keys = ", ".join(f"{name} {value}" for name, value in example.keys.items())
    online, offline = (
        escape(value) + (f"<br><small>{escape(event)}</small>" if event else "")
        for value, event in (
            (example.online, example.online_event),
            (example.offline, example.offline_event),
        )
    )
    return f"<tr><td>{escape(keys)}</td><td>{online}</td><td>{offline}</td></tr>"


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Skew: $recipe</title>
<style>
:root { color-scheme: light dark; --line: #8884; --skew: #c62828; --clean: #2e7d32; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; border-left: .4rem solid var(--line); padding-left: .8rem; }
h1.skew { border-color: var(--skew); } h1.clean { border-color: var(--clean); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem;
  border-bottom: 1px solid var(--line); }
</style></head><body>
<h1 class="$verdict">$headline</h1>
<p>Recipe <code>$recipe</code>, online store <code>$store</code>, as of $as_of: $told.</p>
<table><tr><th>cause</th><th>values</th><th>meaning</th></tr>$causes</table>
<h2>Differences</h2>
<table><tr><th>view</th><th>feature</th><th>cause</th><th>values</th><th>the worst</th></tr>
$findings</table>
<h2>Compared</h2>
<table><tr><th>view</th><th>values</th></tr>$views</table>
</body></html>
""")
