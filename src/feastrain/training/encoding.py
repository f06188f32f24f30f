"""The rows of a snapshot, encoded once: in memory, or in files that all ranks of a machine map.

The encoder is fitted with one feature in memory at a time, and rows are encoded with one part of
the snapshot in memory at a time. Both ways give the same encoder and the same batches.
"""

from __future__ import annotations

import mmap
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from feastrain.artifacts import fingerprint, is_published, locked, open_manifest, publishing
from feastrain.errors import FeastrainError
from feastrain.models import encoder as encoders
from feastrain.models.architecture import architecture, make_rows
from feastrain.models.batches import Rows, row_words
from feastrain.models.windows import WindowRows
from feastrain.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.models.batches import Words
    from feastrain.models.encoder import Encoder
    from feastrain.recipe import Recipe

SPLITS = ("train", "validation")
FORMAT = 1
"""Of the files; another number lets no release read those of another."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


TrainingRows = Rows | WindowRows


@dataclass(frozen=True)
class Encodings:
    """What training reads: the rows of both parts, the encoder, and what it is read by."""

    encoder: Encoder
    architecture: dict[str, Any]
    train: TrainingRows
    validation: TrainingRows


def encode(
    recipe: Recipe, snapshot: Snapshot, folder: Path, device: torch.device, most_bytes: int
) -> Encodings:
    """Fit the encoder on the training rows, and encode them and the validation rows.

    Args:
        recipe: with the model.
        snapshot: what to train on.
        folder: the run, in which rows of more than `most_bytes` are kept in files.
        device: where batches are read.
        most_bytes: the memory that this rank's rows may take.

    Raises:
        FeastrainError: the files cannot be written.
        ArtifactError: a file that was written earlier is damaged.
    """
    known = snapshot.known()
    training = SplitColumns(snapshot, "train")
    encoder = encoders.fit(snapshot.columns, training, _known_of(training, known))
    made = architecture(recipe, encoder)
    if recipe.model.look_back:
        past = snapshot.rows()
        return Encodings(
            encoder,
            made,
            *(
                make_rows(
                    made, encoder, snapshot.rows(split), known, past, labelled=True, device=device
                )
                for split in SPLITS
            ),
        )
    none = next(snapshot.parts()).slice(0, 0)
    shapes, width = encoder.encode(none, known), _words(encoder, none, known).shape[1]
    counts = {split: len(SplitColumns(snapshot, split)) for split in SPLITS}
    if _fits(sum(counts.values()) * width * 4, device, most_bytes):
        words = {
            split: _held(_blocks(snapshot, split, encoder, known), counts[split], width).to(device)
            for split in SPLITS
        }
    else:
        files = _files(snapshot, folder, encoder, known)
        words = {split: _mapped(files / split, counts[split], width) for split in SPLITS}
    train, validation = (Rows(shapes, device=device, words_NW=words[split]) for split in SPLITS)
    return Encodings(encoder, made, train, validation)


def memory_share() -> int:
    """Return the bytes of memory that the encoded rows of one rank may take on this machine.

    Raises:
        UsageError: a setting holds what it cannot be.
    """
    most_bytes = load_settings().memory_bytes
    if most_bytes is None:
        most_bytes = _memory() // 2
    return most_bytes // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # noqa: TID251 - torchrun's


def _memory() -> int:
    """Return the bytes of memory of this machine, or of the container if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return machine if limit == "max" else min(machine, int(limit))


def _fits(size: int, device: torch.device, most_bytes: int) -> bool:
    if device.type == "cuda":
        # The rest is for the model.
        most_bytes = min(most_bytes, torch.cuda.mem_get_info(device)[0] // 2)
    return size <= most_bytes


class SplitColumns:
    """The rows of one part of the split, as a table that reads a column when it is asked for."""

    def __init__(self, snapshot: Snapshot, split: str) -> None:
        self._snapshot = snapshot
        self._chosen = [pc.equal(part["split"], split) for part in snapshot.parts(["split"])]

    def __len__(self) -> int:
        return sum(pc.sum(chosen).as_py() or 0 for chosen in self._chosen)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """Return one column, in the order of the snapshot."""
        parts = zip(self._snapshot.parts([name]), self._chosen, strict=True)
        return pa.concat_tables([part.filter(chosen) for part, chosen in parts])[name]


def _known_of(rows: SplitColumns, known: pa.Table) -> pa.Table:
    """Return the known-ahead rows of the cut-offs in `rows` alone."""
    cutoffs = pc.unique(rows["event_timestamp"])
    return known.filter(pc.is_in(known["event_timestamp"], value_set=cutoffs))


def _words(encoder: Encoder, rows: pa.Table, known: pa.Table) -> Words:
    return row_words(encoder.encode(rows, known), encoder.labels(rows))


def _blocks(snapshot: Snapshot, split: str, encoder: Encoder, known: pa.Table) -> Iterator[Words]:
    """Yield [n, W]: the rows of one part of the split, a part of the snapshot at a time."""
    for part in snapshot.parts():
        yield _words(encoder, part.filter(pc.equal(part["split"], split)), known)


def _held(blocks: Iterator[Words], count: int, width: int) -> Tensor:
    words_NW = np.empty((count, width), dtype=np.int32)
    start = 0
    for block in blocks:
        words_NW[start : start + len(block)] = block
        start += len(block)
    return torch.from_numpy(words_NW)


def _files(snapshot: Snapshot, folder: Path, encoder: Encoder, known: pa.Table) -> Path:
    """Return the folder of files of encoded rows; the first rank that asks makes it."""
    final = folder / f"encoded-{fingerprint(FORMAT, snapshot.fingerprint, encoder.to_json())}"
    with locked(folder / "encoded.lock"):
        if not is_published(final):
            for killed in folder.glob(".encoded-*"):
                shutil.rmtree(killed)
            try:
                _write(final, snapshot, encoder, known)
            except OSError as error:
                message = (
                    f"the encoded rows cannot be written to {folder} ({error}); make room, "
                    "or let them stay in memory: raise FEASTRAIN_MEMORY_BYTES"
                )
                raise FeastrainError(message) from error
    open_manifest(final)
    return final


def _write(final: Path, snapshot: Snapshot, encoder: Encoder, known: pa.Table) -> None:
    with publishing(final, {}) as scratch:
        for split in SPLITS:
            with (scratch / split).open("wb") as file:
                for block in _blocks(snapshot, split, encoder, known):
                    block.tofile(file)


def _mapped(path: Path, count: int, width: int) -> Tensor:
    """Return [N, W] words that are read from the file when a batch asks for them."""
    if not count:
        return torch.empty((0, width), dtype=torch.int32)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        # PyTorch has no read-only tensors and warns of writing, which nothing does.
        words_NW = torch.from_numpy(np.frombuffer(mapped, dtype=np.int32))
    return words_NW.view(count, width)
