"""Gradient checkpointing: what a training step holds in memory at its peak, and how long it takes.

`plain` keeps activations for the backward pass; `checkpointed` (`training.recompute` in a recipe)
computes them again. The bytes are of tensors that are alive at once during one step (forward,
loss, backward, clipping, AdamW), beyond those that were alive before it: on a CPU the running sum
of the profiler's allocations, on a GPU the allocator's own count. Saved tensors alone would
flatter, and resident memory hides what the allocator kept. Both systems take turns, and the
middle of a system's step times counts; threads are those of one of two ranks on this machine.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from feastrain.models.batches import Batch
from feastrain.models.losses import pinball_loss
from feastrain.models.mlp import MLP
from feastrain.models.tft import TFT
from feastrain.models.windows import WindowBatch
from figures import Figure, options, tell
from tft_panel import BATCH, CONTEXT, DROPOUT, HEADS, HIDDEN, HORIZON, KNOWN, OBSERVED, STATIC

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "memory"
SYSTEMS = {"plain": False, "checkpointed": True}
QUANTILES = [0.1, 0.5, 0.9]
STEPS, QUICK_STEPS = 20, 3
MLP_BATCH, MLP_FEATURES, MLP_LAYERS = 4096, 32, [512] * 8
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Measure both cases, and tell what checkpointing saves and costs."""
    asked = options(__doc__)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    figures = []
    for case, make in {"tft": _tft, "mlp": _mlp}.items():
        torch.manual_seed(0)
        model, batch = make()
        step = _step(model.to(DEVICE), batch)
        peaks, seconds = _measured(model, step, QUICK_STEPS if asked.quick else STEPS)
        for system in SYSTEMS:
            figures.append(Figure(NAME, case, system, "peak_live_bytes", peaks[system]))
            figures.append(Figure(NAME, case, system, "step_s", seconds[system]))
    tell(figures, asked.json)
    told = {(figure.case, figure.metric, figure.system): figure.value for figure in figures}
    for case, metric in itertools.product(("tft", "mlp"), ("peak_live_bytes", "step_s")):
        plain, checkpointed = (told[case, metric, system] for system in SYSTEMS)
        print(f"{case}: {metric} of a checkpointed step {checkpointed / plain - 1:+.0%}")


def _measured(
    model: MLP | TFT, step: Callable[[], None], steps: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the peak bytes and the seconds of a step, by system."""
    peaks: dict[str, float] = {}
    seconds: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    for system, model.recompute in SYSTEMS.items():
        step()  # makes the optimiser's state
        peaks[system] = _peak_live_bytes(step)
    for turn, system in itertools.product(range(steps), SYSTEMS):
        model.recompute = SYSTEMS[system]
        started = time.perf_counter()
        step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        if turn:  # the first one warms up
            seconds[system].append(time.perf_counter() - started)
    return peaks, {system: statistics.median(taken) for system, taken in seconds.items()}


def _peak_live_bytes(step: Callable[[], None]) -> float:
    """Return the most bytes that were alive during a step beyond those alive before it."""
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        step()
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace.json"
        seen.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return max(itertools.accumulate(event["args"]["Bytes"] for event in changes))


def _step(model: MLP | TFT, batch: Batch | WindowBatch) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    quantiles = torch.tensor(QUANTILES, device=DEVICE)
    label_BH = torch.randn(len(batch.unit_B), batch.step_BHS.shape[1], device=DEVICE)
    weight_BH = torch.ones_like(label_BH)

    def step() -> None:
        # Gradients of the step before are gone before this one starts, as its own at its end.
        summed, weight = pinball_loss(label_BH, weight_BH, model(batch), quantiles)
        (summed / weight).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert norm.isfinite()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _tft() -> tuple[TFT, WindowBatch]:
    """Return the model and a batch of the `tft` benchmark."""
    model = TFT(
        static_numbers=STATIC,
        static_vocabularies=[],
        observed_numbers=OBSERVED,
        known_numbers=KNOWN,
        step_numbers=0,
        known_vocabularies=[],
        context=CONTEXT,
        horizon=HORIZON,
        width=HIDDEN,
        heads=HEADS,
        dropout=DROPOUT,
        quantiles=QUANTILES,
    )
    batch = WindowBatch(
        static_BF=_drawn(BATCH, STATIC),
        category_BC=_codes(BATCH),
        past_BLO=_drawn(BATCH, CONTEXT, OBSERVED),
        past_known_BLK=_drawn(BATCH, CONTEXT, KNOWN),
        past_category_BLD=_codes(BATCH, CONTEXT),
        valid_BL=torch.ones(BATCH, CONTEXT, device=DEVICE),
        step_BHS=_drawn(BATCH, HORIZON, 0),
        known_BHK=_drawn(BATCH, HORIZON, KNOWN),
        known_category_BHD=_codes(BATCH, HORIZON),
        unit_B=torch.ones(BATCH, device=DEVICE),
    )
    return model, batch


def _mlp() -> tuple[MLP, Batch]:
    """Return a deep multilayer perceptron and a batch of one step ahead."""
    model = MLP(
        row_numbers=MLP_FEATURES,
        step_numbers=1,
        known_numbers=4,
        row_vocabularies=[],
        known_vocabularies=[],
        horizon=1,
        hidden=MLP_LAYERS,
        embedding=8,
        dropout=DROPOUT,
        quantiles=QUANTILES,
    )
    batch = Batch(
        row_BF=_drawn(MLP_BATCH, MLP_FEATURES),
        category_BC=_codes(MLP_BATCH),
        step_BHS=_drawn(MLP_BATCH, 1, 1),
        known_BHK=_drawn(MLP_BATCH, 1, 4),
        known_category_BHD=_codes(MLP_BATCH, 1),
        unit_B=torch.ones(MLP_BATCH, device=DEVICE),
    )
    return model, batch


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE)


def _codes(*shape: int) -> torch.Tensor:
    """Return codes of no category."""
    return torch.empty((*shape, 0), dtype=torch.int64, device=DEVICE)


if __name__ == "__main__":
    main()
