"""Every architecture of a network by its name: how its module, and the rows it reads, are made.

An architecture is plain JSON values with a `kind`; it travels in the bundle.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from feastrain.models import mlp, tft
from feastrain.models.batches import CPU, Rows
from feastrain.models.windows import WindowRows
from feastrain.recipe import MLPModel, TFTModel

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from feastrain.models.encoder import Encoder, Floats
    from feastrain.recipe import Recipe

Module = mlp.MLP | tft.TFT


def architecture(recipe: Recipe, encoder: Encoder) -> dict[str, Any]:
    """Return everything the recipe's network is made from, as plain JSON values."""
    model = recipe.model
    if isinstance(model, MLPModel):
        return {**mlp.architecture(model, encoder), "baseline": model.baseline}
    assert isinstance(model, TFTModel)
    more = {"baseline": model.baseline, "frequency_s": recipe.frequency.total_seconds()}
    return {**tft.architecture(model, encoder), **more}


def make_module(architecture: dict[str, Any]) -> Module:
    """Make a module with fresh weights."""
    about_rows = ("frequency_s", "baseline")
    content = {name: value for name, value in architecture.items() if name not in about_rows}
    return tft.TFT(**content) if architecture["kind"] == "tft" else mlp.MLP(**content)


def make_rows(  # noqa: PLR0913 - tables by role
    architecture: dict[str, Any],
    encoder: Encoder,
    rows: pa.Table,
    known: pa.Table,
    past: pa.Table | None,
    *,
    labels: tuple[Floats, Floats] | None = None,
    device: torch.device = CPU,
) -> Rows | WindowRows:
    """Encode rows as the architecture reads them.

    Args:
        architecture: of the network.
        encoder: fitted on training rows.
        rows: entities, `event_timestamp` (the cut-off) and features.
        known: known-ahead features, H rows in step order for each cut-off.
        past: the rows of earlier cut-offs, for a network that looks back; None for none.
        labels: [N, H] of the rows, as `Encoder.labels` makes them, and their weights.
        device: where the tensors lie.
    """
    if architecture["kind"] == "mlp":
        return Rows(encoder.encode(rows, known), labels, device)
    return WindowRows(
        encoder,
        rows,
        known,
        rows.slice(0, 0) if past is None else past,
        context=int(architecture["context"]),
        frequency=timedelta(seconds=architecture["frequency_s"]),
        labels=labels,
        device=device,
    )
