"""Encoded arrays become tensors once; a batch is an index gather.

The order of rows is a pure function of (seed, epoch); each rank takes its share of every
batch. Shapes as in `feastrain.models.encoder`, with B rows of a batch for N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from feastrain.models.encoder import Encoded


@dataclass(frozen=True)
class Batch:
    """What a model reads for B rows."""

    row_BF: Tensor
    category_BC: Tensor
    step_BHS: Tensor
    known_BHK: Tensor
    known_category_BHD: Tensor
    unit_B: Tensor


class Rows:
    """All rows of a part as tensors on one device, with their labels where they have any."""

    def __init__(
        self,
        encoded: Encoded,
        labels: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
        device: torch.device | None = None,
    ) -> None:
        def put(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.require(array, requirements="W")).to(
                device or torch.device("cpu")
            )

        self._row_NF = put(encoded.row_NF)
        self._category_NC = put(encoded.category_NC)
        self._step_NHS = put(encoded.step_NHS)
        self._group_N = put(encoded.group_N)
        self._known_GHK = put(encoded.known_GHK)
        self._known_category_GHD = put(encoded.known_category_GHD)
        self._unit_N = put(encoded.unit_N)
        self._labels = tuple(put(array) for array in labels) if labels else ()

    def __len__(self) -> int:
        return len(self._row_NF)

    @property
    def mean_unit(self) -> float:
        """The mean unit of a row, which makes losses of different data comparable."""
        return float(self._unit_N.mean())

    def batch(self, index_B: Tensor) -> Batch:
        """Gather the rows at `index_B`."""
        group_B = self._group_N[index_B]
        return Batch(
            row_BF=self._row_NF[index_B],
            category_BC=self._category_NC[index_B],
            step_BHS=self._step_NHS[index_B],
            known_BHK=self._known_GHK[group_B],
            known_category_BHD=self._known_category_GHD[group_B],
            unit_B=self._unit_N[index_B],
        )

    def labels(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Gather the labels [B, H], in units, and their weights [B, H]."""
        label_NH, weight_NH = self._labels
        return label_NH[index_B], weight_NH[index_B]


def shuffled(
    rows: int, *, batch_rows: int, seed: int, epoch: int, rank: int, world_size: int
) -> Iterator[Tensor]:
    """Yield the row indices of this rank's share of every batch of an epoch.

    A step takes `batch_rows` rows on every rank. The last rows that do not fill a step on all
    ranks are left out of this epoch: every rank takes the same number of steps, and another
    epoch's order leaves out others.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(rows, generator=generator)
    per_step = batch_rows * world_size
    for step in range(steps_per_epoch(rows, batch_rows, world_size)):
        share = order[step * per_step : (step + 1) * per_step]
        yield share[rank::world_size]


def steps_per_epoch(rows: int, batch_rows: int, world_size: int) -> int:
    """Return how many steps every rank takes in an epoch; at least one."""
    return max(1, rows // (batch_rows * world_size))


def in_order(rows: int, batch_rows: int, rank: int = 0, world_size: int = 1) -> Iterator[Tensor]:
    """Yield this rank's contiguous share of the rows in order, a batch at a time."""
    first, last = rows * rank // world_size, rows * (rank + 1) // world_size
    for start in range(first, last, batch_rows):
        yield torch.arange(start, min(start + batch_rows, last))
