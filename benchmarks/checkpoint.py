"""Checkpoints: how long training waits for them, ours against a plain `torch.save`.

An MLP trains while a checkpoint of weights and AdamW's moments is saved every `--every` seconds,
thirty times as often as `feastrain train` does by default. `feastrain` copies the tensors and
writes them in a thread: to a file beside, synced, checksummed and renamed. `torch.save` does what
most scripts do: it writes while the loop waits, here with sync and rename, too. `blocked_share` is
the share of the time that the loop stands still, `save_s` the time until a checkpoint is on disk.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from feastrain.training.checkpoint import Checkpoint, Saver
from figures import Figure, options, tell

if TYPE_CHECKING:
    import argparse

NAME = "checkpoint"
CASES = {"0.2m": (256, 3), "10m": (1792, 4)}
"""Parameters: width and depth of the MLP."""
INPUTS, BATCH = 64, 256
SECONDS, QUICK_SECONDS = 20.0, 6.0

Save = Callable[[int, nn.Module, torch.optim.Optimizer], None]


def main() -> None:
    """Measure both systems on both sizes."""
    asked = options(__doc__, _extend)
    seconds = QUICK_SECONDS if asked.quick else SECONDS
    figures = []
    for case, (width, depth) in CASES.items():
        shares = {}
        for system in ("feastrain", "torch.save"):
            with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
                blocked, saves = _run(system, Path(folder), width, depth, seconds, asked.every)
            shares[system] = blocked / seconds
            figures += [
                Figure(NAME, case, system, "blocked_share", shares[system]),
                Figure(NAME, case, system, "save_s", sum(saves) / len(saves)),
            ]
        ratio = shares["feastrain"] / shares["torch.save"]
        print(f"{case}: feastrain stands still for {ratio:.2f} x the time of torch.save")
    tell(figures, asked.json)


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--every", type=float, default=2.0, help="seconds: %(default)s")
    parser.add_argument("--folder", type=Path, help="where to write; the system's own if left out")


def _run(
    system: str, folder: Path, width: int, depth: int, seconds: float, every: float
) -> tuple[float, list[float]]:
    """Train for some seconds; return the seconds that the loop stood still, and of every save."""
    torch.manual_seed(0)
    sizes = [INPUTS, *[width] * depth]
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    model = nn.Sequential(*layers, nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    rows = torch.randn(BATCH, INPUTS)
    saves: list[float] = []
    with Saver(folder, saves.append, None) as saver:
        save = _background(saver) if system == "feastrain" else _plain(folder, saves)
        blocked, step, started = 0.0, 0, time.perf_counter()
        due = started + every
        while (now := time.perf_counter()) < started + seconds:
            if now >= due:
                save(step, model, optimizer)
                blocked += time.perf_counter() - now
                due = now + every
            optimizer.zero_grad()
            model(rows).square().mean().backward()
            optimizer.step()
            step += 1
    return blocked, saves


def _background(saver: Saver) -> Save:
    def save(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        tensors = {f"weights.{name}": t.detach().clone() for name, t in model.state_dict().items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": t.clone() for name, t in moments.items()}
        state = {"identity": {}, "epochs_done": 0, "row": step}
        saver.save(Checkpoint(tensors, state), best=False)

    return save


def _plain(folder: Path, saves: list[float]) -> Save:
    def save(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        started = time.perf_counter()
        beside = folder / "checkpoint.partial"
        with beside.open("wb") as file:
            torch.save({"m": model.state_dict(), "o": optimizer.state_dict(), "s": step}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(folder / "checkpoint.pt")
        saves.append(time.perf_counter() - started)

    return save


if __name__ == "__main__":
    main()
