"""A bundle: everything that forecasting needs of a trained model, without training code.

`model.json` says what the model is, and lies beside its weights; an ensemble has a folder of
both for each member. `encoder.json`, `calibration.json`, `metrics.json` and `lineage.json`; no
pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feastrain.artifacts import open_manifest, write_json
from feastrain.models.calibration import Calibration
from feastrain.models.encoder import Encoder
from feastrain.models.events import special_ahead
from feastrain.models.network import DESCRIPTION, Network
from feastrain.models.trees import Trees

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.recipe import FeatureColumns

    Member = Network | Trees


CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Bundle:
    """A trained model with the encoder it was trained with, verified when it was opened."""

    path: Path
    members: tuple[Member, ...]
    """The one model there is, or those of an ensemble."""
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
    def columns(self) -> FeatureColumns:
        """The columns it reads, by role."""
        return self.encoder.columns

    @property
    def looks_back(self) -> bool:
        """Whether a forecast needs the rows of earlier cut-offs."""
        return any(member.looks_back for member in self.members)

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
        forecast_NHQ = mean_forecast(self.members, self.encoder, rows, known, past)
        event = self.lineage["recipe"]["label"]["event"]
        special_NH = special_ahead(rows, known, self.columns, event)
        return self.calibration.apply(forecast_NHQ, self.encoder.unit(rows), special_NH)


def mean_forecast(
    members: Sequence[Member],
    encoder: Encoder,
    rows: pa.Table,
    known: pa.Table,
    past: pa.Table | None,
) -> NDArray[np.float64]:
    """Return [N, H, Q]: each quantile as the mean of its members' (Vincent 1912)."""
    forecasts = [member.forecast(encoder, rows, known, past) for member in members]
    mean_NHQ: NDArray[np.float64] = np.mean(forecasts, axis=0)
    return mean_NHQ


def write_bundle(
    directory: Path,
    members: Sequence[Member],
    encoder: Encoder,
    calibration: Calibration,
    metrics: dict[str, Any],
    lineage: dict[str, Any],
) -> None:
    """Write a bundle's files into a scratch folder that the caller publishes.

    Args:
        directory: where to write.
        members: the model, or those of an ensemble.
        encoder: fitted on the training rows.
        calibration: of the quantiles, that every member answers.
        metrics: scores on the validation rows.
        lineage: what it was made from.
    """
    if len(members) == 1:
        members[0].write(directory)
    else:
        for number, member in enumerate(members):
            folder = directory / f"member-{number}"
            folder.mkdir()
            member.write(folder)
        about = {
            "kind": "ensemble",
            "members": len(members),
            "quantiles": list(calibration.quantiles),
        }
        write_json(directory / DESCRIPTION, about)
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
    folders = [path]
    if about["kind"] == "ensemble":
        folders = [path / f"member-{number}" for number in range(about["members"])]
    calibration = Calibration(tuple(about["quantiles"]), {})
    if (path / CALIBRATION).is_file():  # Bundles were not calibrated in the beginning.
        calibration = Calibration.from_json(json.loads((path / CALIBRATION).read_text()))
    return Bundle(
        path=path,
        members=tuple(map(load_member, folders)),
        encoder=Encoder.from_json(encoder),
        calibration=calibration,
        metrics=metrics,
        lineage=lineage,
        quantiles=tuple(about["quantiles"]),
    )


def load_member(directory: Path) -> Member:
    """Read a model from its folder."""
    about = json.loads((directory / DESCRIPTION).read_text())
    kind = Trees if about["kind"] == "trees" else Network
    return kind.load(directory, about)
