"""How much memory a network's step takes, counted without computing it.

The module itself runs on tensors that have a shape but no memory, so that the count follows
every change of a model, of `training.recompute` and of `training.precision`. Shapes as in
`feastrain.models.windows`.
"""

from __future__ import annotations

import warnings
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from feastrain.models.architecture import example, make_module
from feastrain.models.losses import pinball_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from feastrain.models.batches import Batch
    from feastrain.models.windows import WindowBatch
    from feastrain.recipe import Member

FLOAT = 4


@dataclass(frozen=True)
class Step:
    """What one step of one rank takes."""

    parameters: int
    train_bytes: int
    """The most that is live at once in a step that learns, beyond weights and optimiser."""
    score_bytes: int
    """The same of a batch of validation rows."""
    flops_a_row: float
    """Of the products of the forward pass; the backward pass takes twice as many."""


def footprint(
    architecture: dict[str, Any],
    batch_rows: int,
    score_rows: int,
    *,
    model: Member | None = None,
    recompute: bool = False,
    precision: str = "float32",
) -> Step:
    """Count what a step takes.

    Args:
        architecture: of the network, as `feastrain.models.architecture` describes it.
        batch_rows: B, rows of a step on one rank.
        score_rows: rows of a batch that is only scored.
        model: of the recipe, where the network is code of the project.
        recompute: whether activations are computed again.
        precision: of the forward pass.
    """
    with FakeTensorMode():
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            # PyTorch warns of a part of the network that reads nothing.
            module = make_module(architecture, model, recompute=recompute).train()
        quantiles = torch.tensor(architecture["quantiles"])

        def learn() -> None:
            batch, label_BH, weight_BH = _examples(architecture, batch_rows)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                quantile_BHQ = module(batch).float()
            summed, weight = pinball_loss(label_BH, weight_BH, quantile_BHQ, quantiles)
            (summed / weight).backward()  # type: ignore[no-untyped-call]

        def score() -> None:
            module.eval()
            with torch.no_grad():
                batch, label_BH, weight_BH = _examples(architecture, score_rows)
                pinball_loss(label_BH, weight_BH, module(batch), quantiles)

        train_bytes = _peak(learn)
        with FlopCounterMode(display=False) as counted:
            score_bytes = _peak(score)
        return Step(
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            train_bytes=train_bytes,
            score_bytes=score_bytes,
            flops_a_row=counted.get_total_flops() / score_rows,
        )


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory of what operations return, until it is let go of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: int = 0
        self.most: int = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def _peak(step: Callable[[], None]) -> int:
    counted = _Live()
    with counted:
        step()
    return counted.most


def _examples(
    architecture: dict[str, Any], rows: int
) -> tuple[Batch | WindowBatch, torch.Tensor, torch.Tensor]:
    """Return a batch of an architecture's shapes, labels [B, H] and weights [B, H]."""
    shape = rows, architecture["horizon"]
    return example(architecture, rows), torch.zeros(shape), torch.ones(shape)
