"""The TFT benchmark trains on the panel it says, and goes on without its peers."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_windows_are_the_panel() -> None:
    """A window has the sizes of the benchmark, its series' last periods, and its next targets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        panel, ours = (importlib.import_module(name) for name in ("tft_panel", "tft_ours"))
    _, rows = ours.windows()
    drawn = panel.draw()
    assert panel.SERIES * (panel.PERIODS - 52 - 8 + 1) == len(rows)
    batch, label_BH, weight_BH = rows.examples(torch.tensor([7]))
    assert (1, 3) == batch.static_BF.shape
    assert [(1, 52, 5), (1, 52, 6)] == [batch.past_BLO.shape, batch.past_known_BLK.shape]
    target_P = torch.from_numpy(drawn.observed_SPO[0, :, 0])
    past_L = batch.past_BLO[0, :, 0]
    assert torch.corrcoef(torch.stack([past_L, target_P[7:59]]))[0, 1] == pytest.approx(1)
    torch.testing.assert_close(label_BH[0] * batch.unit_B, target_P[59:67])
    assert bool((weight_BH == 1).all())


def test_a_peer_that_is_not_there_is_skipped() -> None:
    """One line says where it was looked for."""
    command = [sys.executable, str(BENCHMARKS / "tft.py"), "--system", "neuralforecast"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"neuralforecast is not in {sys.executable}: skipped" in done.stdout
