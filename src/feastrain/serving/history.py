"""What happened: the observed labels of every series, ready to be looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from datetime import datetime

Key = tuple[int | str, ...]

RECENT_PERIODS = 52


@dataclass(frozen=True)
class SeriesHistory:
    """One series, oldest period first; the four tuples are as long as each other."""

    periods: tuple[datetime, ...]
    labels: tuple[float | None, ...]
    weights: tuple[float | None, ...]
    events: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """One series in short, over the last 52 periods of the whole table."""

    key: Key
    total: float
    mean: float | None
    """Over the periods that were observed; None where none was."""


class History:
    """The labels table of a snapshot, indexed by series."""

    def __init__(self, labels: pa.Table, entities: tuple[str, ...]) -> None:
        order = [(name, "ascending") for name in (*entities, "event_timestamp")]
        self.entities = entities
        self.types: dict[str, pa.DataType] = {
            name: labels.schema.field(name).type for name in entities
        }
        self._labels = labels.sort_by(order)
        counts = self._labels.group_by(list(entities), use_threads=False).aggregate(
            [("event_timestamp", "count")]
        )
        stops = np.cumsum(counts["event_timestamp_count"].to_numpy())
        self._starts = np.concatenate([np.zeros(1, dtype=np.int64), stops[:-1]])[: len(stops)]
        columns = [counts[name].to_pylist() for name in entities]
        self.keys = cast("list[Key]", list(zip(*columns, strict=True)))
        bounds = zip(self._starts.tolist(), stops.tolist(), strict=True)
        self._bounds: dict[Key, tuple[int, int]] = dict(zip(self.keys, bounds, strict=True))

    @property
    def labels(self) -> pa.Table:
        """Every label, ordered by series and period."""
        return self._labels

    def table(self, keys: list[Key]) -> pa.Table:
        """Return some keys as a table of entity columns, as a source of features is asked."""
        columns: list[Any] = list(zip(*keys, strict=True)) or [()] * len(self.types)
        return pa.table(
            {
                name: pa.array(column, type=kind)
                for (name, kind), column in zip(self.types.items(), columns, strict=True)
            }
        )

    def counts(self) -> list[int]:
        """Return how many labels each series has."""
        return [stop - start for start, stop in self._bounds.values()]

    def of(self, key: Key) -> SeriesHistory | None:
        """Return the history of one series, or None if there is none."""
        if key not in self._bounds:
            return None
        start, stop = self._bounds[key]
        rows = self._labels.slice(start, stop - start)
        return SeriesHistory(
            periods=tuple(rows["event_timestamp"].to_pylist()),
            labels=tuple(rows["label"].to_pylist()),
            weights=tuple(rows["weight"].to_pylist()),
            events=tuple(event or "" for event in rows["event"].to_pylist()),
        )

    def summaries(self) -> list[Summary]:
        """Return every series in short, ordered by key."""
        if not self.keys:
            return []
        closes = self._labels["event_timestamp"].to_numpy()
        labels = self._labels["label"].to_numpy().astype(np.float64)
        recent = closes >= np.unique(closes)[-RECENT_PERIODS:][0]
        counted = recent & np.isfinite(labels)
        totals = np.add.reduceat(np.where(counted, labels, 0.0), self._starts)
        counts = np.add.reduceat(counted.astype(np.int64), self._starts)
        return [
            Summary(key, total, total / count if count else None)
            for key, total, count in zip(self.keys, totals.tolist(), counts.tolist(), strict=True)
        ]
