"""Leakage, proven: no feature knows what came after its cut-off, or it is named.

Three questions: can the label be reached from the feature service (`reach`), does a feature
move when the future comes out otherwise (`proof`), does one tell the label too well (`alarm`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import (
    file_digest,
    fingerprint,
    is_published,
    open_manifest,
    publishing,
    source_digests,
    write_json,
)
from feastrain.dataset.audit.alarm import raise_alarms
from feastrain.dataset.audit.html import as_html
from feastrain.dataset.audit.proof import prove
from feastrain.dataset.audit.reach import find_reaches, require_unreachable
from feastrain.dataset.audit.report import (
    NOT_AUDITED,
    AuditReport,
    Finding,
    require_clean,
)
from feastrain.dataset.audit.sample import Plan
from feastrain.dataset.audit.verdicts import judge
from feastrain.dataset.join import join
from feastrain.dataset.service import resolve_service
from feastrain.dataset.transform import Steps
from feastrain.shown import Shown
from feastrain.version import __version__

if TYPE_CHECKING:
    from feastrain.dataset.join import Joined, JoinRequest
    from feastrain.recipe import Recipe

__all__ = [
    "NOT_AUDITED",
    "AuditReport",
    "Audited",
    "Plan",
    "audit",
    "audit_joined",
    "require_clean",
    "require_unreachable",
]

FORMAT = 1
HTML = "report.html"
JSON = "audit.json"


@dataclass(frozen=True)
class Audited(Shown):
    """A published audit and whether an earlier run had made it."""

    report: AuditReport
    path: Path
    cached: bool

    @property
    def html(self) -> Path:
        """The report to read in a browser."""
        return self.path / HTML

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values, and where its page is."""
        return {"page": str(self.html), **self.report.to_json()}


def audit(request: JoinRequest, directory: Path, plan: Plan) -> Audited:
    """Audit the feature service of a recipe and publish the report under `directory`.

    Args:
        request: what would be joined.
        directory: folder of audits; this one is `directory/FINGERPRINT`.
        plan: how much is proven.

    Raises:
        DataError: the labels are refused, or the transform cannot run without later facts.
    """
    recipe = request.recipe
    if reaches := find_reaches(request.root, recipe, request.store):
        found = [Finding(reach.feature, reach.view, "leak", reach.fact) for reach in reaches]
        report = _report(recipe, plan, found)
        final = directory / fingerprint(FORMAT, __version__, report.to_json())
        return _published(report, final)
    service = resolve_service(request.store, recipe)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=directory) as scratch:
        return audit_joined(join(request, service, Path(scratch)), plan, directory)


def audit_joined(joined: Joined, plan: Plan, directory: Path) -> Audited:
    """Audit a training set whose label the feature service cannot reach; publish the report."""
    final = directory / fingerprint(_inputs(joined, plan))
    if is_published(final):
        open_manifest(final)
        content = json.loads((final / JSON).read_text())
        return Audited(AuditReport.from_json(content), final, cached=True)
    proof = prove(joined, plan)
    alarms = raise_alarms(joined, plan.seed)
    report = _report(joined.recipe, plan, judge(joined.service, proof, alarms), **proof.facts())
    return _published(report, final)


def _report(recipe: Recipe, plan: Plan, findings: list[Finding], **facts: Any) -> AuditReport:
    return AuditReport(
        recipe=recipe.name,
        service=recipe.features.service,
        findings=tuple(findings),
        seed=plan.seed,
        mutations=plan.mutations,
        **facts,
    )


def _published(report: AuditReport, final: Path) -> Audited:
    if not is_published(final):
        with publishing(final, {"verdict": report.verdict}) as scratch:
            write_json(scratch / JSON, report.to_json())
            (scratch / HTML).write_text(as_html(report))
    return Audited(report, final, cached=False)


def _inputs(joined: Joined, plan: Plan) -> dict[str, Any]:
    root, recipe, transform = joined.root, joined.recipe, joined.recipe.transform
    raw = {}
    if transform is not None:
        raw = {
            path.name: file_digest(path)
            for path in (
                *Steps.of(root, transform).files,
                *sorted((root / transform.inputs).glob("*.parquet")),
            )
        }
    return {
        "format": FORMAT,
        "plan": asdict(plan),
        "raw": raw,
        "recipe": recipe.data_section(),
        "service": joined.service.fingerprint,
        "features": _features(joined),
        "labels": source_digests(root / recipe.label.source),
        "rows": [len(joined.rows), str(joined.panel.last_period)],
        "feastrain": __version__,
    }


def _features(joined: Joined) -> Any:
    """Return what tells the features apart: their files or, where they lie elsewhere, values."""
    if not joined.service.elsewhere:
        return joined.service.source_digests()
    digest = hashlib.sha256()
    for table in (joined.rows, joined.known):
        for batch in table.to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()
