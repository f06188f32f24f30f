"""Why two snapshots differ: what they were made from, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from feastrain.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feastrain.dataset.snapshot import Snapshot

OUTCOMES = (
    "rows",
    "labels",
    "series",
    "periods",
    "split",
    "schema",
    "row_features",
    "known_features",
)


@dataclass(frozen=True)
class Change:
    """One key that differs; None is a key that one side lacks."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Difference(Shown):
    """Every input that changed between two snapshots, and every outcome."""

    before: str
    after: str
    inputs: tuple[Change, ...]
    outcome: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return asdict(self)


def compare_snapshots(before: Snapshot, after: Snapshot) -> Difference:
    """Name everything that differs between what two snapshots say of themselves."""
    return Difference(
        before.fingerprint,
        after.fingerprint,
        tuple(changed_inputs(before.manifest["inputs"], after.manifest["inputs"])),
        tuple(_changes("", _outcome(before.manifest), _outcome(after.manifest))),
    )


def changed_inputs(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Return what changed between two lists of inputs, by dotted key (`recipe.horizon`).

    Of a list only the entries that came or went are told, unless their order changed alone.
    The fingerprint of the service is left out where the views say which of them changed.
    """
    changes = list(_changes("", before, after))
    if any(change.key.startswith("views.") for change in changes):
        changes = [change for change in changes if change.key != "service"]
    return changes


def _changes(key: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = f"{key}.{name}" if key else str(name)
            yield from _changes(inner, before.get(name), after.get(name))
    elif isinstance(before, list) and isinstance(after, list):
        if before != after:
            gone, come = _without(before, after), _without(after, before)
            same = not gone and not come
            yield Change(key, before if same else gone, after if same else come)
    elif before != after:
        yield Change(key, before, after)


def _without(entries: list[Any], others: list[Any]) -> list[Any]:
    """Return the entries that are not, or not as often, among the others."""
    left = [_canonical(other) for other in others]
    found = []
    for entry in entries:
        if (text := _canonical(entry)) in left:
            left.remove(text)
        else:
            found.append(entry)
    return found


def _canonical(entry: Any) -> str:
    return json.dumps(entry, sort_keys=True)


def _outcome(manifest: dict[str, Any]) -> dict[str, Any]:
    verdicts = {
        f"{verdict['column']}: {verdict['expectation']}": _said(verdict)
        for verdict in manifest["verdicts"]
    }
    return {key: manifest[key] for key in OUTCOMES} | {"verdicts": verdicts}


def _said(verdict: dict[str, Any]) -> str:
    if verdict["holds"]:
        return "holds"
    return f"{verdict['severity']}: {verdict['failures']:,} of {verdict['rows']:,} fail"
