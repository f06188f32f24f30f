"""Every architecture of a network by its name: how its module, and the rows it reads, are made.

An architecture is plain JSON values with a `kind`; it travels in the bundle.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch

from feastrain.models import custom, mlp, tft
from feastrain.models.batches import CPU, Batch, Rows
from feastrain.models.windows import WindowBatch, WindowRows
from feastrain.recipe import MLPModel, PythonModel, TFTModel

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from feastrain.models.encoder import Encoder, Floats
    from feastrain.recipe import Member, Recipe

MADE_OF = {"mlp": mlp.MLP, "tft": tft.TFT}


def architecture(recipe: Recipe, encoder: Encoder) -> dict[str, Any]:
    """Return everything the recipe's network is made from, as plain JSON values."""
    model = recipe.model
    more: dict[str, Any] = {}
    if model.look_back:
        more["frequency_s"] = recipe.frequency.total_seconds()
    if isinstance(model, MLPModel):
        made = mlp.architecture(model, encoder)
    elif isinstance(model, TFTModel):
        made = tft.architecture(model, encoder)
    else:
        assert isinstance(model, PythonModel)
        made = custom.architecture(model, encoder)
    return {**made, "baseline": model.baseline, **more}


def make_module(
    architecture: dict[str, Any], model: Member | None = None, *, recompute: bool = False
) -> nn.Module:
    """Make a module with fresh weights.

    Args:
        architecture: of the network.
        model: of the recipe that is trained, whose own code a network may be; None for none, so
            that no code is run but that of feastrain.
        recompute: whether activations are computed again in the backward pass, not kept for it.
    """
    about_rows = ("frequency_s", "baseline")
    content = {name: value for name, value in architecture.items() if name not in about_rows}
    module: Any = (
        custom.make(model if isinstance(model, PythonModel) else None, content)
        if architecture["kind"] == "python"
        else MADE_OF[architecture["kind"]](**content)
    )
    module.recompute = recompute
    return cast("nn.Module", module)


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
    if "context" not in architecture:
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


def example(architecture: dict[str, Any], rows: int) -> Batch | WindowBatch:
    """Return a batch of the shapes that the architecture reads, of zeros."""
    horizon, known = architecture["horizon"], len(architecture["known_vocabularies"])
    ahead = {
        "step_BHS": torch.zeros(rows, horizon, architecture["step_numbers"]),
        "known_BHK": torch.zeros(rows, horizon, architecture["known_numbers"]),
        "known_category_BHD": torch.zeros(rows, horizon, known, dtype=torch.int32),
        "unit_B": torch.ones(rows),
    }
    if "context" not in architecture:
        codes = torch.zeros(rows, len(architecture["row_vocabularies"]), dtype=torch.int32)
        row_BF = torch.zeros(rows, architecture["row_numbers"])
        return Batch(row_BF=row_BF, category_BC=codes, **ahead)
    context, static = architecture["context"], len(architecture["static_vocabularies"])
    return WindowBatch(
        static_BF=torch.zeros(rows, architecture["static_numbers"]),
        category_BC=torch.zeros(rows, static, dtype=torch.int64),
        past_BLO=torch.zeros(rows, context, architecture["observed_numbers"]),
        past_known_BLK=torch.zeros(rows, context, architecture["known_numbers"]),
        past_category_BLD=torch.zeros(rows, context, known, dtype=torch.int64),
        valid_BL=torch.ones(rows, context),
        **ahead,
    )


def drawn(architecture: dict[str, Any], rows: int, *, missing: float = 0.0) -> Batch | WindowBatch:
    """Return a batch of random numbers and codes, the same every time.

    Args:
        architecture: of the network.
        rows: how many.
        missing: share of the numbers that are NaN, for a network that looks back.
    """
    batch, generator = example(architecture, rows), torch.Generator().manual_seed(rows)
    of_row = architecture[
        "static_vocabularies" if "context" in architecture else "row_vocabularies"
    ]
    for name, tensor in vars(batch).items():
        if "category" in name:
            words = of_row if name == "category_BC" else architecture["known_vocabularies"]
            for column, count in enumerate(words):
                tensor[..., column].random_(count, generator=generator)
        elif name not in {"unit_B", "valid_BL"}:
            tensor.normal_(generator=generator)
            if "context" in architecture:
                tensor[torch.rand(tensor.shape, generator=generator) < missing] = float("nan")
    return batch
