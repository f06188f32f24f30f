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

    assert 600_000 == pytest.approx(memory._peak(step), rel=0.01)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("case", "most"), [("tft", 0.6), ("mlp", 0.4)])
def test_checkpointing_holds_less(memory: ModuleType, case: str, most: float) -> None:
    """The most that a checkpointed step holds at once is so much less."""
    model, batch, rows, horizon = getattr(memory, f"_{case}")()
    step = memory._step(model, batch, rows, horizon)
    peaks = []
    for recompute in (False, True):
        model.recompute = recompute
        peaks.append(memory._peak(step))
    assert peaks[1] < most * peaks[0]
