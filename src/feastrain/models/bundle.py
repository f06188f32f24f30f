"""A bundle: everything that forecasting needs of a trained model, without training code.

`model.json` says what the model is, and lies beside its weights and, of a network, its graph; an
ensemble has a folder of them for each member. `encoder.json`, `calibration.json`, `metrics.json`
and `lineage.json`; no pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import open_manifest, write_json
from feastrain.models.calibration import Calibration
from feastrain.models.encoder import Encoder
from feastrain.models.events import special_ahead
from feastrain.models.mixture import Mixture
from feastrain.shown import Shown

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.models.mixture import Member
    from feastrain.recipe import FeatureColumns


CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Bundle(Shown):
    """A trained model with the encoder it was trained with, verified when it was opened."""

    path: Path
    mixture: Mixture
    encoder: Encoder
    calibration: Calibration
    metrics: dict[str, Any]
    lineage: dict[str, Any]
    quantiles: tuple[float, ...]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of everything the bundle was made from."""
        return self.path.name

    @property
    def members(self) -> tuple[Member, ...]:
        """The one model there is, or those of an ensemble."""
        return self.mixture.members

    @property
    def columns(self) -> FeatureColumns:
        """The columns it reads, by role."""
        return self.encoder.columns

    @property
    def looks_back(self) -> bool:
        """Whether a forecast needs the rows of earlier cut-offs."""
        return self.mixture.looks_back

    def forecast(
        self, rows: pa.Table, known: pa.Table, past: pa.Table | None = None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q] calibrated quantiles in the unit of the label, in row order.

        Args:
            rows: entities, `event_timestamp` (the cut-off) and the row features.
            known: known-ahead features, H rows in step order for each cut-off, those of the
                past included.
            past: the rows of earlier cut-offs, for a model that looks back; what is later than
                a row's cut-off is not read.
        """
        forecast_NHQ = self.mixture.forecast(self.encoder, rows, known, past)
        event = self.lineage["recipe"]["label"]["event"]
        special_NH = special_ahead(rows, known, self.columns, event)
        return self.calibration.apply(forecast_NHQ, self.encoder.unit(rows), special_NH)

    def to_json(self) -> dict[str, Any]:
        """Return what there is to say of it, as plain JSON values."""
        said = ("snapshot", "service", "feastrain", "world_size")
        about = {name: self.lineage[name] for name in said if name in self.lineage}
        facts = {"fingerprint": self.fingerprint, "path": str(self.path), "metrics": self.metrics}
        return facts | {"quantiles": list(self.quantiles), **about}


def write_bundle(
    directory: Path,
    mixture: Mixture,
    encoder: Encoder,
    calibration: Calibration,
    metrics: dict[str, Any],
    lineage: dict[str, Any],
) -> None:
    """Write a bundle's files into a scratch folder that the caller publishes.

    Args:
        directory: where to write.
        mixture: the model, or those of an ensemble.
        encoder: fitted on the training rows.
        calibration: of the quantiles, that every member answers.
        metrics: scores on the validation rows.
        lineage: what it was made from.
    """
    mixture.write(directory, calibration.quantiles)
    write_json(directory / "encoder.json", encoder.to_json())
    write_json(directory / CALIBRATION, calibration.to_json())
    write_json(directory / "metrics.json", metrics)
    write_json(directory / "lineage.json", lineage)


def load_bundle(path: Path) -> Bundle:
    """Open a bundle and check every byte against its manifest.

    Raises:
        ArtifactError: a file is missing or damaged.
        UsageError: its model needs a package that is not installed.
    """
    open_manifest(path)
    about, encoder, metrics, lineage = (
        json.loads((path / f"{name}.json").read_text())
        for name in ("model", "encoder", "metrics", "lineage")
    )
    calibration = Calibration(tuple(about["quantiles"]), {})
    if (path / CALIBRATION).is_file():  # Bundles were not calibrated in the beginning.
        calibration = Calibration.from_json(json.loads((path / CALIBRATION).read_text()))
    return Bundle(
        path=path,
        mixture=Mixture.load(path, about),
        encoder=Encoder.from_json(encoder),
        calibration=calibration,
        metrics=metrics,
        lineage=lineage,
        quantiles=tuple(about["quantiles"]),
    )
