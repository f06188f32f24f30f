"""Checkpoints: everything a run needs to go on as if it had never stopped.

One file each, `epoch-0003-0000061440-DIGEST.safetensors` after three epochs and 61,440 rows of the
next: tensors, and the rest as JSON in the file's header. It is written beside, synced and renamed;
the digest in its name is checked before it is read, so a damaged one is reported and the one
before it is used. The best weights so far are those of one of the files, which the others name.
No pickle.
"""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from feastrain.artifacts import file_digest
from feastrain.errors import FeastrainError, UsageError
from feastrain.telemetry import say
from feastrain.training.files import CHECKPOINTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor

KEEP = 3
"""How many of the newest are kept, besides those that hold the best weights of one of them."""
NAME = re.compile(r"epoch-(\d+)-(\d+)-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps: tensors by name, and the rest as JSON values.

    `state` holds at least `epochs_done`, `row` (how many rows of the next epoch were read),
    `identity` and `best`: the name of the file with the best weights, None if they are its own.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    best: dict[str, Tensor] | None = None
    """The best weights so far, and the file they are in, once it was read."""
    best_file: str | None = None

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with `prefix.`, without it."""
        start = f"{prefix}."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


class Saver:
    """Writes checkpoints in a thread, one at a time, while training goes on.

    What went wrong is raised by the call that follows.
    """

    def __init__(self, folder: Path, on_saved: Callable[[float], None], best: str | None) -> None:
        """Write into `folder`, and tell `on_saved` the seconds that each took.

        `best` is the file that holds the best weights of a run that is resumed.
        """
        self._folder, self._on_saved, self._best = folder, on_saved, best
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Begin to write a checkpoint, of tensors that nobody changes, once the last is written.

        Raises:
            FeastrainError: the one before could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(self._save, checkpoint, best)

    def wait(self) -> None:
        """Wait for the last checkpoint to be written.

        Raises:
            FeastrainError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _save(self, checkpoint: Checkpoint, best: bool) -> None:  # noqa: FBT001 - of a thread's call
        started = time.perf_counter()
        state = checkpoint.state | {"best": None if best else self._best}
        path = save(self._folder, replace(checkpoint, state=state))
        if best:
            self._best = path.name
        self._on_saved(time.perf_counter() - started)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under its final name, whole, and drop all but the newest few and the best.

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
    stem = "epoch-{epochs_done:04d}-{row:010d}".format_map(checkpoint.state)
    scratch = folder / f".{stem}.partial"
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, scratch, metadata={"state": json.dumps(checkpoint.state, sort_keys=True)})
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    final = scratch.rename(folder / f"{stem}-{file_digest(scratch)[:16]}.safetensors")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _drop_others(folder, final)
    return final


def _drop_others(folder: Path, final: Path) -> None:
    """Keep the newest few up to `final`, and the files that hold the best weights of those.

    A later one was damaged, or the run would have gone on from it.
    """
    found = _newest_first(folder)
    kept = [path for path in found if path.name <= final.name][:KEEP]
    named = {path.name for path in kept} | {_best_of(path) for path in kept}
    for path in found:
        if path.name not in named:
            path.unlink()


def _best_of(path: Path) -> str | None:
    """Return the file that a checkpoint names for its best weights, if it can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            best: str | None = json.loads(file.metadata()["state"])["best"]
    except SafetensorError:
        return None
    return best


def newest(folder: Path, identity: dict[str, Any]) -> Checkpoint | None:
    """Return the newest whole checkpoint of this run, or None where there is none.

    Args:
        folder: the run.
        identity: what a checkpoint must have been made from to be resumed.

    Raises:
        UsageError: it belongs to another run; the message lists the differences.
    """
    for path in _newest_first(folder):
        found = _read(path)
        if found is None:
            continue
        _refuse_another(path, found.state["identity"], identity)
        named = found.state["best"]
        best = found if named is None else _read(folder / named)
        if best is not None:
            return replace(found, best=best.part("weights"), best_file=named or path.name)
    return None


def _read(path: Path) -> Checkpoint | None:
    """Return a checkpoint, or None and say so where it is missing or damaged."""
    match = NAME.fullmatch(path.name)
    assert match is not None
    if not path.is_file() or file_digest(path)[:16] != match[3]:
        say(f"{path} is damaged or gone; going back to the checkpoint before it.")
        return None
    with safe_open(path, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Checkpoint(tensors, state)


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
    found = [path for path in folder.glob(CHECKPOINTS) if NAME.fullmatch(path.name)]
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
