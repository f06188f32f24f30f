"""Which column a leak comes from: the future is changed one table, then one column at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from feastrain.dataset.audit.copies import Change, Copies
    from feastrain.dataset.audit.proof import Moves


def trace(moved: dict[str, Moves], copies: Copies, moved_by: Callable[[Change], set[str]]) -> None:
    """Fill in the sources of every feature that moved.

    Args:
        moved: features by reference, with the change that moved each.
        copies: the tables that were changed.
        moved_by: makes a change and returns the features that it moves.
    """
    for change in dict.fromkeys(moves.change for moves in moved.values()):
        if change is not None:
            wanted = {name for name, moves in moved.items() if moves.change == change}
            for name, sources in _sources_of(wanted, change, copies, moved_by).items():
                moved[name].sources = tuple(sources)


def _sources_of(
    wanted: set[str], change: Change, copies: Copies, moved_by: Callable[[Change], set[str]]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for table in copies.tables():
        if not table.later(change.cutoff).any():
            continue
        values = replace(change, mutation="scrambled", only=(table.name, None))
        by_value = moved_by(values) & wanted
        for column in table.columns() if by_value else ():
            alone = replace(values, only=(table.name, frozenset({column})))
            for name in moved_by(alone) & wanted:
                found[name].append(f"{table.name}.{column}")
        presence = replace(change, mutation="absent", only=(table.name, None))
        missing = {name for name in wanted - by_value if not found[name]}
        for name in moved_by(presence) & missing if missing else ():
            found[name].append(f"{table.name} (whether it has later rows)")
    return found
