"""A bundle: everything that forecasting needs of a trained model, without training code.

`model.safetensors`, `model.json` (architecture), `encoder.json`, `metrics.json` and
`lineage.json`; no pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from feastrain.artifacts import open_manifest, write_json
from feastrain.models.architecture import Model, make_model, make_rows
from feastrain.models.batches import in_order
from feastrain.models.encoder import Encoder

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.recipe import FeatureColumns

CHUNK = 8192


@dataclass(frozen=True)
class Bundle:
    """A trained model with the encoder it was trained with, verified when it was opened."""

    path: Path
    model: Model
    architecture: dict[str, Any]
    encoder: Encoder
    metrics: dict[str, Any]
    lineage: dict[str, Any]
    quantiles: tuple[float, ...]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of everything the bundle was made from."""
        return self.path.name

    @property
    def columns(self) -> FeatureColumns:
        """The columns it reads, by role."""
        return self.encoder.columns

    @property
    def looks_back(self) -> bool:
        """Whether a forecast needs the rows of earlier cut-offs."""
        return "context" in self.architecture

    def forecast(
        self, rows: pa.Table, known: pa.Table, past: pa.Table | None = None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q] quantiles in the unit of the label, in row order.

        Args:
            rows: entities, `event_timestamp` (the cut-off) and the row features.
            known: known-ahead features, H rows in step order for each cut-off, those of the
                past included.
            past: the rows of earlier cut-offs, for a model that looks back; what is later than
                a row's cut-off is not read.
        """
        encoded = make_rows(self.architecture, self.encoder, rows, known, past)
        parts = []
        with torch.inference_mode():
            for index in in_order(len(encoded), CHUNK):
                batch = encoded.batch(index)
                quantile_BHQ = self.model(batch).double()
                parts.append((quantile_BHQ * batch.unit_B.double()[:, None, None]).numpy())
        if not parts:
            return np.zeros((0, self.columns.horizon, len(self.quantiles)))
        return np.concatenate(parts)


def write_bundle(
    directory: Path,
    model: dict[str, Any],
    weights: dict[str, torch.Tensor],
    encoder: Encoder,
    metrics: dict[str, Any],
    lineage: dict[str, Any],
) -> None:
    """Write a bundle's files into a scratch folder that the caller publishes.

    Args:
        directory: where to write.
        model: the architecture, as `feastrain.models.architecture` gives it.
        weights: the model's state.
        encoder: fitted on the training rows.
        metrics: scores on the validation rows.
        lineage: what it was made from.
    """
    save_file(weights, directory / "model.safetensors")
    write_json(directory / "model.json", model)
    write_json(directory / "encoder.json", encoder.to_json())
    write_json(directory / "metrics.json", metrics)
    write_json(directory / "lineage.json", lineage)


def load_bundle(path: Path) -> Bundle:
    """Open a bundle and check every byte against its manifest.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    open_manifest(path)
    content = {
        name: json.loads((path / f"{name}.json").read_text())
        for name in ("model", "encoder", "metrics", "lineage")
    }
    model = make_model(content["model"])
    model.load_state_dict(load_file(path / "model.safetensors"))
    model.eval()
    return Bundle(
        path=path,
        model=model,
        architecture=content["model"],
        encoder=Encoder.from_json(content["encoder"]),
        metrics=content["metrics"],
        lineage=content["lineage"],
        quantiles=tuple(content["model"]["quantiles"]),
    )
