"""Memory of a training step, with and without gradient checkpointing (`training.recompute`).

`peak_live_bytes` is the most that a step (forward, loss, backward) has allocated at once beyond
what was there before it: the running sum of the allocator's events on a CPU, its own peak on CUDA.
Resident memory and counts of saved tensors tell something else. `step_s` is the best time of a
step without the profiler; systems take turns.

`tft`: 52 + 8 periods, width 32, 11 past and 6 future numbers, batch 256, dropout 0.1.
`mlp`: 24 hidden layers of 512, batch 4,096, horizon 1.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from feastrain.models.batches import Batch
from feastrain.models.losses import pinball_loss
from feastrain.models.mlp import MLP
from feastrain.models.tft import TFT
from feastrain.models.windows import WindowBatch
from figures import Figure, options, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    Step = Callable[[], None]

NAME = "memory"
SYSTEMS = {"plain": False, "checkpointed": True}
QUANTILES = [0.1, 0.5, 0.9]
TURNS, QUICK_TURNS = 10, 2
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Measure both models both ways."""
    asked = options(__doc__)
    warnings.filterwarnings("ignore", "Initializing zero-element tensors")
    figures, told = [], []
    for case, make in {"tft": _tft, "mlp": _mlp}.items():
        model, batch, rows, horizon = make()
        step = _step(model.to(DEVICE).train(), batch, rows, horizon)
        peaks, seconds = {}, dict.fromkeys(SYSTEMS, float("inf"))
        for system, recompute in SYSTEMS.items():
            model.recompute = recompute
            step()
            peaks[system] = _peak(step)
        for _ in range(QUICK_TURNS if asked.quick else TURNS):
            for system, recompute in SYSTEMS.items():
                model.recompute = recompute
                seconds[system] = min(seconds[system], _timed(step))
        for system in SYSTEMS:
            figures.append(Figure(NAME, case, system, "peak_live_bytes", peaks[system]))
            figures.append(Figure(NAME, case, system, "step_s", seconds[system]))
        less, longer = (
            1 - peaks["checkpointed"] / peaks["plain"],
            seconds["checkpointed"] / seconds["plain"] - 1,
        )
        told.append(f"{case}: {less:.0%} fewer live bytes, in {longer:+.0%} time")
    tell(figures, asked.json)
    for line in told:
        print(line)


def _step(model: nn.Module, batch: Batch | WindowBatch, rows: int, horizon: int) -> Step:
    label_BH = torch.randn(rows, horizon, device=DEVICE)
    weight_BH = torch.ones(rows, horizon, device=DEVICE)
    quantiles = torch.tensor(QUANTILES, device=DEVICE)

    def step() -> None:
        summed, weight = pinball_loss(label_BH, weight_BH, model(batch), quantiles)
        (summed / weight).backward()
        model.zero_grad(set_to_none=True)

    return step


def _peak(step: Step) -> float:
    """Return the most bytes that were allocated at once, beyond those before the step."""
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated(DEVICE)
        torch.cuda.reset_peak_memory_stats(DEVICE)
        step()
        return float(torch.cuda.max_memory_allocated(DEVICE) - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    assert events, "the profiler saw no allocation"
    live = most = 0
    for _, size in sorted(events):
        live += size
        most = max(most, live)
    return float(most)


def _timed(step: Step) -> float:
    started = time.perf_counter()
    step()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)
    return time.perf_counter() - started


def _tft() -> tuple[TFT, WindowBatch, int, int]:
    rows, context, horizon, observed, known = 256, 52, 8, 5, 6
    torch.manual_seed(0)
    model = TFT(
        static_numbers=3,
        static_vocabularies=[],
        observed_numbers=observed,
        known_numbers=known,
        step_numbers=0,
        known_vocabularies=[],
        context=context,
        horizon=horizon,
        width=32,
        heads=4,
        dropout=0.1,
        quantiles=QUANTILES,
    )
    none = torch.zeros((rows, 1, 0), dtype=torch.int64, device=DEVICE)
    batch = WindowBatch(
        static_BF=_drawn(rows, 3),
        category_BC=none[:, 0],
        past_BLO=_drawn(rows, context, observed),
        past_known_BLK=_drawn(rows, context, known),
        past_category_BLD=none.expand(rows, context, 0),
        valid_BL=torch.ones(rows, context, device=DEVICE),
        step_BHS=_drawn(rows, horizon, 0),
        known_BHK=_drawn(rows, horizon, known),
        known_category_BHD=none.expand(rows, horizon, 0),
        unit_B=torch.ones(rows, device=DEVICE),
    )
    return model, batch, rows, horizon


def _mlp() -> tuple[MLP, Batch, int, int]:
    rows, numbers = 4096, 30
    torch.manual_seed(0)
    model = MLP(
        row_numbers=numbers,
        step_numbers=0,
        known_numbers=0,
        row_vocabularies=[],
        known_vocabularies=[],
        horizon=1,
        hidden=[512] * 24,
        embedding=8,
        dropout=0.1,
        quantiles=QUANTILES,
    )
    none = torch.zeros((rows, 1, 0), dtype=torch.int64, device=DEVICE)
    batch = Batch(
        row_BF=_drawn(rows, numbers),
        category_BC=none[:, 0],
        step_BHS=_drawn(rows, 1, 0),
        known_BHK=_drawn(rows, 1, 0),
        known_category_BHD=none,
        unit_B=torch.ones(rows, device=DEVICE),
    )
    return model, batch, rows, 1


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE)


if __name__ == "__main__":
    main()
