"""The metamorphic proof: a future that comes out otherwise must not move a feature.

Rows are built again through the retrieval that built them, from copies of the sources in
which everything known after the cut-off is changed. What moves knew the future.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.dataset.audit.copies import Change, make_copies
from feastrain.dataset.audit.sample import draw
from feastrain.dataset.audit.trace import trace
from feastrain.dataset.retrieve import retrieve_known, retrieve_rows
from feastrain.errors import DataError
from feastrain.stores.replica import replicate, views_behind

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from feastrain.dataset.audit.copies import Copies
    from feastrain.dataset.audit.sample import Plan
    from feastrain.dataset.join import Joined

TOLERANCE = 1e-9
"""Of the value, and of the largest in the sample: a query that is run again may add its
numbers in another order."""


@dataclass(frozen=True)
class Move:
    """One value of a feature that a change of the future has moved."""

    keys: dict[str, Any]
    cutoff: datetime
    before: Any
    after: Any


@dataclass
class Moves:
    """What moved of one feature."""

    moves: list[Move] = field(default_factory=list)
    rows: set[tuple[Any, ...]] = field(default_factory=set)
    change: Change | None = None
    """The change that moved it first."""
    sample: pa.Table | None = None
    """The rows in which it did."""
    sources: tuple[str, ...] = ()
    """The columns that it moved with."""


@dataclass(frozen=True)
class Proof:
    """What the proof found."""

    cutoffs: tuple[datetime, ...]
    rows: int
    known_rows: int
    moved: dict[str, Moves]
    """By feature reference `view:feature`: those that knew the future."""
    unstable: dict[str, Moves]
    """Those that differ although nothing was changed."""
    tables: dict[str, str]
    """When a row of each table that was changed counts as known."""
    notes: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return what the proof rests on, as a report says it."""
        return {
            "cutoffs": tuple(cutoff.isoformat() for cutoff in self.cutoffs),
            "rows": self.rows,
            "known_rows": self.known_rows,
            "tables": self.tables,
            "notes": self.notes,
        }


Values = dict[str, tuple[list[dict[str, Any]], list[Any]]]
"""By feature reference: the keys of each row, and its values."""


def prove(joined: Joined, plan: Plan) -> Proof:
    """Change the future in copies of the sources, build a sample of rows again, and compare.

    Raises:
        DataError: the transform works with neither changed nor absent later facts.
    """
    with tempfile.TemporaryDirectory(prefix="feastrain-audit-") as folder:
        scratch = Path(folder)
        views = views_behind(joined.store, joined.recipe.features.service)
        copies = make_copies(joined.root, joined.recipe, joined.store, views, scratch)
        replica = replicate(joined.store, copies.paths, scratch)

        def retrieve(spine: pa.Table) -> tuple[pa.Table, pa.Table]:
            rows = retrieve_rows(replica, joined.service, spine)
            return rows, retrieve_known(replica, joined.service, spine, joined.recipe)

        bench = Bench(joined, copies, retrieve)
        proof = compare(bench, plan)
        trace(proof.moved, bench.copies, bench.moved_by)
        return proof


def compare(bench: Bench, plan: Plan) -> Proof:
    """Change the future as planned, and return which features moved."""
    samples = draw(bench.joined.rows, bench.copies.tables(), plan)
    notes: list[str] = []
    moved: dict[str, Moves] = {}
    for number, (cutoff, rows) in enumerate(samples):
        for mutation in plan.mutations:
            change = Change(cutoff, mutation, plan.seed + number)
            bench.make(change, rows, moved, notes)
    unstable = bench.unstable(samples) if moved else {}
    moved = {name: moves for name, moves in moved.items() if name not in unstable}
    return Proof(
        tuple(cutoff for cutoff, _ in samples),
        sum(len(rows) for _, rows in samples),
        sum(len(bench.known_at(cutoff, rows)) for cutoff, rows in samples),
        moved,
        unstable,
        {source.name: source.when for source in bench.copies.tables()},
        tuple(dict.fromkeys(notes)),
    )


def differs(before: Any, after: Any, scale: float) -> bool:
    """Tell two values of a feature apart, up to the noise of a sum in another order."""
    if before == after or (_missing(before) and _missing(after)):
        return False
    if isinstance(before, int | float) and isinstance(after, int | float):
        if _missing(before) or _missing(after):
            return True
        return not abs(before - after) <= TOLERANCE * max(abs(before), abs(after), scale)
    return True


@dataclass(frozen=True)
class Bench:
    """Copies of the sources, what reads them, and what was read from the sources themselves."""

    joined: Joined
    copies: Copies
    retrieve: Callable[[pa.Table], tuple[pa.Table, pa.Table]]
    """Returns the features of a spine, and the known-ahead ones, from the copies."""

    def make(
        self, change: Change, rows: pa.Table, moved: dict[str, Moves], notes: list[str]
    ) -> None:
        """Note in `moved` which features of the rows a change moves."""
        try:
            self.copies.write(change)
        except DataError as error:
            notes.append(
                f"the transform fails where later facts are {change.mutation} ({error}): "
                "they were taken away instead"
            )
            change = replace(change, mutation="absent")
            try:
                self.copies.write(change)
            except DataError as fault:
                message = f"the audit runs the transform without what came after {change.cutoff}"
                message = f"{message}, as it ran then, and that fails: {fault}"
                raise DataError(message) from fault
        self._compare(change.cutoff, rows, moved, change)

    def moved_by(self, change: Change, rows: pa.Table) -> set[str]:
        """Return the features of the rows that a change moves; none where it cannot be made."""
        moved: dict[str, Moves] = {}
        try:
            self.copies.write(change)
        except DataError:
            return set()
        self._compare(change.cutoff, rows, moved, change)
        return set(moved)

    def unstable(self, samples: list[tuple[datetime, pa.Table]]) -> dict[str, Moves]:
        """Return the features that are not what they were when they are made from the same."""
        moved: dict[str, Moves] = {}
        for _ in range(2):
            self.copies.write(None)
            for cutoff, rows in samples:
                self._compare(cutoff, rows, moved, None)
        return moved

    def known_at(self, cutoff: datetime, rows: pa.Table) -> pa.Table:
        """Return the known-ahead rows that belong to rows of one cut-off."""
        keys = list(self.joined.service.columns.known_keys)
        known = self.joined.known
        known = known.filter(pc.equal(known["event_timestamp"], pa.scalar(cutoff, _STAMP)))
        if not self.joined.service.known_features:
            return known.slice(0, 0)
        if not keys:
            return known
        groups = rows.select(keys).group_by(keys).aggregate([])
        order = [(name, "ascending") for name in [*keys, "event_timestamp", "step"]]
        return known.join(groups, keys=keys, join_type="inner").sort_by(order)

    def _compare(
        self, cutoff: datetime, rows: pa.Table, moved: dict[str, Moves], change: Change | None
    ) -> None:
        spine = rows.select([*self.joined.service.columns.entities, "event_timestamp"])
        before = self._values_of(rows, self.known_at(cutoff, rows))
        after = self._values_of(*self.retrieve(spine))
        for feature, (keys, old) in before.items():
            scale = max((abs(v) for v in old if _finite(v)), default=0.0)
            for key, was, now in zip(keys, old, after[feature][1], strict=True):
                if differs(was, now, scale):
                    entry = moved.setdefault(feature, Moves(change=change, sample=rows))
                    identity = (cutoff, *key.values())
                    if identity not in entry.rows:
                        entry.rows.add(identity)
                        entry.moves.append(Move(key, cutoff, was, now))

    def _values_of(self, rows: pa.Table, known: pa.Table) -> Values:
        service = self.joined.service
        values: Values = {}
        for features, table, keys in (
            ((*service.row_features, *service.unused_features), rows, service.columns.entities),
            (service.known_features, known, (*service.columns.known_keys, "step")),
        ):
            if features:
                named = table.select(list(keys)).to_pylist()
                for reference in features:
                    values[reference] = (named, table[reference.partition(":")[2]].to_pylist())
        return values


_STAMP = pa.timestamp("us", tz="UTC")


def _missing(value: Any) -> bool:
    return value is None or value != value  # noqa: PLR0124 - only NaN is unlike itself


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
