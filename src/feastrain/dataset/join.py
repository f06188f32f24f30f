"""Labels and features brought together: what a snapshot is made from, and what an audit checks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import source_digests
from feastrain.dataset.checks import TrainingSet
from feastrain.dataset.engine import Engine, LocalEngine
from feastrain.dataset.labels import read_labels
from feastrain.dataset.parts import PartedRows, divide
from feastrain.dataset.retrieve import retrieve_known
from feastrain.dataset.spine import cutoffs_of
from feastrain.dataset.split import Split, split_cutoffs
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa
    from feast import FeatureStore

    from feastrain.dataset.labels import Panel
    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe

FORMAT = 3
"""Raised when the files of a snapshot change their meaning, so that old ones are made anew."""


@dataclass(frozen=True)
class JoinRequest:
    """What is to be joined, and by what."""

    root: Path
    """The project folder, where the recipe's paths start."""
    recipe: Recipe
    store: FeatureStore
    """The feature store, already applied."""
    as_of: datetime | None = None
    """Labels later than this do not exist yet; None takes all there are."""
    rehearsal: bool = False
    """Whether this is a training set of a past day, for a backtest: what the recipe expects of
    today's is told of it, not required."""
    engine: Engine = field(default_factory=LocalEngine)
    on_part: Callable[[int, int], None] = lambda done, count: None  # noqa: ARG005
    """Told how many parts are made, of how many."""


@dataclass(frozen=True)
class Joined:
    """A training set before it is published, and where it came from."""

    root: Path
    recipe: Recipe
    store: FeatureStore
    service: Service
    panel: Panel
    split: Split
    rows: PartedRows
    """The spine with the features as of each cut-off; see `retrieve_rows`."""
    known: pa.Table
    """The known-ahead features; see `retrieve_known`."""
    counts: dict[str, int]
    """Rows by part of the split."""
    now: datetime
    """The moment everything is known up to: `as_of`, or the close of the last period."""

    def training_set(self) -> TrainingSet:
        """Return what expectations are checked on."""
        columns, frequency = self.service.columns, self.recipe.frequency
        return TrainingSet(self.rows, self.known, columns, frequency, self.now)


def inputs_of(
    root: Path, recipe: Recipe, service: Service, as_of: datetime | None
) -> dict[str, Any]:
    """Return everything a training set is made from, as plain JSON values."""
    return {
        "format": FORMAT,
        "feastrain": __version__,
        "recipe": recipe.data_section(),
        "service": service.fingerprint,
        "views": service.definitions,
        "features": service.source_digests(),
        "labels": source_digests(root / recipe.label.source),
        "as_of": as_of.isoformat() if as_of else None,
    }


def join(request: JoinRequest, service: Service, folder: Path) -> Joined:
    """Read the labels and join the features to them as of each cut-off, part by part in `folder`.

    Raises:
        DataError: the labels are refused, or the offline store does not answer what was asked.
    """
    root, recipe, store = request.root, request.recipe, request.store
    panel = read_labels(root / recipe.label.source, recipe, request.as_of)
    split = split_cutoffs(len(panel.periods), recipe)
    parts = divide(root, recipe, panel, split, folder)
    counts: Counter[str] = Counter()
    for done, part in enumerate(request.engine.make(parts), start=1):
        counts += part
        request.on_part(done, len(parts))
    for leftover in folder.glob(".*"):  # of writers that were killed
        leftover.unlink()
    known = retrieve_known(store, service, cutoffs_of(panel, recipe.horizon), recipe)
    now = request.as_of or panel.last_period
    rows = PartedRows(folder)
    return Joined(
        root, recipe, store, service, panel, split, rows, known, dict(sorted(counts.items())), now
    )
