"""Parquet sources: a file, a folder, a glob or hive partitions, here or behind a URL."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.file_source import FileSource
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs as arrow_fs

from feastrain.errors import DataError, ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from feastrain.stores.asof.source import Positions, Sink, Window

THREADS = os.cpu_count() or 1
BLOCK = 1 << 20
READ_BYTES = 1 << 29
"""Most decoded bytes that one read of feature columns makes."""


class ParquetTable:
    """The rows of a Parquet source, numbered from 0, without the row groups out of the window.

    Only footers are read to open it; columns are read when asked for.
    """

    def __init__(self, source: FileSource, repo: str, window: Window | None) -> None:
        """Open the source.

        Args:
            source: Feast's description of it.
            repo: where a relative path starts.
            window: event timestamps that matter.

        Raises:
            ProjectError: there is no such file, or it is no Parquet file.
        """
        if not isinstance(source.file_format, ParquetFormat | None):
            message = f"source {source.name!r} is no Parquet: export it, or use its own store"
            raise ProjectError(message)
        self.name = FileSource.get_uri_for_file_path(repo, source.path)
        self._filesystem, path = filesystem_of(source, self.name)
        self._dataset = _open(self._filesystem, path, self.name)
        near = None if window is None else window.overlaps(self._dataset.schema)
        self._groups = [
            group
            for fragment in self._dataset.get_fragments(near)
            for group in fragment.split_by_row_group(near, self._dataset.schema)
        ]
        sizes = [sum(part.num_rows for part in group.row_groups) for group in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._starts[-1])

    @property
    def schema(self) -> pa.Schema:
        """Every column that could be read."""
        return self._dataset.schema

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of every row.

        Raises:
            DataError: the source has no such column.
        """
        return self._read(names, self._groups)

    def rows_at(
        self, names: Sequence[str], positions: Positions, sink: Sink | None = None
    ) -> list[pa.ChunkedArray]:
        """Return some columns of the rows at `positions`; null where a position is -1.

        Row groups that hold none of them are not read.

        Args:
            names: the columns.
            positions: [N] of the rows.
            sink: is given each column instead, from several threads and in any order.

        Raises:
            DataError: the source has no such column.
        """
        self._require(names)
        touched = self._touched(positions)
        groups = [part for part, wanted in zip(self._groups, touched, strict=True) if wanted]
        if not touched.all():
            positions = positions - self._skipped(touched, positions)
        missing = positions < 0
        indices = pa.array(positions, mask=missing) if missing.any() else pa.array(positions)

        def pick(batch: list[str]) -> list[pa.ChunkedArray]:
            found = []
            for name, column in zip(batch, _whole(self._read(batch, groups)), strict=True):
                taken = column.take(indices)
                if sink is None:
                    found.append(taken)
                else:
                    sink(name, taken)
            return found

        rows = int(np.diff(self._starts)[touched].sum())
        with ThreadPoolExecutor(THREADS) as threads:
            return [
                column
                for found in threads.map(pick, self._batches(names, rows))
                for column in found
            ]

    def rows_read_for(self, positions: Positions) -> int:
        """Return how many rows are read to return those at `positions`: whole row groups."""
        return int(np.diff(self._starts)[self._touched(positions)].sum())

    def _touched(self, positions: Positions) -> NDArray[np.bool_]:
        """Return [row groups] whether one holds a row at `positions`."""
        touched = np.zeros(len(self._groups) + 1, dtype=bool)
        for start in range(0, len(positions), BLOCK):
            block = positions[start : start + BLOCK]
            touched[np.searchsorted(self._starts[1:], block[block >= 0], side="right")] = True
        return touched[:-1]

    def _skipped(self, touched: NDArray[np.bool_], positions: Positions) -> NDArray[np.int64]:
        """Return for each position how many rows before it are in row groups left out."""
        sizes = np.diff(self._starts)
        left_out = np.append(np.cumsum(np.where(touched, 0, sizes)), 0)
        group = np.searchsorted(self._starts[1:], positions, side="right")
        return np.where(positions < 0, 0, left_out[group])

    def _require(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.schema.names:
                message = f"{self.name} has no column {name!r}; it has {_listed(self.schema)}"
                raise DataError(message)

    def _read(self, names: Sequence[str], groups: list[Any]) -> pa.Table:
        self._require(names)
        part = ds.FileSystemDataset(
            groups, self.schema, self._dataset.format, self._dataset.filesystem
        )
        return part.to_table(columns=list(names))

    def _batches(self, names: Sequence[str], rows: int) -> Iterator[list[str]]:
        """Yield the names in groups, one for each thread or more, within `READ_BYTES` decoded."""
        batch: list[str] = []
        size = 0
        widths = {name: rows * width_of(self.schema.field(name).type) for name in names}
        most = min(READ_BYTES, sum(widths.values()) // THREADS + 1)
        for name, width in widths.items():
            if batch and size + width > most:
                yield batch
                batch, size = [], 0
            batch.append(name)
            size += width
        if batch:
            yield batch


def filesystem_of(source: FileSource, path: str) -> tuple[arrow_fs.FileSystem, str]:
    """Return the filesystem that a path or URL lies on, and its path there."""
    if "://" not in path:
        return arrow_fs.LocalFileSystem(), path
    if path.startswith("s3://"):
        credentials = source.resolve_credentials()
        found: tuple[arrow_fs.FileSystem, str] = FileSource.create_filesystem_and_path(
            path, source.s3_endpoint_override, credentials
        )
        return found
    if path.startswith("file://"):
        return arrow_fs.LocalFileSystem(), path.removeprefix("file://")
    filesystem, inside = fsspec.core.url_to_fs(path)
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem)), inside


def width_of(kind: pa.DataType) -> int:
    """Return the bytes that a value of a type takes, about 32 where it varies."""
    try:
        return max(int(kind.bit_width) // 8, 1)
    except ValueError:
        return 32


def _open(filesystem: arrow_fs.FileSystem, path: str, name: str) -> ds.FileSystemDataset:
    found: str | list[str] = path
    if any(sign in path for sign in "*?["):
        found = sorted(ArrowFSWrapper(filesystem).glob(path))
        if not found:
            message = f"{name}: no file matches; correct the source's path, or make its files"
            raise ProjectError(message)
    try:
        dataset = ds.dataset(found, filesystem=filesystem, format="parquet", partitioning="hive")
    except FileNotFoundError as error:
        message = f"{name}: no such file; correct the source's path, or make the file"
        raise ProjectError(message) from error
    except (pa.ArrowInvalid, OSError) as error:
        message = f"{name} cannot be read as Parquet: {' '.join(str(error).split())}"
        raise DataError(message) from error
    if not dataset.schema.names:
        message = f"{name} holds no Parquet file; correct the source's path, or make its files"
        raise ProjectError(message)
    return dataset


def _whole(table: pa.Table) -> list[pa.ChunkedArray | pa.Array]:
    """Return the columns, those of a fixed width each in one piece: they are taken from faster."""
    return [
        column.combine_chunks() if pa.types.is_primitive(column.type) else column
        for column in table.columns
    ]


def _listed(schema: pa.Schema) -> str:
    return ", ".join(schema.names)
