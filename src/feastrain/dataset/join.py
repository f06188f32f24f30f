"""Labels and features brought together: what a snapshot is made from, and what an audit checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import source_digests
from feastrain.dataset.checks import TrainingSet
from feastrain.dataset.labels import read_labels
from feastrain.dataset.retrieve import retrieve_known, retrieve_rows
from feastrain.dataset.spine import make_spine
from feastrain.dataset.split import Split, split_cutoffs
from feastrain.version import __version__

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa
    from feast import FeatureStore

    from feastrain.dataset.labels import Panel
    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe

FORMAT = 2
"""Raised when the files of a snapshot change their meaning, so that old ones are made anew."""


@dataclass(frozen=True)
class Joined:
    """A training set before it is split off and published, and where it came from."""

    root: Path
    recipe: Recipe
    store: FeatureStore
    service: Service
    panel: Panel
    split: Split
    rows: pa.Table
    """The spine with the features as of each cut-off; see `retrieve_rows`."""
    known: pa.Table
    """The known-ahead features; see `retrieve_known`."""
    now: datetime
    """The moment everything is known up to: `as_of`, or the close of the last period."""

    def training_set(self) -> TrainingSet:
        """Return what expectations are checked on."""
        columns, frequency = self.service.columns, self.recipe.frequency
        return TrainingSet(self.rows, self.known, columns, frequency, self.now)


def join(
    root: Path, recipe: Recipe, store: FeatureStore, service: Service, as_of: datetime | None
) -> Joined:
    """Read the labels up to `as_of` and join the features to them as of each cut-off.

    Raises:
        DataError: the labels are refused, or the offline store does not answer what was asked.
    """
    panel = read_labels(root / recipe.label.source, recipe, as_of)
    split = split_cutoffs(len(panel.periods), recipe)
    spine = make_spine(panel, split, recipe.horizon)
    rows = retrieve_rows(store, service, spine)
    known = retrieve_known(store, service, spine, recipe)
    now = as_of or panel.last_period
    return Joined(root, recipe, store, service, panel, split, rows, known, now)


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
