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
from datetime import UTC, datetime
from enum import StrEnum
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
    from feastrain.models.encoder import Encoder, Floats
    from feastrain.recipe import Recipe

FORMAT = 2
"""Of the files; another number lets no release read those of another."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


TrainingRows = Rows | WindowRows


KNOWN_SPAN = ("train", "test")
"""Parts of the split whose first cut-offs begin and end `Part.KNOWN`."""


class Part(StrEnum):
    """Rows of a snapshot to fit or to score on."""

    TRAIN = "train"
    VALIDATION = "validation"
    KNOWN = "known"
    """Rows from the first cut-off that trains to the first that tests, with what is known then."""
    NONE = "none"


@dataclass(frozen=True)
class Encodings:
    """What training reads: the rows of both parts, the encoder, and what it is read by."""

    encoder: Encoder
    architecture: dict[str, Any]
    train: TrainingRows
    validation: TrainingRows


def encode(
    recipe: Recipe,
    snapshot: Snapshot,
    folder: Path,
    device: torch.device,
    most_bytes: int,
    *,
    refit: bool = False,
) -> Encodings:
    """Fit the encoder on the training rows, and encode them and the validation rows.

    Args:
        recipe: with the model, which is a network.
        snapshot: what to train on.
        folder: the run, in which rows of more than `most_bytes` are kept in files.
        device: where batches are read.
        most_bytes: the memory that this rank's rows may take.
        refit: train on every label that is known at the first test cut-off; validate on none.

    Raises:
        FeastrainError: the files cannot be written.
        ArtifactError: a file that was written earlier is damaged.
    """
    known, encoder = snapshot.known(), fit_encoder(snapshot, recipe.label.event)
    made = architecture(recipe, encoder)
    labelled = Labelled(recipe, snapshot, encoder)
    parts = (Part.KNOWN, Part.NONE) if refit else (Part.TRAIN, Part.VALIDATION)
    if recipe.model.look_back:
        past = snapshot.rows()
        train, validation = (
            make_rows(made, encoder, rows, known, past, labels=labels, device=device)
            for part in parts
            for rows, labels in [labelled.all(part)]
        )
        return Encodings(encoder, made, train, validation)
    none = next(snapshot.parts()).slice(0, 0)
    shapes = encoder.encode(none, known)
    width = row_words(shapes, encoder.labels(none)).shape[1]
    counts = {part: len(PartColumns(snapshot, part)) for part in parts}
    if _fits(sum(counts.values()) * width * 4, device, most_bytes):
        words = {
            part: _held(_blocks(labelled, part, known), counts[part], width).to(device)
            for part in parts
        }
    else:
        files = _files(labelled, parts, folder, known)
        words = {part: _mapped(files / part, counts[part], width) for part in parts}
    train, validation = (Rows(shapes, device=device, words_NW=words[part]) for part in parts)
    return Encodings(encoder, made, train, validation)


def fit_encoder(snapshot: Snapshot, event: str | None = None) -> Encoder:
    """Fit the encoder on the training rows; `event` as in `feastrain.models.encoder.fit`."""
    training = PartColumns(snapshot, Part.TRAIN)
    known = _known_of(training, snapshot.known())
    return encoders.fit(snapshot.columns, training, known, event)


class Labelled:
    """The rows of a snapshot by part, with what a model learns of them."""

    def __init__(self, recipe: Recipe, snapshot: Snapshot, encoder: Encoder) -> None:
        (self._model,) = recipe.members
        self._frequency = np.timedelta64(recipe.frequency, "us")
        self.snapshot, self.encoder = snapshot, encoder

    @property
    def baseline(self) -> str | None:
        """What the labels are left over."""
        return self._model.baseline

    def of(self, rows: pa.Table, part: Part) -> tuple[pa.Table, tuple[Floats, Floats]]:
        """Return those of the rows that belong to a part, and their labels and weights."""
        rows = rows.filter(_chosen(self.snapshot, rows, part))
        label_NH, weight_NH = self.encoder.labels(rows, self.baseline)
        if part is Part.KNOWN:
            cutoff_N = rows["event_timestamp"].to_numpy().astype("datetime64[us]")
            step_H = np.arange(1, label_NH.shape[1] + 1)
            closes_NH = cutoff_N[:, None] + step_H * self._frequency
            weight_NH = np.where(closes_NH <= _first(self.snapshot, "test"), weight_NH, 0)
        return rows, (label_NH, weight_NH.astype(np.float32))

    def all(self, part: Part) -> tuple[pa.Table, tuple[Floats, Floats]]:
        """Return all rows of a part, and their labels and weights."""
        return self.of(self.snapshot.rows(), part)


def memory_share() -> int:
    """Return the bytes of memory that the encoded rows of one rank may take on this machine.

    Raises:
        UsageError: a setting holds what it cannot be.
    """
    settings = load_settings()
    most_bytes = settings.memory_bytes
    if most_bytes is None:
        most_bytes = _memory() // 2
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # noqa: TID251 - torchrun's
    return most_bytes // (processes * settings.nodes_here)


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


class PartColumns:
    """The rows of one part, as a table that reads a column when it is asked for."""

    def __init__(self, snapshot: Snapshot, part: Part) -> None:
        self._snapshot = snapshot
        read = snapshot.parts(["split", "event_timestamp"])
        self._chosen = [_chosen(snapshot, rows, part) for rows in read]

    def __len__(self) -> int:
        return sum(pc.sum(chosen).as_py() or 0 for chosen in self._chosen)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """Return one column, in the order of the snapshot."""
        parts = zip(self._snapshot.parts([name]), self._chosen, strict=True)
        return pa.concat_tables([part.filter(chosen) for part, chosen in parts])[name]


def _chosen(snapshot: Snapshot, rows: pa.Table, part: Part) -> pa.ChunkedArray:
    """Return [N] whether a row belongs to a part."""
    if part is not Part.KNOWN:
        return pc.equal(rows["split"], part.value)
    cutoff_N = rows["event_timestamp"]
    first, end = (pa.scalar(_first(snapshot, of).item()).cast(cutoff_N.type) for of in KNOWN_SPAN)
    return pc.and_(pc.greater_equal(cutoff_N, first), pc.less(cutoff_N, end))


def _first(snapshot: Snapshot, part: str) -> np.datetime64:
    """Return the first cut-off of a part of the split."""
    moment = datetime.fromisoformat(snapshot.manifest["split"][part]["first_cutoff"])
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")


def _known_of(rows: PartColumns, known: pa.Table) -> pa.Table:
    """Return the known-ahead rows of the cut-offs in `rows` alone."""
    cutoffs = pc.unique(rows["event_timestamp"])
    return known.filter(pc.is_in(known["event_timestamp"], value_set=cutoffs))


def _blocks(labelled: Labelled, part: Part, known: pa.Table) -> Iterator[Words]:
    """Yield [n, W]: the rows of one part, a part of the snapshot at a time."""
    for table in labelled.snapshot.parts():
        rows, labels = labelled.of(table, part)
        yield row_words(labelled.encoder.encode(rows, known), labels)


def _held(blocks: Iterator[Words], count: int, width: int) -> Tensor:
    words_NW = np.empty((count, width), dtype=np.int32)
    start = 0
    for block in blocks:
        words_NW[start : start + len(block)] = block
        start += len(block)
    return torch.from_numpy(words_NW)


def _files(labelled: Labelled, parts: tuple[Part, ...], folder: Path, known: pa.Table) -> Path:
    """Return the folder of files of encoded rows; the first rank that asks makes it."""
    made_of = [labelled.snapshot.fingerprint, labelled.encoder.to_json(), labelled.baseline, parts]
    final = folder / f"encoded-{fingerprint(FORMAT, *made_of)}"
    with locked(folder / "encoded.lock"):
        if not is_published(final):
            for killed in folder.glob(".encoded-*"):
                shutil.rmtree(killed)
            try:
                _write(final, labelled, parts, known)
            except OSError as error:
                message = (
                    f"the encoded rows cannot be written to {folder} ({error}); make room, "
                    "or let them stay in memory: raise FEASTRAIN_MEMORY_BYTES"
                )
                raise FeastrainError(message) from error
    open_manifest(final)
    return final


def _write(final: Path, labelled: Labelled, parts: tuple[Part, ...], known: pa.Table) -> None:
    with publishing(final, {}) as scratch:
        for part in parts:
            with (scratch / part).open("wb") as file:
                for block in _blocks(labelled, part, known):
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
