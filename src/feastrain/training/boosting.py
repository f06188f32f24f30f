"""Trees, fitted: every rank fits its share of the boosters, and finds again what was finished.

A booster is small and fitted in one go: it is written under its name when it is done, and a run
that goes on fits those that are missing. Every few rounds ranks agree on whether to stop, those
that have no booster left among them: a rank that died or stands still is found as in a network's
fit, and all leave together.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from feastrain.errors import InterruptedRun
from feastrain.models.trees import (
    Examples,
    Trees,
    about_trees,
    boost,
    booster_name,
    categories_of,
    parameters,
    require_trees,
)
from feastrain.recipe import TreesModel
from feastrain.training.encoding import Labelled, Part, fit_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import lightgbm

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.recipe import Recipe
    from feastrain.training.distributed import Ranks
    from feastrain.training.observer import Observer
    from feastrain.training.shutdown import StopRequest


LOOK_EVERY = 4
"""Rounds between two looks at whether to stop, which ranks take together."""


class Boosting:
    """The trees of one recipe, as one rank fits them."""

    def __init__(
        self,
        recipe: Recipe,
        snapshot: Snapshot,
        folder: Path,
        here: Ranks,
        stop: StopRequest,
        observer: Observer,
    ) -> None:
        """Prepare to fit into `folder`, which all ranks share.

        Raises:
            UsageError: LightGBM is not installed.
        """
        require_trees()
        assert isinstance(recipe.model, TreesModel)
        self._model, self._seed = recipe.model, recipe.training.seed
        self._folder, self._here, self._stop = folder, here, stop
        self._observer = observer
        self.encoder = fit_encoder(snapshot, recipe.label.event)
        self._labelled = Labelled(recipe, snapshot, self.encoder)

    def fit(self) -> Trees:
        """Fit every booster, where there is a patience as long as the validation rows gain.

        Raises:
            InterruptedRun: a rank was asked to stop; finished boosters are kept.
        """
        return self._all(self._folder, None)

    def refit(self, trees: Trees) -> Trees:
        """Fit them again, for as many rounds, on all that is known at the first test cut-off."""
        return self._all(self._folder / "refit", trees)

    def _all(self, folder: Path, earlier: Trees | None) -> Trees:
        folder.mkdir(exist_ok=True)
        missing = [job for job in self._mine() if not (folder / booster_name(*job)).is_file()]
        if missing:
            fitted, stopping = self._datasets(refit=earlier is not None)
            for number, (place, seed) in enumerate(missing, 1):
                rounds = self._model.rounds
                if earlier is not None:
                    rounds = max(1, earlier.boosters[place][seed].num_trees())
                settings = parameters(
                    self._model, self._model.quantiles[place], self._seed * 1_000 + seed
                ) | {"num_threads": torch.get_num_threads()}
                seen = partial(self._look, number, len(missing), rounds)
                booster = boost(settings, rounds, fitted, stopping, seen)
                scratch = folder / f".{booster_name(place, seed)}"
                booster.save_model(scratch)
                scratch.rename(folder / booster_name(place, seed))
        while self._agree(busy=False):
            pass
        return Trees.load(folder, about_trees(self._model))

    def _mine(self) -> Iterator[tuple[int, int]]:
        """Yield (quantile, seed) of this rank's share of the boosters."""
        jobs = [
            (place, seed)
            for seed in range(self._model.seeds)
            for place in range(len(self._model.quantiles))
        ]
        yield from jobs[self._here.rank :: self._here.world_size]

    def _datasets(
        self, *, refit: bool
    ) -> tuple[lightgbm.Dataset, tuple[lightgbm.Dataset, int] | None]:
        """Return what is fitted, and what says when it is enough, with the patience."""
        fitted = self._dataset(Part.KNOWN if refit else Part.TRAIN)
        if refit or self._model.patience is None:
            return fitted, None
        stopping = self._dataset(Part.VALIDATION)
        stopping.reference = fitted
        return fitted, (stopping, self._model.patience)

    def _dataset(self, part: Part) -> lightgbm.Dataset:
        rows, labels = self._labelled.all(part)
        known = self._labelled.snapshot.known()
        examples = Examples.of(self.encoder, rows, known, labels)
        return examples.dataset(categories_of(self.encoder))

    def _look(self, number: int, boosters: int, rounds: int, done: int) -> None:
        if done % LOOK_EVERY == 0:
            self._observer.on_boosted(number, boosters, done, rounds)
            self._agree(busy=True)

    def _agree(self, *, busy: bool) -> bool:
        """Return whether a rank is still busy, and leave where one was asked to stop."""
        asked = self._here.total(torch.tensor([float(self._stop.received), float(busy)]))
        if asked[0] > 0:
            message = "asked to stop while boosters were fitted; the same command resumes"
            raise InterruptedRun(message)
        return bool(asked[1] > 0)
