"""Whether a new bundle takes the place of the one that is served."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feastrain.errors import DataError
from feastrain.evaluation.metrics import score
from feastrain.shown import Shown

if TYPE_CHECKING:
    from feastrain.dataset.snapshot import Snapshot
    from feastrain.evaluation.metrics import Scores
    from feastrain.models.bundle import Bundle


@dataclass(frozen=True)
class Comparison(Shown):
    """Two bundles on the same rows, which the candidate was not fitted on."""

    candidate: str
    """Fingerprint."""
    served: str | None
    """Fingerprint; None where none is served yet."""
    rows: int
    """Labels scored."""
    candidate_wmae: float
    served_wmae: float | None
    better_by: float
    """By which share of its error the candidate had to be better."""

    @property
    def promotes(self) -> bool:
        """Whether the candidate is good enough."""
        if self.served_wmae is None:
            return True
        return self.candidate_wmae <= self.served_wmae * (1 - self.better_by)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return {**asdict(self), "promotes": self.promotes}


def compare(
    candidate: Bundle, served: Bundle | None, snapshot: Snapshot, better_by: float = 0.0
) -> Comparison:
    """Score both on the test rows of the snapshot that the candidate was made from.

    Args:
        candidate: the bundle that may be served next.
        served: the one that is, if any.
        snapshot: the candidate's.
        better_by: by which share of the served one's WMAE the candidate's must be less.

    Raises:
        DataError: no label of the test rows was observed.
    """
    ours = _score(candidate, snapshot)
    if not ours.rows:
        message = f"snapshot {snapshot.fingerprint} has no test row with a label to compare on"
        raise DataError(message)
    theirs = None if served is None else _score(served, snapshot).wmae
    return Comparison(
        candidate=candidate.fingerprint,
        served=None if served is None else served.fingerprint,
        rows=ours.rows,
        candidate_wmae=ours.wmae,
        served_wmae=theirs,
        better_by=better_by,
    )


def _score(bundle: Bundle, snapshot: Snapshot) -> Scores:
    rows = snapshot.rows("test")
    past = snapshot.rows() if bundle.looks_back else None
    forecast_NHQ = bundle.forecast(rows, snapshot.known(), past)
    steps = range(1, bundle.columns.horizon + 1)
    label_NH, weight_NH = (
        np.column_stack(
            [rows[f"{stem}_{step}"].to_numpy(zero_copy_only=False) for step in steps]
        ).astype(np.float64)
        for stem in ("label", "weight")
    )
    point_NH = forecast_NHQ[:, :, bundle.quantiles.index(0.5)]
    return score(label_NH.ravel(), weight_NH.ravel(), point_NH.ravel())
