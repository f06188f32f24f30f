"""What a model minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def pinball_loss(
    label_BH: Tensor, weight_BH: Tensor, quantile_BHQ: Tensor, quantiles: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the summed weighted pinball loss and the summed weight.

    The loss of quantile q is max(q (y - f), (q - 1) (y - f)) (Koenker & Bassett 1978), here the
    mean over quantiles. A weight of 0 leaves a label out. The caller divides, so that ranks and
    batches of different weight add up exactly.
    """
    error_BHQ = label_BH.unsqueeze(-1) - quantile_BHQ
    loss_BH = torch.maximum(quantiles * error_BHQ, (quantiles - 1) * error_BHQ).mean(-1)
    return (loss_BH * weight_BH).sum(), weight_BH.sum()
