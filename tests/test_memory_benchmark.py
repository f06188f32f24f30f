"""The memory benchmark counts live bytes, and checkpointing holds fewer of them."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def memory() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("memory")


def test_bytes_that_were_freed_do_not_count(memory: ModuleType) -> None:
    """Two tensors at once are a peak of both; a third after they are gone adds nothing."""

    def step() -> None:
        pair = [torch.empty(100_000), torch.empty(50_000)]
        pair.clear()
        torch.empty(120_000)

    assert 600_000 == pytest.approx(memory._peak_live_bytes(step), rel=0.01)


@pytest.mark.parametrize(("case", "most"), [("tft", 0.6), ("mlp", 0.4)])
def test_checkpointing_holds_less(
    memory: ModuleType, monkeypatch: pytest.MonkeyPatch, case: str, most: float
) -> None:
    """A checkpointed step holds so much less at its peak, of a smaller batch, too."""
    monkeypatch.setattr(memory, "BATCH", 32)
    monkeypatch.setattr(memory, "MLP_BATCH", 512)
    monkeypatch.setattr(memory, "MLP_LAYERS", [64] * 8)
    model, batch = getattr(memory, f"_{case}")()
    step = memory._step(model, batch)
    peaks = []
    for model.recompute in (False, True):
        step()
        peaks.append(memory._peak_live_bytes(step))
    assert peaks[1] < most * peaks[0]
