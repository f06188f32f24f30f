"""A loss or gradient that is not finite ends the run on all ranks, and its rows are named."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from feastrain.errors import DataError
from feastrain.models.losses import pinball_loss
from feastrain.training.encoding import PartColumns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.training.distributed import Ranks
    from feastrain.training.encoding import Part, TrainingRows

MOST = 3
"""Most rows that are named."""


class NotFiniteError(DataError):
    """A step's loss or gradient is not finite; every rank raises it at the same step.

    Args:
        step: from 1, in its epoch.
        epoch: from 1.
        rows: the training rows whose own loss is not finite, if any.
    """

    def __init__(self, step: int, epoch: int, rows: list[int]) -> None:
        self.step, self.epoch, self.rows = step, epoch, rows
        super().__init__(self.told([str(row) for row in rows]))

    def told(self, names: list[str]) -> str:
        """Return the message, with its rows by these names."""
        what = f"the loss or gradient of step {self.step} in epoch {self.epoch} is not finite"
        if names:
            return f"{what} at {'; '.join(names)}: look at the labels and weights of these rows"
        return f"{what}: lower training.learning_rate, or look for extreme labels"


def marked(loss: Tensor) -> Tensor:
    """Return what the backward pass of `loss` starts from: 1, or NaN where it is not finite.

    The gradient of an infinite pinball loss is finite. NaN in its place reaches every rank,
    since gradients are averaged, and costs no collective of its own.
    """
    return loss.detach() * 0 + 1


def first_bad_rows(
    model: nn.Module, rows: TrainingRows, index_B: Tensor, quantiles: Tensor, ranks: Ranks
) -> list[int]:
    """Return the first rows, of those that any rank has in `index_B`, with a loss not finite.

    Every rank calls it, and all get the same answer; it is empty where no single row is to blame.
    """
    with torch.no_grad():
        batch, label_BH, weight_BH = rows.examples(index_B)
        # Not the model that talks to the other ranks in its forward pass.
        quantile_BHQ = getattr(model, "module", model)(batch)
    weight_BH = weight_BH * batch.unit_B.unsqueeze(1)
    bad = [
        row
        for row, label_H, weight_H, quantile_HQ in zip(
            index_B.tolist(), label_BH, weight_BH, quantile_BHQ, strict=True
        )
        if not pinball_loss(label_H, weight_H, quantile_HQ, quantiles)[0].isfinite()
    ]
    padded = torch.tensor((bad + [-1] * MOST)[:MOST])
    return [row for found in ranks.gather(padded) for row in found.tolist() if row >= 0][:MOST]


@contextlib.contextmanager
def naming_rows(snapshot: Snapshot, part: Part) -> Iterator[None]:
    """Name the rows of a `NotFiniteError`, which count those of a part, by entities and cut-off.

    Raises:
        DataError: in its place.
    """
    try:
        yield
    except NotFiniteError as error:
        raise DataError(error.told(row_names(snapshot, part, error.rows))) from error


def row_names(snapshot: Snapshot, part: Part, rows: list[int]) -> list[str]:
    """Return rows of a part by their entities and cut-off: `shop 3 at 2024-05-03 23:59`."""
    columns, entities = PartColumns(snapshot, part), snapshot.columns.entities
    names = [*entities, "event_timestamp"]
    found = pa.table({name: columns[name].take(rows) for name in names}).to_pylist()
    return [
        f"{' '.join(f'{name} {row[name]}' for name in entities)} at "
        f"{row['event_timestamp']:%Y-%m-%d %H:%M}"
        for row in found
    ]
