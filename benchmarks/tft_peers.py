"""One peer trains its Temporal Fusion Transformer, in an interpreter that has it.

    python benchmarks/tft_peers.py SYSTEM PROCESSES THREADS WARM_UP TIMED

Both peers train by Lightning; validation, logging, checkpoints and progress are off, and targets
and numbers come scaled, so that the clock sees batches, steps and nothing else.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from tft_panel import (
    BATCH,
    CLIP,
    CONTEXT,
    DROPOUT,
    HEADS,
    HIDDEN,
    HORIZON,
    KNOWN,
    OBSERVED,
    PERIODS,
    QUANTILES,
    RATE,
    SERIES,
    STATIC,
    Clock,
    draw,
)

if TYPE_CHECKING:
    from collections.abc import Callable

STATICS = [f"static_{n}" for n in range(STATIC)]
OBSERVEDS = [f"observed_{n}" for n in range(1, OBSERVED)]
KNOWNS = [f"known_{n}" for n in range(KNOWN)]


def main() -> None:
    """Train the system that the command line names."""
    warnings.simplefilter("ignore")
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    processes, threads, warm_up, timed = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    SYSTEMS[sys.argv[1]](Clock(warm_up, timed), processes)


def _pytorch_forecasting(clock: Clock, processes: int) -> None:
    import lightning.pytorch as pl
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.data import TorchNormalizer
    from pytorch_forecasting.metrics import QuantileLoss

    windows = TimeSeriesDataSet(
        _frame().merge(_statics(), on="unique_id").astype({"unique_id": str}),
        time_idx="ds",
        target="y",
        group_ids=["unique_id"],
        min_encoder_length=CONTEXT,
        max_encoder_length=CONTEXT,
        min_prediction_length=HORIZON,
        max_prediction_length=HORIZON,
        static_reals=STATICS,
        time_varying_known_reals=KNOWNS,
        time_varying_unknown_reals=["y", *OBSERVEDS],
        target_normalizer=TorchNormalizer(method="identity"),
    )
    model = TemporalFusionTransformer.from_dataset(
        windows,
        hidden_size=HIDDEN,
        hidden_continuous_size=HIDDEN,
        attention_head_size=HEADS,
        dropout=DROPOUT,
        loss=QuantileLoss(QUANTILES),
        output_size=len(QUANTILES),
        logging_metrics=torch.nn.ModuleList(),
        optimizer="adamw",
        learning_rate=RATE,
    )
    trainer = pl.Trainer(
        max_steps=clock.steps, callbacks=[_callback(pl, clock)], **_options(processes, "ddp")
    )
    trainer.fit(model, windows.to_dataloader(batch_size=BATCH // processes, num_workers=0))


def _neuralforecast(clock: Clock, processes: int) -> None:
    import pytorch_lightning as pl
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import TFT

    model = TFT(
        h=HORIZON,
        input_size=CONTEXT,
        hidden_size=HIDDEN,
        n_head=HEADS,
        dropout=DROPOUT,
        stat_exog_list=STATICS,
        hist_exog_list=OBSERVEDS,
        futr_exog_list=KNOWNS,
        loss=MQLoss(quantiles=QUANTILES),
        scaler_type="identity",
        windows_batch_size=BATCH // processes,
        max_steps=clock.steps,
        val_check_steps=clock.steps + 1,
        learning_rate=RATE,
        optimizer=torch.optim.AdamW,
        callbacks=[_callback(pl, clock)],
        # It has parameters that nothing reads.
        **_options(processes, "ddp_find_unused_parameters_true"),
    )
    NeuralForecast(models=[model], freq=1).fit(_frame(), static_df=_statics())


SYSTEMS: dict[str, Callable[[Clock, int], None]] = {
    "pytorch-forecasting": _pytorch_forecasting,
    "neuralforecast": _neuralforecast,
}


def _options(processes: int, parallel: str) -> dict[str, Any]:
    """Return what both tell Lightning's trainer; `parallel` is how processes work together."""
    return {
        "accelerator": "cpu",
        "devices": processes,
        "strategy": parallel if processes > 1 else "auto",
        "gradient_clip_val": CLIP,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }


def _callback(pl: Any, clock: Clock) -> Any:
    """Return a callback of this Lightning that tells the clock of steps, on one process."""

    class Told(pl.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.is_global_zero:
                clock.step_ended()

    return Told()


def _frame() -> pd.DataFrame:
    """Return the panel as a table, one row for each series and period."""
    panel = draw()
    columns = {
        "unique_id": np.repeat(np.arange(SERIES), PERIODS),
        "ds": np.tile(np.arange(PERIODS), SERIES),
    }
    observed = panel.observed_SPO.reshape(-1, OBSERVED).T
    columns |= dict(zip(["y", *OBSERVEDS], observed, strict=True))
    columns |= dict(zip(KNOWNS, np.tile(panel.known_PK, (SERIES, 1)).T, strict=True))
    return pd.DataFrame(columns)


def _statics() -> pd.DataFrame:
    """Return the static numbers, one row for each series."""
    return pd.DataFrame(draw().static_SF, columns=STATICS).assign(unique_id=np.arange(SERIES))


if __name__ == "__main__":
    main()
