"""Columns on scratch disk, for results that are larger than memory.

Entity rows in no order find rows all over a source. Read batch by batch, each would read nearly
the whole source again; so each column is read once, put into the order of the entity rows, and
kept here until a batch of rows is put together from all of them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class Staging:
    """Columns of N rows, each a file of batches of `batch_rows`."""

    def __init__(self, folder: Path, batch_rows: int) -> None:
        self._folder = folder
        self._batch_rows = batch_rows
        self._numbers = itertools.count()
        self._files: dict[str, pa.ipc.RecordBatchFileReader] = {}

    def add(self, name: str, column: pa.ChunkedArray) -> None:
        """Write a column; several threads may write at once."""
        path = str(self._folder / str(next(self._numbers)))
        schema = pa.schema([("values", column.type)])
        with pa.ipc.new_file(path, schema, options=OPTIONS) as file:
            for start in range(0, len(column), self._batch_rows):
                part = pa.table([column.slice(start, self._batch_rows)], schema)
                file.write_table(part.combine_chunks())
        self._files[name] = pa.ipc.open_file(pa.OSFile(path))

    def batch(self, name: str, number: int) -> pa.Array:
        """Read the rows of a column from `number * batch_rows` on."""
        return self._files[name].get_batch(number).column(0)
