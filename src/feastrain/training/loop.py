"""One epoch of fitting, and one look at the validation rows.

Shapes as in `feastrain.models.encoder`, with B rows of a batch for N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from feastrain.errors import DataError
from feastrain.models.batches import in_order, rows_read, shuffled, steps_per_epoch
from feastrain.models.losses import pinball_loss
from feastrain.training.finite import NotFiniteError, first_bad_rows, marked

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from feastrain.recipe import Training
    from feastrain.training.distributed import Ranks
    from feastrain.training.encoding import TrainingRows

WARM_UP = 0.15
"""Share of all steps over which the learning rate rises (Smith & Topin 2018, one cycle)."""


@dataclass(frozen=True)
class Validation:
    """How good the model is on the validation rows, in the unit of the label."""

    wmae: float
    pinball: float


@dataclass
class Position:
    """How far a run has come."""

    epoch: int = 0
    """Epochs that are done."""
    first_row: int = 0
    """Rows of the next epoch that another number of ranks has read."""
    step: int = 0
    """Steps of the next epoch that are done after those."""
    loss: float = 0.0
    """The sum of this rank's losses over these steps."""


def learning_rate(training: Training, done: float, total: float) -> float:
    """Return the learning rate of the step that ends when `done` of `total` rows are read.

    A linear rise, then a cosine fall to nearly zero, whatever the number of ranks.
    """
    rise = WARM_UP * total
    if done < rise:
        return training.learning_rate * done / rise
    progress = (done - rise) / (total - rise)
    return training.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_epoch(  # noqa: PLR0913 - everything an epoch touches is named
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: TrainingRows,
    training: Training,
    quantiles: Tensor,
    *,
    at: Position,
    ranks: Ranks,
    look_every: int,
    look: Callable[[], None],
    on_step: Callable[[int, int, float, float], None],
) -> float:
    """Fit the model on what is left of an epoch and return the mean loss.

    Args:
        model: what is fitted.
        optimizer: of its parameters.
        rows: to be read once each.
        training: how.
        quantiles: [Q], of the model's answers.
        at: where to go on; moves with every step.
        ranks: this one among the others.
        look_every: how many steps lie between two calls of `look`.
        look: called between two steps by all ranks, and may raise.
        on_step: told of every step, of how many, the mean loss so far, and the gradient's norm.

    Raises:
        NotFiniteError: the loss or the gradient of a rank is; all stop before the step.
    """
    model.train()
    split = {"batch_rows": training.batch_rows, "world_size": ranks.world_size}
    split["first_row"] = at.first_row
    if len(rows) - at.first_row < ranks.world_size:
        return at.loss
    steps = steps_per_epoch(len(rows) - at.first_row, training.batch_rows, ranks.world_size)
    order = shuffled(
        len(rows), **split, seed=training.seed, epoch=at.epoch, rank=ranks.rank, start_step=at.step
    )
    for index_B in order:
        if at.step % look_every == 0:
            look()
        done = at.epoch * len(rows) + rows_read(len(rows), **split, step=at.step + 1)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, done, training.epochs * len(rows))
        loss = _loss(model, rows, index_B, quantiles, training.precision)
        optimizer.zero_grad(set_to_none=True)
        loss.backward(marked(loss))  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
        # DDP averages gradients, so a number that is not finite on one rank is so on all.
        gradient_norm = norm.item()
        if not math.isfinite(gradient_norm):
            bad = first_bad_rows(model, rows, index_B, quantiles, ranks)
            raise NotFiniteError(at.step + 1, at.epoch + 1, bad)
        optimizer.step()
        at.step += 1
        at.loss += loss.item()
        on_step(at.step, steps, at.loss / at.step, gradient_norm)
    return at.loss / at.step


def validate(
    model: nn.Module, rows: TrainingRows, quantiles: Tensor, *, batch_rows: int, ranks: Ranks
) -> Validation:
    """Score the model on all validation rows, each rank on its share.

    Raises:
        DataError: the loss on a row of any rank is not finite.
    """
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
    if not math.isfinite(pinball):
        message = (
            "the loss on the validation rows is not finite: "
            "look for extreme labels and weights among them"
        )
        raise DataError(message)
    return Validation(wmae=wmae / weight, pinball=pinball / weight)


def _loss(
    model: nn.Module, rows: TrainingRows, index_B: Tensor, quantiles: Tensor, precision: str
) -> Tensor:
    """Return the pinball loss in the label's unit, weighted, relative to the rows' size."""
    batch, label_BH, weight_BH = rows.examples(index_B)
    reduced = precision == "bfloat16"
    with torch.autocast(label_BH.device.type, dtype=torch.bfloat16, enabled=reduced):
        quantile_BHQ = model(batch).float()
    size_B1 = batch.unit_B.unsqueeze(1)
    summed, weight = pinball_loss(label_BH, weight_BH * size_B1, quantile_BHQ, quantiles)
    return summed / weight.clamp(min=1e-6)
