"""Proof and alarms become one verdict a feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feastrain.dataset.audit.report import SEVERITY, Example, Finding

if TYPE_CHECKING:
    from feastrain.dataset.audit.alarm import Alarm
    from feastrain.dataset.audit.proof import Move, Moves, Proof
    from feastrain.dataset.service import Service

EXAMPLES = 5


def judge(service: Service, proof: Proof, alarms: dict[str, Alarm]) -> list[Finding]:
    """Return the verdict on every feature of the service, the gravest first.

    Of several leaks the one that moved in most of its rows comes first.
    """
    findings = []
    for references, checked in (
        ((*service.row_features, *service.unused_features), proof.rows),
        (service.known_features, proof.known_rows),
    ):
        findings += [_finding(reference, checked, proof, alarms) for reference in references]
    return sorted(findings, key=lambda f: (SEVERITY.index(f.verdict), -f.moved / max(f.checked, 1)))


def _finding(reference: str, checked: int, proof: Proof, alarms: dict[str, Alarm]) -> Finding:
    view, _, feature = reference.partition(":")
    if reference in proof.moved:
        moves = proof.moved[reference]
        origin = f", with {', '.join(moves.sources)}" if moves.sources else ""
        evidence = (
            f"{len(moves.moves):,} of {checked:,} rows move with facts later than their cut-off"
            f"{origin}; {_example(moves.moves[0])}"
        )
        return Finding(feature, view, "leak", evidence, checked, len(moves.moves), *_shown(moves))
    if reference in proof.unstable:
        moves = proof.unstable[reference]
        evidence = (
            f"{len(moves.moves):,} of {checked:,} rows differ when they are made again from the "
            f"same: nothing can be proven; {_example(moves.moves[0])}"
        )
        return Finding(
            feature, view, "unstable", evidence, checked, len(moves.moves), *_shown(moves)
        )
    if reference in alarms:
        alarm = alarms[reference]
        evidence = (
            f"alone it tells the label {alarm.step} ahead up to {alarm.error:.4g}, where the "
            f"label's known history leaves {alarm.history_error:.4g} "
            f"({alarm.rows:,} rows held out); say where it comes from"
        )
        return Finding(feature, view, "suspicious", evidence, checked)
    return Finding(feature, view, "clean", f"none of {checked:,} rows moved", checked)


def _shown(moves: Moves) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    return tuple(_example(move) for move in moves.moves[:EXAMPLES]), moves.sources


def _example(move: Move) -> Example:
    keys = {name: str(value) for name, value in move.keys.items()}
    return Example(keys, move.cutoff.isoformat(), _text(move.before), _text(move.after))


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
