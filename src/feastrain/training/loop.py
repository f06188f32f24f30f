"""One epoch of fitting, and one look at the validation rows.

Shapes as in `feastrain.models.encoder`, with B rows of a batch for N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from feastrain.errors import DataError, InterruptedRun
from feastrain.models.batches import in_order, shuffled, steps_per_epoch
from feastrain.models.losses import pinball_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from feastrain.recipe import Training
    from feastrain.training.distributed import Ranks
    from feastrain.training.encoding import TrainingRows
    from feastrain.training.shutdown import StopRequest

LOOK_EVERY = 16
"""Steps between two looks at the stop flag, which ranks take together."""
WARM_UP = 0.15
"""Share of all steps over which the learning rate rises (Smith & Topin 2018, one cycle)."""


@dataclass(frozen=True)
class Validation:
    """How good the model is on the validation rows, in the unit of the label."""

    wmae: float
    pinball: float


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear rise, then a cosine fall to nearly zero."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return training.learning_rate * (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return training.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_epoch(  # noqa: PLR0913 - everything an epoch touches is named
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: TrainingRows,
    training: Training,
    quantiles: Tensor,
    *,
    epoch: int,
    ranks: Ranks,
    stop: StopRequest,
    on_step: Callable[[int, int, float, float], None],
) -> float:
    """Fit the model on every row once and return the mean loss.

    Raises:
        InterruptedRun: a rank was asked to stop; all leave at the same step.
        DataError: the loss or the gradient of a rank is not finite; all stop before the step.
    """
    model.train()
    steps = steps_per_epoch(len(rows), training.batch_rows, ranks.world_size)
    order = shuffled(
        len(rows),
        batch_rows=training.batch_rows,
        seed=training.seed,
        epoch=epoch,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    summed = torch.zeros(())
    for step, index_B in enumerate(order):
        if step % LOOK_EVERY == 0 and ranks.any(flag=stop.received):
            message = f"asked to stop in epoch {epoch + 1}; the same command resumes"
            raise InterruptedRun(message)
        rate = learning_rate(training, epoch * steps + step, training.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _loss(model, rows, index_B, quantiles)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
        # DDP averages gradients, so a number that is not finite on one rank is so on all.
        gradient_norm = norm.item()
        if not math.isfinite(gradient_norm):
            message = (
                f"the gradient of step {step + 1} in epoch {epoch + 1} is not finite: "
                "lower training.learning_rate, or look for extreme labels"
            )
            raise DataError(message)
        optimizer.step()
        summed += loss.detach().cpu()
        on_step(step + 1, steps, float(summed) / (step + 1), gradient_norm)
    return float(summed) / steps


def validate(
    model: nn.Module, rows: TrainingRows, quantiles: Tensor, *, batch_rows: int, ranks: Ranks
) -> Validation:
    """Score the model on all validation rows, each rank on its share."""
    model.eval()
    middle = quantiles.tolist().index(0.5)
    totals = torch.zeros(3, dtype=torch.float64)
    with torch.inference_mode():
        for index_B in in_order(len(rows), batch_rows, ranks.rank, ranks.world_size):
            batch, label_BH, weight_BH = rows.examples(index_B)
            quantile_BHQ = model(batch)
            unit_B1 = batch.unit_B.unsqueeze(1)
            pinball, _ = pinball_loss(label_BH, weight_BH * unit_B1, quantile_BHQ, quantiles)
            error_BH = (quantile_BHQ[..., middle] - label_BH).abs() * unit_B1
            parts = ((error_BH * weight_BH).sum(), pinball, weight_BH.sum())
            totals += torch.stack(parts).double().cpu()
    wmae, pinball, weight = ranks.total(totals).tolist()
    return Validation(wmae=wmae / weight, pinball=pinball / weight)


def _loss(model: nn.Module, rows: TrainingRows, index_B: Tensor, quantiles: Tensor) -> Tensor:
    """Return the pinball loss in the label's unit, weighted, relative to the rows' size."""
    batch, label_BH, weight_BH = rows.examples(index_B)
    size_B1 = batch.unit_B.unsqueeze(1)
    summed, weight = pinball_loss(label_BH, weight_BH * size_B1, model(batch), quantiles)
    return summed / weight.clamp(min=1e-6)
