"""Feeding: rows a second in training, ours against data loaders and the limit.

Every system trains the same MLP (hidden 128 and 64, horizon 1, three quantiles) on the same
421,570 rows of 30 float32 features and one label: forward, loss, backward, clipping, AdamW.
They differ in where a batch comes from. Ours gathers it from tensors made once, in the order of
`feastrain train`; `limit` takes one preloaded batch again and again; `dataloader` is PyTorch's,
as it comes; `dataloader-recipe` adds what is often recommended: a DistributedSampler, a spawned
worker for two cores, kept alive, that prefetches four batches. Systems take turns, forwards and
backwards, and the best turn of each counts, so that noise of the machine hits all alike; the
median ratio of a turn is told beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from feastrain.models.batches import Batch, Rows, shuffled
from feastrain.models.encoder import Encoded
from feastrain.models.losses import pinball_loss
from feastrain.models.mlp import MLP
from figures import Figure, options, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Examples = Iterator[tuple[Batch, Tensor, Tensor]]
    """Batches without end, each with its labels [B, 1] and weights [B, 1]."""

NAME = "feeding"
CASES = {"mlp-b256": 256, "mlp-b1024": 1024, "mlp-b4096": 4096}
ROWS, CUTOFFS = 421_570, 143
ROW, STEP, KNOWN = 21, 4, 5  # of the 30 features: of the row, by step, known ahead
QUANTILES = [0.1, 0.5, 0.9]
TURN_S, WARM_UP_S = 1.0, 0.4
TURNS, QUICK_TURNS = 16, 3
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Measure the cases that are asked for, and tell what each system trained in a second."""
    asked = options(__doc__, _extend)
    encoded, labels = _encoded()
    turns = QUICK_TURNS if asked.quick else TURNS
    rates = {
        case: _measured(_systems(encoded, labels, CASES[case]), turns)
        for case in asked.case.split(",")
    }
    tell(
        (
            Figure(NAME, case, system, "rows_per_s", max(of_turns))
            for case, of_systems in rates.items()
            for system, of_turns in of_systems.items()
        ),
        asked.json,
    )
    for case, of_systems in rates.items():
        ratios = ", ".join(
            f"{_ratio(of_systems['feastrain'], of_turns)} of {system}"
            for system, of_turns in of_systems.items()
            if system != "feastrain"
        )
        print(f"{case}: feastrain trains {ratios}")


def _ratio(ours: list[float], theirs: list[float]) -> str:
    each = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return f"{max(ours) / max(theirs):.2f} (median of turns {each:.2f})"


def _extend(parser: argparse.ArgumentParser) -> None:
    def known(cases: str) -> str:
        unknown = set(cases.split(",")) - set(CASES)
        if unknown:
            message = f"no {', '.join(sorted(unknown))}; there are {', '.join(CASES)}"
            raise argparse.ArgumentTypeError(message)
        return cases

    cases = ",".join(CASES)
    parser.add_argument("--case", default=cases, type=known, help="some of %(default)s")


def _encoded() -> tuple[Encoded, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    encoded = Encoded(
        row_NF=drawn(ROWS, ROW),
        category_NC=np.zeros((ROWS, 0), dtype=np.int64),
        step_NHS=drawn(ROWS, 1, STEP),
        group_N=rng.integers(0, CUTOFFS, ROWS),
        known_GHK=drawn(CUTOFFS, 1, KNOWN),
        known_category_GHD=np.zeros((CUTOFFS, 1, 0), dtype=np.int64),
        unit_N=np.ones(ROWS, dtype=np.float32),
    )
    return encoded, (drawn(ROWS, 1), np.ones((ROWS, 1), dtype=np.float32))


def _systems(encoded: Encoded, labels: tuple[np.ndarray, ...], batch: int) -> dict[str, Examples]:
    rows = Rows(encoded, labels, DEVICE)
    table = Table(encoded, labels[0])
    sampler = DistributedSampler(table, num_replicas=1, rank=0)
    pinned = DEVICE.type == "cuda"
    recipe = DataLoader(
        table,
        batch,
        sampler=sampler,
        num_workers=max(1, (os.cpu_count() or 1) // 2),
        prefetch_factor=4,
        persistent_workers=True,
        multiprocessing_context="spawn",
        pin_memory=pinned,
    )
    plain = DataLoader(table, batch, shuffle=True, pin_memory=pinned)
    return {
        "feastrain": _gathered(rows, batch),
        "limit": _preloaded(rows, batch),
        "dataloader-recipe": _loaded(recipe, sampler.set_epoch),
        "dataloader": _loaded(plain, lambda _: None),
    }


def _gathered(rows: Rows, batch: int) -> Examples:
    for epoch in range(sys.maxsize):
        for index_B in shuffled(
            len(rows), batch_rows=batch, seed=0, epoch=epoch, rank=0, world_size=1
        ):
            yield rows.examples(index_B)


def _preloaded(rows: Rows, batch: int) -> Examples:
    gathered, *labels = rows.examples(torch.randperm(len(rows))[:batch])
    whole = Batch(*(getattr(gathered, field.name).contiguous() for field in fields(Batch)))
    label_B1, weight_B1 = (tensor.contiguous() for tensor in labels)
    while True:
        yield whole, label_B1, weight_B1


class Table(Dataset[tuple[Tensor, Tensor]]):
    """The same features side by side, [N, 30], and labels, read one row at a time."""

    def __init__(self, encoded: Encoded, label_N1: np.ndarray) -> None:
        known_NK = encoded.known_GHK[encoded.group_N, 0]
        parts = (encoded.row_NF, encoded.step_NHS[:, 0], known_NK)
        self.feature_NF = torch.from_numpy(np.concatenate(parts, axis=1))
        self.label_N1 = torch.from_numpy(label_N1)

    def __len__(self) -> int:
        return len(self.feature_NF)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """Return the features [30] and the label [1] of one row."""
        return self.feature_NF[row], self.label_N1[row]


def _loaded(loader: DataLoader[Any], set_epoch: Callable[[int], None]) -> Examples:
    for epoch in range(sys.maxsize):
        set_epoch(epoch)
        for features, labels in loader:
            feature_BF = features.to(DEVICE, non_blocking=True)
            label_B1 = labels.to(DEVICE, non_blocking=True)
            no_codes = torch.empty((len(label_B1), 1, 0), dtype=torch.int64, device=DEVICE)
            one_B = torch.ones(len(label_B1), device=DEVICE)
            row_BF, step_BS, known_BK = feature_BF.split((ROW, STEP, KNOWN), dim=1)
            yield (
                Batch(row_BF, no_codes[:, 0], step_BS[:, None], known_BK[:, None], no_codes, one_B),
                label_B1,
                one_B[:, None],
            )


def _measured(systems: dict[str, Examples], turns: int) -> dict[str, list[float]]:
    """Return the rows a second of each system's turns; one model learns from all."""
    step = _step()
    rates: dict[str, list[float]] = {system: [] for system in systems}
    for turn in range(turns):
        for system in list(systems)[:: 1 if turn % 2 else -1]:
            # A warm-up uses up what a loader fetched while others had their turn.
            _rate(step, systems[system], WARM_UP_S)
            rates[system].append(_rate(step, systems[system], TURN_S))
    return rates


def _rate(step: Callable[..., None], examples: Examples, seconds: float) -> float:
    rows, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        batch, label_B1, weight_B1 = next(examples)
        step(batch, label_B1, weight_B1)
        rows += len(label_B1)
    return rows / (time.perf_counter() - started)


def _step() -> Callable[[Batch, Tensor, Tensor], None]:
    torch.manual_seed(0)
    model = MLP(
        row_numbers=ROW,
        step_numbers=STEP,
        known_numbers=KNOWN,
        row_vocabularies=[],
        known_vocabularies=[],
        horizon=1,
        hidden=[128, 64],
        embedding=8,
        dropout=0.1,
        quantiles=QUANTILES,
    ).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    quantiles = torch.tensor(QUANTILES, device=DEVICE)

    def step(batch: Batch, label_B1: Tensor, weight_B1: Tensor) -> None:
        size_B1 = batch.unit_B.unsqueeze(1)
        summed, weight = pinball_loss(label_B1, weight_B1 * size_B1, model(batch), quantiles)
        optimizer.zero_grad(set_to_none=True)
        (summed / weight).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert norm.isfinite()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
