"""A trained network as PyTorch runs it: in training, and where one looks into it.

What it writes a bundle holds: `model.safetensors`, `model.onnx` (`feastrain.models.exported`) and
`model.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from feastrain.artifacts import write_json
from feastrain.models.architecture import Module, make_module, make_rows
from feastrain.models.batches import in_order
from feastrain.models.exported import DESCRIPTION, GRAPH, WEIGHTS
from feastrain.models.onnx_graph import as_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.models.encoder import Encoder

CHUNK = 8192


@dataclass(frozen=True)
class Network:
    """A module that forecasts quantiles, and what it was made from."""

    module: Module
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
    def of(cls, architecture: dict[str, Any], weights: dict[str, torch.Tensor]) -> Network:
        """Put weights into a module of an architecture."""
        module = make_module(architecture)
        module.load_state_dict(weights)
        module.eval()
        return cls(module, architecture)

    def write(self, directory: Path) -> None:
        """Write the files that `load` reads."""
        state = self.module.state_dict()
        save_file(state, directory / WEIGHTS)
        weights = {name: tensor.numpy() for name, tensor in state.items()}
        (directory / GRAPH).write_bytes(as_onnx(self.architecture, weights))
        write_json(directory / DESCRIPTION, self.architecture)

    @classmethod
    def load(cls, directory: Path, architecture: dict[str, Any]) -> Network:
        """Read what `write` wrote."""
        return cls.of(architecture, load_file(directory / WEIGHTS))
