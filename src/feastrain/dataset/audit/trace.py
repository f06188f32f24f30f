"""Which column a leak comes from: the future is changed one table, then one column at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from feastrain.dataset.audit.copies import Change, Copies
    from feastrain.dataset.audit.proof import Moves

    MovedBy = Callable[[Change, pa.Table], set[str]]


def trace(moved: dict[str, Moves], copies: Copies, moved_by: MovedBy) -> None:
    """Fill in the sources of every feature that moved.

    Args:
        moved: features by reference, with the change that moved each first.
        copies: the tables that were changed.
        moved_by: makes a change and returns the features of a sample that it moves.
    """
    changes = Counter(moves.change for moves in moved.values())
    for change, _ in changes.most_common():
        untraced = {name for name, moves in moved.items() if not moves.sources}
        first = next((m for n, m in moved.items() if n in untraced and m.change == change), None)
        if change is None or first is None or first.sample is None:
            continue
        for name, sources in _sources(untraced, change, first.sample, copies, moved_by).items():
            moved[name].sources = tuple(sources)


def _sources(
    wanted: set[str], change: Change, sample: pa.Table, copies: Copies, moved_by: MovedBy
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for table in copies.tables():
        if not table.later(change.cutoff).any():
            continue
        values = replace(change, mutation="scrambled", only=(table.name, None))
        by_value = moved_by(values, sample) & wanted
        for column in table.columns() if by_value else ():
            alone = replace(values, only=(table.name, frozenset({column})))
            for name in moved_by(alone, sample) & wanted:
                found[name].append(f"{table.name}.{column}")
        missing = {name for name in wanted if not found[name]}
        presence = replace(change, mutation="absent", only=(table.name, None))
        for name in moved_by(presence, sample) & missing if missing else ():
            found[name].append(f"{table.name} (whether it has later rows)")
    return found
