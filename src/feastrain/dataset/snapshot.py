"""A snapshot: the immutable training set that training, evaluation and serving read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feastrain.artifacts import open_manifest
from feastrain.errors import ProjectError
from feastrain.recipe import FeatureColumns
from feastrain.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ROW_GROUP = 1 << 17


@dataclass(frozen=True)
class Snapshot(Shown):
    """A published snapshot, verified when it was opened."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a snapshot and check every byte against its manifest.

        Raises:
            ProjectError: there is none at `path`.
            ArtifactError: a file is missing or damaged.
        """
        if not path.is_dir():
            message = f"{path}: no such snapshot; `feastrain build` makes one"
            raise ProjectError(message)
        return cls(path, open_manifest(path))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of everything the snapshot was made from."""
        return self.path.name

    @property
    def columns(self) -> FeatureColumns:
        """The columns by role."""
        return FeatureColumns.model_validate(self.manifest["columns"])

    def rows(self, split: str | None = None) -> pa.Table:
        """Return the rows (series, cut-off), all or those of one part of the split."""
        parts = self.parts()
        if split is not None:
            parts = (part.filter(pc.equal(part["split"], split)) for part in parts)
        return pa.concat_tables(parts)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows, or some of their columns, one part in memory at a time."""
        for path in sorted(self.path.glob("part-*.parquet")):
            yield pq.read_table(path, columns=columns)

    def known(self) -> pa.Table:
        """Return the known-ahead features by (known keys, cut-off, step)."""
        return pq.read_table(self.path / "known.parquet")

    def labels(self) -> pa.Table:
        """Return every observed label: entities, event_timestamp, label, weight, event."""
        return pq.read_table(self.path / "labels.parquet")

    def to_json(self) -> dict[str, Any]:
        """Return what there is to say of it, as plain JSON values."""
        said = ("rows", "series", "periods", "row_features", "known_features", "service", "audit")
        about = {name: self.manifest[name] for name in said if name in self.manifest}
        return {"fingerprint": self.fingerprint, "path": str(self.path), **about}


def part_name(number: int) -> str:
    """Return the name of a part's file; names sort as the parts do."""
    return f"part-{number:05d}"


def write_table(directory: Path, name: str, table: pa.Table) -> None:
    """Write one table of a snapshot; equal tables give equal bytes.

    Written beside its name and renamed, so that a writer that is killed leaves no half of it.
    """
    beside = directory / f".{name}.{os.getpid()}"
    pq.write_table(
        table.replace_schema_metadata(None), beside, compression="zstd", row_group_size=ROW_GROUP
    )
    beside.rename(directory / f"{name}.parquet")
