"""A trained network as ONNX Runtime runs it: `model.onnx` and `model.json`, without torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feastrain.artifacts import write_json
from feastrain.errors import UsageError
from feastrain.models.inputs import give

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime
    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.models.encoder import Encoder

GRAPH, WEIGHTS, DESCRIPTION = "model.onnx", "model.safetensors", "model.json"
CHUNK = {False: 256, True: 8}
"""Rows of one run, by whether they look back: what they become on the way still fits a cache."""


@dataclass(frozen=True)
class Exported:
    """A network that forecasts quantiles, and what it was made from."""

    folder: Path
    session: onnxruntime.InferenceSession
    architecture: dict[str, Any]

    @property
    def looks_back(self) -> bool:
        """Whether a forecast needs the rows of earlier cut-offs."""
        return "context" in self.architecture

    def forecast(
        self, encoder: Encoder, rows: pa.Table, known: pa.Table, past: pa.Table | None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q] quantiles in the unit of the label, in row order."""
        quantiles = len(self.architecture["quantiles"])
        in_units_NHQ = np.zeros((len(rows), encoder.columns.horizon, quantiles))
        size = CHUNK[self.looks_back]
        if len(rows):
            given = give(self.architecture, encoder, rows, known, past)
            for start in range(0, len(rows), size):
                run = slice(start, start + size)
                (in_units_NHQ[run],) = self.session.run(None, given.batch(run))
        unit_N = encoder.unit(rows).astype(np.float32)
        base_NH = encoder.base(rows, self.architecture.get("baseline"))
        forecast_NHQ: NDArray[np.float64] = (
            in_units_NHQ * unit_N[:, None, None] + base_NH[:, :, None]
        )
        return forecast_NHQ

    def write(self, directory: Path) -> None:
        """Write the files that were read, once more."""
        for name in (GRAPH, WEIGHTS):
            (directory / name).write_bytes((self.folder / name).read_bytes())
        write_json(directory / DESCRIPTION, self.architecture)

    @classmethod
    def load(cls, directory: Path, architecture: dict[str, Any]) -> Exported:
        """Read what `Network.write` wrote.

        Raises:
            UsageError: ONNX Runtime is not installed.
        """
        if importlib.util.find_spec("onnxruntime") is None:
            message = "a network needs ONNX Runtime to forecast: pip install 'feastrain[serve]'"
            raise UsageError(message)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Requests, and members, run side by side: threads of one would wait for those of others.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            directory / GRAPH, options, providers=["CPUExecutionProvider"]
        )
        return cls(directory, session, architecture)
