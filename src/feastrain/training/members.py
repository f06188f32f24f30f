"""The models of a recipe, fitted one after the other: one, or the members of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from feastrain.models.network import Network, rehearse
from feastrain.models.over_baseline import OverBaseline
from feastrain.recipe import BaselineModel, TreesModel
from feastrain.training import checkpoint as checkpoints
from feastrain.training.boosting import Boosting
from feastrain.training.checkpoint import Saver
from feastrain.training.encoding import Labelled, Part, encode, fit_encoder, memory_share
from feastrain.training.files import BOOSTERS
from feastrain.training.finite import naming_rows
from feastrain.training.fit import Fit

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.models.encoder import Encoder
    from feastrain.models.mixture import Member
    from feastrain.recipe import Recipe
    from feastrain.telemetry import Stage
    from feastrain.training.distributed import Ranks
    from feastrain.training.observer import Observer
    from feastrain.training.shutdown import StopRequest


@dataclass
class Members:
    """Fits the models of a recipe on one rank.

    `scored` saw no validation row, and says how good the recipe is; `final` forecasts: the same
    models, or those that were fitted again on all that is known.
    """

    recipe: Recipe
    snapshot: Snapshot
    folder: Path
    here: Ranks
    stop: StopRequest
    observer: Observer
    progress: Stage
    epochs: int = 0
    """Of all networks."""
    scored: list[Member] = field(default_factory=list)
    final: list[Member] = field(default_factory=list)

    def fit(self) -> Encoder:
        """Fit every model, and return the encoder of them all.

        Raises:
            InterruptedRun: a rank was asked to stop.
            FeastrainError: a checkpoint cannot be written.
            DataError: a loss is not finite.
        """
        many = len(self.recipe.members) > 1
        encoders = []
        for number, member in enumerate(self.recipe.members):
            folder = self.folder / f"member-{number}" if many else self.folder
            folder.mkdir(exist_ok=True)
            recipe = self.recipe.of_member(number)
            if isinstance(member, BaselineModel):
                encoders.append(self._read_off(recipe, member))
            elif isinstance(member, TreesModel):
                encoders.append(self._fit_trees(recipe, folder))
            else:
                encoders.append(self._fit_network(recipe, folder))
        return encoders[0]

    def _read_off(self, recipe: Recipe, member: BaselineModel) -> Encoder:
        """Fit the baseline's quantiles, on every rank alike."""
        encoder = fit_encoder(self.snapshot, recipe.label.event)
        labelled = Labelled(recipe, self.snapshot, encoder)
        parts = Part.TRAIN, Part.KNOWN if recipe.training.refit else Part.TRAIN
        scored, final = (OverBaseline.fit(member, encoder, *labelled.all(part)) for part in parts)
        self.scored.append(scored)
        self.final.append(final)
        return encoder

    def _fit_trees(self, recipe: Recipe, folder: Path) -> Encoder:
        boosting = Boosting(recipe, self.snapshot, folder, self.here, self.stop, self.observer)
        trees = boosting.fit()
        self.scored.append(trees)
        self.final.append(boosting.refit(trees) if recipe.training.refit else trees)
        return boosting.encoder

    def _fit_network(self, recipe: Recipe, folder: Path) -> Encoder:
        fit = self._fitted(recipe, folder, refit=False)
        self.scored.append(_network(fit))
        if recipe.training.refit:
            again = {"epochs": fit.best_epoch, "patience": fit.best_epoch}
            training = recipe.training.model_copy(update=again)
            recipe = recipe.model_copy(update={"training": training})
            folder = folder / "refit"
            folder.mkdir(exist_ok=True)
            self.final.append(_network(self._fitted(recipe, folder, refit=True)))
        else:
            self.final.append(self.scored[-1])
        return fit.encoded.encoder

    def _fitted(self, recipe: Recipe, folder: Path, *, refit: bool) -> Fit:
        device, most_bytes = self.here.device, memory_share()
        encoded = encode(recipe, self.snapshot, folder, device, most_bytes, refit=refit)
        if not refit:
            rehearse(encoded.architecture, recipe.members[0], export=self.here.leads)
        fit = Fit(recipe, self.snapshot, encoded, self.here, self.epochs)
        earlier = checkpoints.newest(folder, fit.identity)
        if earlier is not None:
            fit.restore(earlier)
            told = {key: earlier.state[key] for key in ("epochs_done", "row")}
            self.progress.tell("resumed", **told)
        best = earlier.best_file if earlier else None
        part = Part.KNOWN if refit else Part.TRAIN
        saving = Saver(folder, self.observer.on_checkpoint, best)
        with naming_rows(self.snapshot, part), saving as saver:
            while not fit.finished:
                fit.epoch(self.stop, self.observer, saver)
        self.epochs += fit.at.epoch
        return fit


def discard(folder: Path) -> None:
    """Remove what an earlier run has fitted."""
    for part in sorted({folder, *folder.glob("**/")}):
        checkpoints.discard(part)
        for booster in part.glob(BOOSTERS):
            booster.unlink()


def _network(fit: Fit) -> Network:
    return Network.of(fit.encoded.architecture, fit.best_weights, fit.recipe.members[0])
