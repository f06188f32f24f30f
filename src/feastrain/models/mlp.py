"""One multilayer perceptron for all series and all steps of the horizon.

It reads the features as of the cut-off, the known-ahead and stepped features of the target
period, and the step, and answers quantiles that cannot cross. A linear path around the network
carries level and season, so that the network learns what is left.

Shapes: B rows, H steps, Q quantiles; the others as in `feastrain.models.encoder`. W is the
width of a layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from feastrain.models.encoder import width

if TYPE_CHECKING:
    from feastrain.models.batches import Batch
    from feastrain.models.encoder import Encoder
    from feastrain.recipe import MLPModel

RUNS = 8
"""Into how many runs of rows a batch is cut when activations are computed again."""


def sizes(encoder: Encoder) -> dict[str, Any]:
    """Return the sizes of what a network reads that does not look back."""
    return {
        "row_numbers": 1 + width(encoder.rows),
        "step_numbers": width(encoder.stepped),
        "known_numbers": width(encoder.known),
        "row_vocabularies": [len(encoder.vocabularies[n]) + 1 for n in encoder.row_categories],
        "known_vocabularies": [len(encoder.vocabularies[n]) + 1 for n in encoder.known_categories],
        "horizon": encoder.columns.horizon,
    }


def architecture(model: MLPModel, encoder: Encoder) -> dict[str, Any]:
    """Return everything `MLP` is made from, as plain JSON values."""
    return {
        "kind": "mlp",
        **sizes(encoder),
        "hidden": list(model.hidden),
        "embedding": model.embedding,
        "dropout": model.dropout,
        "quantiles": list(model.quantiles),
    }


class MLP(nn.Module):
    """Features of a row and of each target period in, [B, H, Q] quantiles out."""

    def __init__(  # noqa: PLR0913 - the keys of a bundle's model.json
        self,
        *,
        row_numbers: int,
        step_numbers: int,
        known_numbers: int,
        row_vocabularies: list[int],
        known_vocabularies: list[int],
        horizon: int,
        hidden: list[int],
        embedding: int,
        dropout: float,
        quantiles: list[float],
        kind: str = "mlp",
    ) -> None:
        super().__init__()
        assert kind == "mlp"
        self.middle = quantiles.index(0.5)
        self.recompute = False
        """Whether activations are computed again in the backward pass, not kept for it."""
        self.row_embeddings = _embeddings(row_vocabularies, embedding)
        self.known_embeddings = _embeddings(known_vocabularies, embedding)
        self.step_embedding = nn.Embedding(horizon, embedding)
        per_row = row_numbers + embedding * len(row_vocabularies)
        per_step = step_numbers + known_numbers + embedding * (1 + len(known_vocabularies))
        # The first layer in two halves: the one that does not depend on the step runs once a row.
        self.row_layer = nn.Linear(per_row, hidden[0])
        self.step_layer = nn.Linear(per_step, hidden[0], bias=False)
        self.norm = nn.LayerNorm(hidden[0])
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(hidden))
        self.rate, self.widths = dropout, hidden[:-1]
        self.head = nn.Linear(hidden[-1], len(quantiles))
        self.row_path = nn.Linear(row_numbers, len(quantiles), bias=False)
        self.step_path = nn.Linear(step_numbers, len(quantiles), bias=False)
        nn.init.zeros_(self.row_path.weight)
        nn.init.zeros_(self.step_path.weight)

    def forward(self, batch: Batch) -> Tensor:
        """Return [B, H, Q] quantiles in units of the row, increasing along Q."""
        rows, steps = len(batch.row_BF), batch.step_BHS.shape[1]
        row_BX = torch.cat([batch.row_BF, *_embed(self.row_embeddings, batch.category_BC)], dim=-1)
        step_BHX = torch.cat(
            [
                batch.step_BHS,
                batch.known_BHK,
                *_embed(self.known_embeddings, batch.known_category_BHD),
                self.step_embedding.weight.expand(rows, steps, -1),
            ],
            dim=-1,
        )
        path_BHQ = self.row_path(batch.row_BF).unsqueeze(1) + self.step_path(batch.step_BHS)
        return increasing(self._deep(row_BX, step_BHX) + path_BHQ, self.middle)

    def _deep(self, row_BX: Tensor, step_BHX: Tensor) -> Tensor:
        """Return [B, H, Q], what all layers say; to be recomputed a run of rows at a time."""
        dropped = self._dropped(len(row_BX), row_BX.device)
        if not (self.recompute and torch.is_grad_enabled()):
            return self._layered(row_BX, step_BHX, *dropped)
        size = -(-len(row_BX) // RUNS)
        runs = zip(*(torch.split(rows, size) for rows in (row_BX, step_BHX, *dropped)), strict=True)
        # Dropout has drawn: there is no random state to go back to.
        parts = [
            checkpoint(self._layered, *run, use_reentrant=False, preserve_rng_state=False)
            for run in runs
        ]
        return torch.cat(parts)

    def _layered(self, row_BX: Tensor, step_BHX: Tensor, *dropped: Tensor) -> Tensor:
        hidden_BHW = self.norm(self.row_layer(row_BX).unsqueeze(1) + self.step_layer(step_BHX))
        hidden_BHW = functional.silu(hidden_BHW)
        for place, layer in enumerate(self.layers):
            if dropped:
                hidden_BHW = hidden_BHW.masked_fill(dropped[place], 0) / (1 - self.rate)
            hidden_BHW = functional.silu(layer(hidden_BHW))
        out_BHQ: Tensor = self.head(hidden_BHW)
        return out_BHQ

    def _dropped(self, rows: int, device: torch.device) -> list[Tensor]:
        """Draw which units dropout zeroes of what each layer reads, [B, 1, W]; none to keep all.

        One mask for all steps of a row (Gal & Ghahramani 2016) is H times cheaper.
        """
        if not self.training or self.rate == 0:
            return []
        return [torch.rand((rows, 1, width), device=device) < self.rate for width in self.widths]


def increasing(raw_BHQ: Tensor, middle: int) -> Tensor:
    """Turn Q free numbers into quantiles that cannot cross: the median, and positive gaps."""
    median_BH1 = raw_BHQ[..., middle : middle + 1]
    above = functional.softplus(raw_BHQ[..., middle + 1 :]).cumsum(-1)
    below = functional.softplus(raw_BHQ[..., :middle]).flip(-1).cumsum(-1).flip(-1)
    return torch.cat([median_BH1 - below, median_BH1, median_BH1 + above], dim=-1)


def _embeddings(vocabularies: list[int], size: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Embedding(count, size) for count in vocabularies)


def _embed(embeddings: nn.ModuleList, codes: Tensor) -> list[Tensor]:
    return [embedding(codes[..., column]) for column, embedding in enumerate(embeddings)]
