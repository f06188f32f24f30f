"""A trained network as PyTorch runs it: in training, and where one looks into it.

What it writes a bundle holds: `model.safetensors`, `model.onnx` (`feastrain.models.exported`) and
`model.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from feastrain.artifacts import write_json
from feastrain.models import custom
from feastrain.models.architecture import drawn, make_module, make_rows
from feastrain.models.batches import in_order
from feastrain.models.exported import DESCRIPTION, GRAPH, WEIGHTS
from feastrain.models.onnx_graph import as_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray
    from torch import nn

    from feastrain.models.encoder import Encoder
    from feastrain.recipe import Member

CHUNK = 8192
EXAMPLES = {3: 0.0, 1: 0.0, 5: 0.1}
"""Rows of the batches that a traced graph is held to, and the share of numbers that are missing."""


@dataclass(frozen=True)
class Network:
    """A module that forecasts quantiles, and what it was made from."""

    module: nn.Module
    architecture: dict[str, Any]

    @property
    def looks_back(self) -> bool:
        """Whether a forecast needs the rows of earlier cut-offs."""
        return "context" in self.architecture

    def forecast(
        self, encoder: Encoder, rows: pa.Table, known: pa.Table, past: pa.Table | None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q] quantiles in the unit of the label, in row order."""
        encoded = make_rows(self.architecture, encoder, rows, known, past)
        parts = [np.zeros((0, encoder.columns.horizon, len(self.architecture["quantiles"])))]
        with torch.inference_mode():
            for index in in_order(len(encoded), CHUNK):
                batch = encoded.batch(index)
                quantile_BHQ = self.module(batch).double()
                parts.append((quantile_BHQ * batch.unit_B.double()[:, None, None]).numpy())
        base_NH = encoder.base(rows, self.architecture.get("baseline"))
        return np.concatenate(parts) + base_NH[:, :, None]

    @classmethod
    def of(
        cls,
        architecture: dict[str, Any],
        weights: dict[str, torch.Tensor],
        model: Member | None = None,
    ) -> Network:
        """Put weights into a module of an architecture; `model` as `make_module` takes it."""
        module = make_module(architecture, model)
        module.load_state_dict(weights)
        module.eval()
        return cls(module, architecture)

    def write(self, directory: Path) -> None:
        """Write the files that `load` reads."""
        # Copies: weights that are tied share their memory, which a file cannot.
        state = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        # What `save_file` writes only its own user may read.
        (directory / WEIGHTS).write_bytes(save(state))
        (directory / GRAPH).write_bytes(_graph(self.module, self.architecture))
        write_json(directory / DESCRIPTION, self.architecture)

    @classmethod
    def load(cls, directory: Path, architecture: dict[str, Any]) -> Network:
        """Read what `write` wrote."""
        return cls.of(architecture, load_file(directory / WEIGHTS))


def rehearse(architecture: dict[str, Any], model: Member, *, export: bool) -> None:
    """Try a network of the project's own before it is trained, rather than after.

    Args:
        architecture: of the network.
        model: of the recipe.
        export: whether to write it as a graph, too.

    Raises:
        RecipeError: it cannot be trained, or cannot be written as a graph.
        UsageError: a package is not installed.
    """
    if architecture["kind"] == "python":
        module = make_module(architecture, model)
        custom.check(module, architecture, drawn(architecture, 3))
        if export:
            _graph(module, architecture)


def _graph(module: nn.Module, architecture: dict[str, Any]) -> bytes:
    if architecture["kind"] == "python":
        batches = [drawn(architecture, rows, missing=share) for rows, share in EXAMPLES.items()]
        return custom.as_onnx(module, architecture, batches)
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    return as_onnx(architecture, weights)
