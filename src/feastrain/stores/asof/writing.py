"""Rows written to Parquet: streamed, and never half-written under a final name."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as arrow_fs

from feastrain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

ROW_GROUP = 1 << 18


def write_parquet(batches: Iterable[pa.Table], filesystem: arrow_fs.FileSystem, path: str) -> None:
    """Write batches of one schema as one Parquet file, each while the next is being made.

    On this machine it is written beside its name, synced and renamed; an object store shows an
    object only when it is complete.
    """
    if not isinstance(filesystem, arrow_fs.LocalFileSystem):
        _write(batches, filesystem, path)
        return
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    beside = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    try:
        _write(batches, filesystem, str(beside))
        descriptor = os.open(beside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(final)
    finally:
        beside.unlink(missing_ok=True)


def append_parquet(table: pa.Table, filesystem: arrow_fs.FileSystem, path: str) -> None:
    """Add rows to a Parquet source: a part of its own in a folder; a single file is made anew."""
    if filesystem.get_file_info(path).type == arrow_fs.FileType.Directory:
        write_parquet([table], filesystem, f"{path}/part-{uuid.uuid4().hex}.parquet")
        return
    before = pq.ParquetFile(path, filesystem=filesystem)
    schema = before.schema_arrow
    try:
        added = table.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowInvalid, ValueError) as error:
        message = f"rows for {path} do not fit its columns: {' '.join(str(error).split())}"
        raise DataError(message) from error
    old = (pa.Table.from_batches([batch], schema) for batch in before.iter_batches())
    write_parquet((part for parts in (old, [added]) for part in parts), filesystem, path)


def _writer(path: str, schema: pa.Schema, filesystem: arrow_fs.FileSystem) -> pq.ParquetWriter:
    """Open a writer that splits the bytes of floats: half the time of dictionaries, and smaller.

    Snappy encodes 1.5 times as fast as zstd's fastest, into a quarter more bytes.
    """
    floats = [field.name for field in schema if field.type in {pa.float32(), pa.float64()}]
    return pq.ParquetWriter(
        path,
        schema,
        filesystem=filesystem,
        compression="snappy",
        use_dictionary=[name for name in schema.names if name not in floats],
        use_byte_stream_split=floats,
    )


def _write(batches: Iterable[pa.Table], filesystem: arrow_fs.FileSystem, path: str) -> None:
    writer: pq.ParquetWriter | None = None
    pending: Future[None] | None = None
    with ThreadPoolExecutor(1) as thread:
        try:
            for batch in batches:
                if writer is None:
                    writer = _writer(path, batch.schema, filesystem)
                if pending is not None:
                    pending.result()
                pending = thread.submit(writer.write_table, batch, ROW_GROUP)
            if pending is not None:
                pending.result()
        finally:
            if writer is not None:
                writer.close()
