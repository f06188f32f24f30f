"""The models of a bundle as one: its only model, or the weighted mean of several.

A single model lies in the bundle's folder; each of several has a folder of its own, `member-0` ...
Shapes: N rows, H steps, Q quantiles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feastrain.artifacts import write_json
from feastrain.errors import UsageError
from feastrain.models.exported import DESCRIPTION, GRAPH, Exported
from feastrain.models.over_baseline import OverBaseline
from feastrain.models.trees import Trees

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.models.encoder import Encoder
    from feastrain.models.network import Network

    Member = Network | Exported | Trees | OverBaseline


@dataclass(frozen=True)
class Mixture:
    """Models that answer the same quantiles, and how much each counts; weights sum to 1."""

    members: tuple[Member, ...]
    weights: tuple[float, ...]

    @property
    def looks_back(self) -> bool:
        """Whether a forecast needs the rows of earlier cut-offs."""
        return any(member.looks_back for member in self.members)

    def forecast(
        self, encoder: Encoder, rows: pa.Table, known: pa.Table, past: pa.Table | None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q]: each quantile as the weighted mean of its members' (Vincent 1912)."""
        forecasts = [member.forecast(encoder, rows, known, past) for member in self.members]
        if len(forecasts) == 1:
            return forecasts[0]
        mean_NHQ: NDArray[np.float64] = np.average(forecasts, axis=0, weights=self.weights)
        return mean_NHQ

    def write(self, directory: Path, quantiles: Sequence[float]) -> None:
        """Write the files that `load` reads."""
        if len(self.members) == 1:
            self.members[0].write(directory)
            return
        for number, member in enumerate(self.members):
            folder = directory / f"member-{number}"
            folder.mkdir()
            member.write(folder)
        about = {
            "kind": "ensemble",
            "members": len(self.members),
            "weights": list(self.weights),
            "quantiles": list(quantiles),
        }
        write_json(directory / DESCRIPTION, about)

    @classmethod
    def load(cls, directory: Path, about: dict[str, Any]) -> Mixture:
        """Read what `write` wrote.

        Raises:
            UsageError: a model needs a package that is not installed.
        """
        if about["kind"] != "ensemble":
            return cls((_load_member(directory),), (1.0,))
        count = about["members"]
        folders = [directory / f"member-{number}" for number in range(count)]
        weights = about.get("weights", [1 / count] * count)  # All counted alike in the beginning.
        return cls(tuple(map(_load_member, folders)), tuple(weights))


def _load_member(directory: Path) -> Member:
    about = json.loads((directory / DESCRIPTION).read_text())
    kinds: dict[str, type[Member]] = {"trees": Trees, "baseline": OverBaseline}
    kind = kinds.get(about["kind"], Exported)
    if kind is Exported and not (directory / GRAPH).is_file():
        kind = _torch_network(directory)
    return kind.load(directory, about)


def _torch_network(directory: Path) -> type[Network]:
    """Return what runs a network that was written before there were graphs of them.

    Raises:
        UsageError: PyTorch is not installed.
    """
    try:
        from feastrain.models.network import Network
    except ModuleNotFoundError as error:
        message = (
            f"{directory} has no {GRAPH}, which older releases did not write: "
            "train again, or pip install 'feastrain[train]'"
        )
        raise UsageError(message) from error
    return Network
