"""A training set in parts: each the rows of some series, made and written on its own.

Which series a part holds depends on the labels and the recipe alone, so that one machine and
many write the same files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from feastrain.dataset.retrieve import retrieve_rows
from feastrain.dataset.service import resolve_service
from feastrain.dataset.snapshot import part_name, write_table
from feastrain.dataset.spine import make_spine, rows_per_series
from feastrain.stores.feature_repo import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from feastrain.dataset.labels import Panel
    from feastrain.dataset.split import Split
    from feastrain.recipe import Recipe


@dataclass(frozen=True)
class Part:
    """What makes one part: whole in itself, so that any machine with the same files can."""

    number: int
    root: Path
    """The project folder."""
    recipe: Recipe
    panel: Panel
    """The labels of its series."""
    split: Split
    folder: Path
    """Where its file goes."""


def divide(root: Path, recipe: Recipe, panel: Panel, split: Split, folder: Path) -> list[Part]:
    """Divide a training set into parts of about `recipe.retrieval.part_rows` rows, by series."""
    before = np.cumsum(rows_per_series(panel, recipe.horizon))
    before = np.concatenate([[0], before[:-1]])
    numbers = before // recipe.retrieval.part_rows
    borders = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return [
        Part(number, root, recipe, panel.of_series(start, stop), split, folder)
        for number, (start, stop) in enumerate(pairwise(borders))
    ]


def make_part(part: Part) -> Counter[str]:
    """Join the features of a part's series, write its file, and count its rows by split.

    Making a part again writes the same bytes under the same name.
    """
    store = open_store(part.root / part.recipe.features.repo)
    service = resolve_service(store, part.recipe)
    spine = make_spine(part.panel, part.split, part.recipe.horizon)
    rows = retrieve_rows(store, service, spine)
    write_table(part.folder, part_name(part.number), rows)
    return Counter(rows["split"].to_pylist())


class PartedRows:
    """The rows of parts that are written, read as a table is, a column or a few rows at a time."""

    def __init__(self, folder: Path, chosen: pa.ChunkedArray | None = None) -> None:
        """Open the parts of a folder.

        Args:
            folder: where the parts are.
            chosen: [N] which of the rows count; None for all.
        """
        self._folder = folder
        self._parts = ds.dataset(sorted(map(str, folder.glob("part-*.parquet"))))
        self._chosen = chosen

    def __len__(self) -> int:
        if self._chosen is not None:
            return int(self._chosen.combine_chunks().true_count)
        return int(self._parts.count_rows())

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.select([name])[name]

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        return self._parts.schema

    @property
    def column_names(self) -> list[str]:
        """The columns, in order."""
        return list(self.schema.names)

    def filled(self) -> set[str]:
        """Return the columns that hold a value anywhere, as the files' statistics tell."""
        found = set()
        for fragment in self._parts.get_fragments():
            for group in fragment.row_groups:
                columns = fragment.metadata.row_group(group.id)
                for place in range(columns.num_columns):
                    column = columns.column(place)
                    told = column.is_stats_set and column.statistics.has_null_count
                    if not told or column.statistics.null_count < columns.num_rows:
                        path = column.path_in_schema  # of a list, what is in it; or a dotted name
                        found |= {path, path.partition(".")[0]}
        return found

    def select(self, names: Sequence[str]) -> pa.Table:
        """Read some columns."""
        table = self._parts.to_table(columns=list(names))
        return table if self._chosen is None else table.filter(self._chosen)

    def take(self, positions: pa.Array) -> pa.Table:
        """Read the rows at some positions, in that order."""
        if self._chosen is not None:
            positions = pa.array(np.flatnonzero(self._chosen.to_numpy())).take(positions)
        return self._parts.take(positions)

    def filter(self, mask: pa.ChunkedArray) -> Self:
        """Return the rows of which the mask is true, none of them read."""
        if self._chosen is not None:
            chosen = np.zeros(len(self._chosen), dtype=bool)
            chosen[np.flatnonzero(self._chosen.to_numpy())] = mask.to_numpy()
            mask = pa.chunked_array([chosen])
        return type(self)(self._folder, mask)

    def to_batches(self) -> Iterator[Any]:
        """Yield all rows in order, batch by batch."""
        assert self._chosen is None
        yield from self._parts.to_batches()
