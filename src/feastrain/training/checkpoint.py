"""Checkpoints: everything a run needs to go on as if it had never stopped.

One file an epoch, `epoch-0003-DIGEST.safetensors`: tensors, and the rest as JSON in the file's
header. It is written beside, synced and renamed; the digest in its name is checked before it
is read, so a damaged one is reported and the one before it is used. No pickle.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from feastrain.artifacts import file_digest
from feastrain.errors import FeastrainError, UsageError
from feastrain.telemetry import say

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

KEEP = 2
NAME = re.compile(r"epoch-(\d+)-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A run between two epochs: tensors by name, and the rest as JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def epochs_done(self) -> int:
        """How many epochs were finished."""
        return int(self.state["epochs_done"])

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with `prefix.`, without it."""
        start = f"{prefix}."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under its final name, whole, and drop all but the newest few.

    Raises:
        FeastrainError: it cannot be written; the ones before it are as they were.
    """
    sweep(folder)
    try:
        return _write(folder, checkpoint)
    except (OSError, SafetensorError) as error:
        sweep(folder)
        message = (
            f"no checkpoint can be written in {folder} ({error}); make room, "
            "and the same command resumes from the one before"
        )
        raise FeastrainError(message) from error


def _write(folder: Path, checkpoint: Checkpoint) -> Path:
    scratch = folder / f".epoch-{checkpoint.epochs_done:04d}.partial"
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, scratch, metadata={"state": json.dumps(checkpoint.state, sort_keys=True)})
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    name = f"epoch-{checkpoint.epochs_done:04d}-{file_digest(scratch)[:16]}.safetensors"
    final = scratch.rename(folder / name)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for old in _newest_first(folder)[KEEP:]:
        old.unlink()
    return final


def newest(folder: Path, identity: dict[str, Any]) -> Checkpoint | None:
    """Return the newest whole checkpoint of this run, or None where there is none.

    Args:
        folder: the run.
        identity: what a checkpoint must have been made from to be resumed.

    Raises:
        UsageError: it belongs to another run; the message lists the differences.
    """
    for path in _newest_first(folder):
        match = NAME.fullmatch(path.name)
        assert match is not None
        if file_digest(path)[:16] != match[2]:
            say(f"{path} is damaged; going back to the checkpoint before it.")
            continue
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _refuse_another(path, state["identity"], identity)
        return Checkpoint(tensors, state)
    return None


def sweep(folder: Path) -> None:
    """Remove what a killed save left behind."""
    for partial in folder.glob(".epoch-*.partial"):
        partial.unlink()


def discard(folder: Path) -> None:
    """Remove every checkpoint of a run that starts over."""
    sweep(folder)
    for path in _newest_first(folder):
        path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("epoch-*.safetensors") if NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def _refuse_another(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = [
        f"{key} was {found.get(key)}, is {wanted.get(key)}"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        message = (
            f"{path} belongs to another run ({'; '.join(differences)}); start over with --fresh"
        )
        raise UsageError(message)
