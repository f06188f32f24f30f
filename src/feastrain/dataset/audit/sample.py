"""Which rows are built again: at cut-offs spread over all, the late corrections among them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feastrain.dataset.audit.perturb import moment

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from feastrain.dataset.audit.perturb import Facts, Mutation


@dataclass(frozen=True)
class Plan:
    """How much is proven: how many rows at how many cut-offs, and in which ways."""

    cutoffs: int
    rows: int
    seed: int
    mutations: tuple[Mutation, ...]


def draw(rows: pa.Table, tables: tuple[Facts, ...], plan: Plan) -> list[tuple[datetime, pa.Table]]:
    """Return for some cut-offs, spread over all there are, some of their rows.

    Facts that became known late, after the first cut-off that is no earlier than the time they
    are about, are rare and leak easily. Cut-offs that miss some are preferred, and half the rows
    are those of the entities that the newest of them are about.

    Args:
        rows: the spine, with or without features.
        tables: what the features are made from.
        plan: how many, and the seed.
    """
    rng = np.random.default_rng(plan.seed)
    stamps = rows["event_timestamp"].to_numpy().astype("datetime64[us]")
    cutoffs = np.unique(stamps)
    late = np.sum([_late_facts(table, cutoffs) for table in tables], axis=0)
    count = min(plan.cutoffs, len(cutoffs))
    each = max(1, plan.rows // count)
    samples = []
    for part in np.array_split(np.arange(len(cutoffs)), count):
        with_late = part[late[part] > 0] if len(tables) else part
        cutoff = cutoffs[rng.choice(with_late if len(with_late) else part)]
        time = cutoff.item().replace(tzinfo=UTC)
        candidates = rows.take(pa.array(np.flatnonzero(stamps == cutoff)))
        samples.append((time, _choose(candidates, tables, time, each, rng)))
    return samples


def _late_facts(table: Facts, cutoffs: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return for each cut-off how many facts should be known for the first time, and are not."""
    first = np.searchsorted(cutoffs, table.event_N)
    inside = first < len(cutoffs)
    late = table.known_N[inside] > cutoffs[first[inside]]
    return np.bincount(first[inside][late], minlength=len(cutoffs))


def _choose(
    candidates: pa.Table, tables: tuple[Facts, ...], cutoff: datetime, each: int, rng: Any
) -> pa.Table:
    order = rng.permutation(len(candidates))
    latest_N = np.max([_latest_late(candidates, table, cutoff) for table in tables], axis=0)
    by_lateness = order[np.argsort(-latest_N[order].astype(np.int64), kind="stable")]
    urgent = by_lateness[: each // 2]
    others = order[~np.isin(order, urgent)][: each - len(urgent)]
    return candidates.take(pa.array(np.sort([*urgent, *others])))


def _latest_late(rows: pa.Table, table: Facts, cutoff: datetime) -> NDArray[np.datetime64]:
    """Return for each row the newest fact about its entities that is known late; else 1970."""
    none = np.zeros(len(rows), "datetime64[us]")
    keys = [name for name in rows.column_names if name in table.keys & {*table.table.column_names}]
    late = (table.event_N <= moment(cutoff)) & table.later(cutoff)
    if not keys or not late.any():
        return none
    facts = _as_text(table.table, keys).append_column("event", pa.array(table.event_N))
    newest = facts.filter(pa.array(late)).group_by(keys).aggregate([("event", "max")])
    numbered = _as_text(rows, keys).append_column("row", pa.array(np.arange(len(rows))))
    found = numbered.join(newest, keys=keys).sort_by("row")["event_max"]
    found_N = found.to_numpy().astype("datetime64[us]")
    return np.where(np.isnat(found_N), none, found_N)


def _as_text(table: pa.Table, keys: list[str]) -> pa.Table:
    """Return the keys, which tables may hold in different types, as texts that compare."""
    return pa.table({name: table[name].cast(pa.string()) for name in keys})
