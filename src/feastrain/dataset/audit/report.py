"""What an audit found: a verdict for each feature, with its evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from feastrain.errors import LeakageError

if TYPE_CHECKING:
    from pathlib import Path

Verdict = Literal["clean", "leak", "unstable", "suspicious", "not proven"]
"""*leak*: moves with the future, or is the label; *unstable*: differs although nothing was
changed, so nothing can be proven; *suspicious*: tells the label too well; *not proven*: the
label can be reached, so the rest was not looked at."""

SEVERITY: tuple[Verdict, ...] = ("leak", "unstable", "suspicious", "not proven", "clean")


@dataclass(frozen=True)
class Example:
    """One row in which a feature moved: which, and its value before and after."""

    keys: dict[str, str]
    cutoff: str
    before: str
    after: str

    def __str__(self) -> str:
        keys = ", ".join(f"{key} {value}" for key, value in self.keys.items())
        return f"{keys} at cut-off {self.cutoff}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class Finding:
    """The verdict on one feature."""

    feature: str
    view: str
    verdict: Verdict
    evidence: str
    checked: int = 0
    moved: int = 0
    examples: tuple[Example, ...] = ()
    sources: tuple[str, ...] = ()
    """The raw columns that a leak moves with: `table.column`."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `asdict` wrote."""
        examples = tuple(Example(**example) for example in content["examples"])
        return cls(**{**content, "examples": examples, "sources": tuple(content["sources"])})


@dataclass(frozen=True)
class AuditReport:
    """The verdicts of one audit, the gravest first, and what they rest on."""

    recipe: str
    service: str
    findings: tuple[Finding, ...]
    seed: int
    mutations: tuple[str, ...]
    cutoffs: tuple[str, ...] = ()
    rows: int = 0
    known_rows: int = 0
    tables: dict[str, str] = field(default_factory=dict)
    """When a row of each changed table counts as known."""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict on a feature."""
        found = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in SEVERITY if verdict in found), "clean")

    def of(self, verdict: Verdict) -> list[Finding]:
        """Return the findings with one verdict."""
        return [finding for finding in self.findings if finding.verdict == verdict]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {"verdict": self.verdict, **asdict(self)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        values = {name: value for name, value in content.items() if name != "verdict"}
        lists = {name: tuple(values[name]) for name in ("cutoffs", "mutations", "notes")}
        findings = tuple(Finding.from_json(finding) for finding in values["findings"])
        return cls(**{**values, **lists, "findings": findings})

    def summary(self) -> dict[str, Any]:
        """Return what a snapshot's manifest says of its audit."""
        return {
            "verdict": self.verdict,
            "features": len(self.findings),
            "cutoffs": list(self.cutoffs),
            "rows": self.rows,
            "seed": self.seed,
            **{
                verdict: [finding.feature for finding in self.of(verdict)]
                for verdict in ("unstable", "suspicious")
            },
        }


NOT_AUDITED: dict[str, Any] = {"verdict": "not audited"}
"""What the manifest of a snapshot says whose recipe switches the audit off."""


def require_clean(report: AuditReport, path: Path) -> None:
    """Stop when a feature knows the future.

    Args:
        report: what was found.
        path: where a person can read all of it.

    Raises:
        LeakageError: names the first leak, its rows, an example, and the full report.
    """
    leaks = report.of("leak")
    if not leaks:
        return
    first = leaks[0]
    more = f"; {len(leaks) - 1} more features leak" if len(leaks) > 1 else ""
    if not first.examples:
        message = f"{first.evidence}{more}; the full report is {path}"
        raise LeakageError(message)
    origin = f" (through {', '.join(first.sources)})" if first.sources else ""
    message = (
        f"feature {first.feature!r} of view {first.view!r} knows the future{origin}: "
        f"{first.moved:,} of {first.checked:,} rows moved with facts later than their cut-off, "
        f"e.g. {first.examples[0]}{more}; the full report is {path}"
    )
    raise LeakageError(message)
