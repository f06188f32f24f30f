"""What a network reads of rows, as arrays by the name of each input; training puts them in tensors.

Shapes as in `feastrain.models.encoder`, with B rows of a batch for N; those of the past as in
`feastrain.models.lookback`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from feastrain.models.lookback import LookBack

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.models.encoder import Encoder

Inputs = dict[str, "NDArray[Any]"]
"""Float32 numbers and 64-bit codes of B rows, by the name of the input."""


class Given(Protocol):
    """Encoded rows that a network reads a run at a time."""

    def batch(self, rows: slice) -> Inputs:
        """Return what the network reads of a run of rows."""


class RowsGiven:
    """Rows without a past."""

    def __init__(self, encoder: Encoder, rows: pa.Table, known: pa.Table) -> None:
        self._encoded = encoder.encode(rows, known)

    def batch(self, rows: slice) -> Inputs:
        """Return what the network reads of a run of rows."""
        encoded, group_B = self._encoded, self._encoded.group_N[rows]
        return {
            "row_BF": encoded.row_NF[rows],
            "category_BC": encoded.category_NC[rows],
            "step_BHS": encoded.step_NHS[rows],
            "known_BHK": encoded.known_GHK[group_B],
            "known_category_BHD": encoded.known_category_GHD[group_B],
        }


class WindowsGiven:
    """Rows with their past."""

    def __init__(self, laid_out: LookBack) -> None:
        self._laid_out = laid_out

    def batch(self, rows: slice) -> Inputs:
        """Return what the network reads of a run of rows."""
        return self._laid_out.batch(np.arange(len(self._laid_out.unit_N))[rows])


def give(
    architecture: dict[str, Any],
    encoder: Encoder,
    rows: pa.Table,
    known: pa.Table,
    past: pa.Table | None,
) -> Given:
    """Encode rows as the architecture reads them.

    Args:
        architecture: of the network.
        encoder: fitted on training rows.
        rows: entities, `event_timestamp` (the cut-off) and features.
        known: known-ahead features, H rows in step order for each cut-off.
        past: the rows of earlier cut-offs, for a network that looks back; None for none.
    """
    if "context" not in architecture:
        return RowsGiven(encoder, rows, known)
    context = int(architecture["context"])
    frequency = timedelta(seconds=architecture["frequency_s"])
    past = rows.slice(0, 0) if past is None else past
    return WindowsGiven(LookBack.of(encoder, rows, known, past, context, frequency))
