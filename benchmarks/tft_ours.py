"""feastrain trains its Temporal Fusion Transformer on the panel; alone, or under torchrun.

A step is what a step of `feastrain train` is: windows gathered in its order, forward, pinball
loss, backward, clipping, AdamW. Every process has its share of the cores and of the batch.
"""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from feastrain.models import encoder as encoders
from feastrain.models.batches import shuffled
from feastrain.models.losses import pinball_loss
from feastrain.models.tft import TFT, architecture
from feastrain.models.windows import WindowRows
from feastrain.recipe import FeatureColumns, TFTModel
from feastrain.training.distributed import ranks
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
    draw,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feastrain.models.encoder import Encoder
    from feastrain.training.distributed import Ranks
    from tft_panel import Clock

WEEK = timedelta(weeks=1)
START = datetime(2020, 1, 3, tzinfo=UTC)
STATICS = tuple(f"static_{n}" for n in range(STATIC - 1))  # the unit's logarithm is one more
OBSERVEDS = tuple(f"observed_{n}" for n in range(OBSERVED))
KNOWNS = tuple(f"known_{n}" for n in range(KNOWN))
COLUMNS = FeatureColumns(
    entities=("series",),
    static=STATICS,
    observed=OBSERVEDS,
    stepped=(),
    known_ahead=KNOWNS,
    known_keys=(),
    categorical=(),
    label_units=(),
    unit=("size",),
    horizon=HORIZON,
)
MODEL = TFTModel(
    kind="tft",
    context=CONTEXT,
    hidden=HIDDEN,
    heads=HEADS,
    dropout=DROPOUT,
    quantiles=tuple(QUANTILES),
)


def train(clock: Clock) -> None:
    """Train for as many steps as the clock has."""
    with ranks(timedelta(minutes=5)) as here:
        encoder, rows = windows()
        torch.manual_seed(0)
        model: nn.Module = TFT(**architecture(MODEL, encoder))
        if here.world_size > 1:
            model = DistributedDataParallel(model)
        _fit(model.train(), rows, here, clock)


def windows() -> tuple[Encoder, WindowRows]:
    """Return the panel's windows that have a whole past and a whole horizon."""
    rows, known = _tables()
    encoder = encoders.fit(COLUMNS, rows, known)
    period_N = rows["period"].to_numpy()
    whole = rows.filter(pa.array((period_N >= CONTEXT - 1) & (period_N < PERIODS - HORIZON)))
    past = rows.filter(pa.array(period_N < CONTEXT - 1))
    labels = encoder.labels(whole)
    every = WindowRows(encoder, whole, known, past, context=CONTEXT, frequency=WEEK, labels=labels)
    return encoder, every


def _fit(model: nn.Module, rows: WindowRows, here: Ranks, clock: Clock) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    quantiles = torch.tensor(QUANTILES)
    for index_B in itertools.islice(_order(len(rows), here), clock.steps):
        batch, label_BH, weight_BH = rows.examples(index_B)
        size_B1 = batch.unit_B.unsqueeze(1)
        summed, weight = pinball_loss(label_BH, weight_BH * size_B1, model(batch), quantiles)
        optimizer.zero_grad(set_to_none=True)
        (summed / weight).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        assert math.isfinite(norm.item())
        optimizer.step()
        if here.leads:
            clock.step_ended()


def _order(rows: int, here: Ranks) -> Iterator[torch.Tensor]:
    for epoch in itertools.count():
        yield from shuffled(
            rows,
            batch_rows=BATCH // here.world_size,
            seed=0,
            epoch=epoch,
            rank=here.rank,
            world_size=here.world_size,
        )


def _tables() -> tuple[pa.Table, pa.Table]:
    """Return rows, with their period, and known-ahead rows, in the columns of a snapshot."""
    panel = draw()
    series, period = (index.ravel() for index in np.indices((SERIES, PERIODS)))
    label_SP = np.pad(panel.observed_SPO[..., 0], ((0, 0), (0, HORIZON)))
    columns = {"series": series, "event_timestamp": _stamps(period), "period": period}
    columns["size"] = np.exp(panel.static_SF[series, -1])
    columns |= {name: panel.static_SF[series, n] for n, name in enumerate(STATICS)}
    columns |= {name: panel.observed_SPO[series, period, n] for n, name in enumerate(OBSERVEDS)}
    for step in range(1, HORIZON + 1):
        columns[f"label_{step}"] = label_SP[series, period + step]
        columns[f"weight_{step}"] = np.ones(len(series))
    cutoff, step = (index.ravel() for index in np.indices((PERIODS, HORIZON)))
    known_PK = np.pad(panel.known_PK, ((0, HORIZON), (0, 0)))
    known = {"event_timestamp": _stamps(cutoff), "step": step + 1}
    known |= {name: known_PK[cutoff + step + 1, n] for n, name in enumerate(KNOWNS)}
    return pa.table(columns), pa.table(known)


def _stamps(period_N: np.ndarray) -> pa.Array:
    """Return [N] the time at which each period closes."""
    stamps = [START + int(period) * WEEK for period in range(PERIODS)]
    return pa.array(stamps, pa.timestamp("us", tz="UTC")).take(pa.array(period_N))
