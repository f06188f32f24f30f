"""Every architecture by its name: how its model, and the rows it reads, are made.

An architecture is plain JSON values with a `kind`; it travels in the bundle.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from feastrain.models import mlp, tft
from feastrain.models.batches import CPU, Rows
from feastrain.models.windows import WindowRows
from feastrain.recipe import MLPModel

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from feastrain.models.encoder import Encoder
    from feastrain.recipe import Recipe

Model = mlp.MLP | tft.TFT


def architecture(recipe: Recipe, encoder: Encoder) -> dict[str, Any]:
    """Return everything the recipe's model is made from, as plain JSON values."""
    if isinstance(recipe.model, MLPModel):
        return mlp.architecture(recipe.model, encoder)
    frequency = recipe.frequency.total_seconds()
    return {**tft.architecture(recipe.model, encoder), "frequency_s": frequency}


def make_model(architecture: dict[str, Any]) -> Model:
    """Make a model with fresh weights."""
    content = {name: value for name, value in architecture.items() if name != "frequency_s"}
    return tft.TFT(**content) if architecture["kind"] == "tft" else mlp.MLP(**content)


def make_rows(  # noqa: PLR0913 - tables by role
    architecture: dict[str, Any],
    encoder: Encoder,
    rows: pa.Table,
    known: pa.Table,
    past: pa.Table | None,
    *,
    labelled: bool = False,
    device: torch.device = CPU,
) -> Rows | WindowRows:
    """Encode rows as the architecture reads them.

    Args:
        architecture: of the model.
        encoder: fitted on training rows.
        rows: entities, `event_timestamp` (the cut-off) and features; with labels if `labelled`.
        known: known-ahead features, H rows in step order for each cut-off.
        past: the rows of earlier cut-offs, for a model that looks back; None for none.
        labelled: whether labels are read, too.
        device: where the tensors lie.
    """
    labels = encoder.labels(rows) if labelled else None
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
