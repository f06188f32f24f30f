"""Encoded rows become tensors once; a batch is two gathers: its rows, and what is known ahead.

The order of rows is a pure function of (seed, epoch); each rank takes its share of every
batch. Shapes as in `feastrain.models.encoder`, with B rows of a batch for N, and W words of 32
bits for all there is about one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from feastrain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from feastrain.models.encoder import Encoded, Floats

    Words = NDArray[np.int32]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """What a model reads for B rows; codes are 32-bit integers."""

    row_BF: Tensor
    category_BC: Tensor
    step_BHS: Tensor
    known_BHK: Tensor
    known_category_BHD: Tensor
    unit_B: Tensor


def row_words(encoded: Encoded, labels: tuple[Floats, Floats] | None = None) -> Words:
    """Return [N, W]: all there is about a row side by side, so that it is gathered in one go.

    In order: numbers, stepped numbers, unit, categories, group; then labels and weights, where
    they are given. A number is the bits of its float32.
    """
    numbers = (encoded.row_NF, encoded.step_NHS, encoded.unit_N)
    return _words(*numbers, encoded.category_NC, encoded.group_N, *(labels or ()))


class Rows:
    """All rows of a part of the split, with their labels where they have any."""

    def __init__(
        self,
        encoded: Encoded,
        labels: tuple[Floats, Floats] | None = None,
        device: torch.device = CPU,
        *,
        words_NW: Tensor | None = None,
    ) -> None:
        """Put rows on the device where batches are read.

        `words_NW` are the rows and their labels as `row_words` makes them, which stay where they
        are; of `encoded` the known-ahead arrays and the widths are then read alone.
        """
        if words_NW is None:
            words_NW = torch.from_numpy(row_words(encoded, labels)).to(device)
        known_GW = _words(encoded.known_GHK, encoded.known_category_GHD)
        # Codes travel as the bits of numbers; gathering copies bits, whatever they mean.
        self._bits_NW = words_NW.view(torch.float32)
        self._known_GW = torch.from_numpy(known_GW).to(device).view(torch.float32)
        self._device = device
        _, horizon, stepped = encoded.step_NHS.shape
        numbers, categories = encoded.row_NF.shape[1], encoded.category_NC.shape[1]
        known, known_categories = encoded.known_GHK.shape[2], encoded.known_category_GHD.shape[2]
        read = (numbers, horizon * stepped, 1, categories, 1)
        labelled = (words_NW.shape[1] - sum(read)) // 2
        self._widths = (*read, labelled, labelled)
        self._known_widths = (horizon * known, horizon * known_categories)
        self._step_shape = (horizon, stepped)
        self._known_shape, self._code_shape = (horizon, known), (horizon, known_categories)

    def __len__(self) -> int:
        return len(self._bits_NW)

    def batch(self, index_B: Tensor) -> Batch:
        """Gather the rows at `index_B`."""
        return self.examples(index_B)[0]

    def examples(self, index_B: Tensor) -> tuple[Batch, Tensor, Tensor]:
        """Gather the rows at `index_B`, their labels [B, H], in units, and weights [B, H]."""
        bits_BW = self._gather(index_B)
        row, step, unit, category, group, label, weight = bits_BW.split_with_sizes(
            self._widths, dim=1
        )
        group_B = group.view(torch.int32).squeeze(1)
        known, code = self._known_GW.index_select(0, group_B).split_with_sizes(
            self._known_widths, dim=1
        )
        rows = len(index_B)
        batch = Batch(
            row_BF=row,
            category_BC=category.view(torch.int32),
            step_BHS=step.view(rows, *self._step_shape),
            known_BHK=known.view(rows, *self._known_shape),
            known_category_BHD=code.view(torch.int32).view(rows, *self._code_shape),
            unit_B=unit.squeeze(1),
        )
        return batch, label, weight

    def _gather(self, index_B: Tensor) -> Tensor:
        """Return [B, W] on the device; from memory of the CPU to CUDA while the GPU computes."""
        if self._bits_NW.device == self._device:
            return self._bits_NW.index_select(0, index_B.to(self._device, non_blocking=True))
        pinned_BW = torch.empty((len(index_B), self._bits_NW.shape[1]), pin_memory=True)
        torch.index_select(self._bits_NW, 0, index_B, out=pinned_BW)
        return pinned_BW.to(self._device, non_blocking=True)


def shuffled(  # noqa: PLR0913 - all that the order is a function of
    rows: int,
    *,
    batch_rows: int,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
    first_row: int = 0,
    start_step: int = 0,
) -> Iterator[Tensor]:
    """Yield the row indices of this rank's share of every batch of an epoch, from `start_step`.

    Every row is in one share, and no share has more rows than another by more than one. The rows
    that all ranks take in a step depend on (seed, epoch, step, steps) alone. The first `first_row`
    rows of the order are left out: another number of ranks has read them already.

    Raises:
        DataError: there are fewer rows than ranks.
    """
    shares = steps_per_epoch(rows - first_row, batch_rows, world_size) * world_size
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(rows, generator=generator)[first_row:]
    for share in range(start_step * world_size + rank, shares, world_size):
        yield order[len(order) * share // shares : len(order) * (share + 1) // shares]


def rows_read(
    rows: int, *, batch_rows: int, world_size: int, first_row: int = 0, step: int = 0
) -> int:
    """Return how many rows of an epoch's order were read once `step` steps are done."""
    left = rows - first_row
    steps = steps_per_epoch(left, batch_rows, world_size)
    return first_row + left * step // steps


def steps_per_epoch(rows: int, batch_rows: int, world_size: int) -> int:
    """Return the steps that every rank takes in an epoch, of at most `batch_rows` rows each.

    Only shares of one row (`batch_rows` of 1) may have to be of two, so that none is empty.

    Raises:
        DataError: there are fewer rows than ranks.
    """
    if rows < world_size:
        message = (
            f"{rows} training rows are fewer than the {world_size} processes that share them; "
            "lower training.processes"
        )
        raise DataError(message)
    return min(math.ceil(rows / (batch_rows * world_size)), rows // world_size)


def in_order(rows: int, batch_rows: int, rank: int = 0, world_size: int = 1) -> Iterator[Tensor]:
    """Yield this rank's contiguous share of the rows in order, a batch at a time."""
    first, last = rows * rank // world_size, rows * (rank + 1) // world_size
    for start in range(first, last, batch_rows):
        yield torch.arange(start, min(start + batch_rows, last))


def _words(*arrays: NDArray[np.generic]) -> Words:
    """Return [N, W]: what each array has for a row, side by side."""
    return np.concatenate([_flat(array) for array in arrays], axis=1)


def _flat(array: NDArray[np.generic]) -> Words:
    words = array.view(np.int32) if array.dtype == np.float32 else array.astype(np.int32)
    return words.reshape(len(array), math.prod(array.shape[1:]))
