"""The stage that fits a model; what torchrun executes, here and on a cluster.

    torchrun --nproc-per-node 2 -m feastrain.training.run --recipe R --snapshot S --run D --bundle B

It exits with the code of `feastrain.errors`: 75 when it was asked to stop and can be resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from feastrain.artifacts import fingerprint, publishing
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import FeastrainError
from feastrain.models.architecture import make_model
from feastrain.models.bundle import write_bundle
from feastrain.recipe import Recipe, load_recipe
from feastrain.settings import Settings, load_settings
from feastrain.telemetry import Stage, stage
from feastrain.training import checkpoint as checkpoints
from feastrain.training.checkpoint import Checkpoint
from feastrain.training.distributed import Ranks, die_with_parent, ranks
from feastrain.training.encoding import Encodings, encode, memory_share
from feastrain.training.loop import Validation, train_epoch, validate
from feastrain.training.observer import About, Observer
from feastrain.training.shutdown import StopRequest, listening
from feastrain.training.watching import watching
from feastrain.version import __version__

FAILURE = "failure.txt"
"""Where rank 0's launcher finds the one line that a failing rank had to say."""


def run(  # noqa: PLR0913 - what torchrun's command line says, and this rank
    recipe: Recipe,
    snapshot: Snapshot,
    folder: Path,
    bundle: Path,
    here: Ranks,
    stop: StopRequest,
    *,
    settings: Settings,
    fresh: bool,
) -> None:
    """Fit the recipe's model on the snapshot and publish the bundle.

    Args:
        recipe: the model and how to train it.
        snapshot: what to train on.
        folder: the run: checkpoints are kept here.
        bundle: the final name of what is published.
        here: this rank among the others.
        stop: set when the process was asked to stop.
        settings: who watches the run.
        fresh: ignore earlier checkpoints.
    """
    encoded = encode(recipe, snapshot, folder, here.device, memory_share())
    fit = Fit(recipe, encoded, here, _identity(recipe, snapshot, here))
    if fresh and here.leads:
        checkpoints.discard(folder)
    earlier = None if fresh else checkpoints.newest(folder, fit.identity)
    if earlier is not None:
        fit.restore(earlier)
    with stage("fit") if here.leads else contextlib.nullcontext(Stage("fit")) as progress:
        if earlier is not None:
            progress.tell("resumed", epochs_done=fit.epochs_done)
        about = About(recipe, snapshot, folder, bundle, here.world_size, fresh)
        with watching(about, settings, progress, leads=here.leads) as observer:
            while not fit.finished:
                fit.epoch(stop, observer)
                made = fit.checkpoint()
                if here.leads:
                    started = time.perf_counter()
                    checkpoints.save(folder, made)
                    observer.on_checkpoint(time.perf_counter() - started)
            if here.leads:
                publish(fit, snapshot, bundle)
        progress.made(epochs=fit.epochs_done, validation_wmae=round(fit.best_wmae, 2))
    here.wait()


class Fit:
    """The state of a fit between two epochs; what a checkpoint holds."""

    def __init__(
        self, recipe: Recipe, encoded: Encodings, here: Ranks, identity: dict[str, Any]
    ) -> None:
        self.recipe, self.encoded, self.here, self.identity = recipe, encoded, here, identity
        torch.manual_seed(recipe.training.seed)
        self.model = make_model(encoded.architecture).to(here.device)
        self.model.recompute = recipe.training.recompute
        self.parallel: nn.Module = self.model
        if here.world_size > 1:
            self.parallel = DistributedDataParallel(self.model)
        self.quantiles = torch.tensor(recipe.model.quantiles, device=here.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.training.learning_rate,
            weight_decay=recipe.training.weight_decay,
            fused=True,
        )
        # Dropout draws differ by rank; everything before this line is equal on all.
        torch.manual_seed(recipe.training.seed * 1_000_003 + here.rank)
        self.epochs_done = 0
        self.epochs_without_gain = 0
        self.best_wmae = float("inf")
        self.best_pinball = float("inf")
        self.best_weights = self._weights()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last few brought nothing."""
        training = self.recipe.training
        return self.epochs_done >= training.epochs or self.epochs_without_gain >= training.patience

    def epoch(self, stop: StopRequest, observer: Observer) -> None:
        """Fit one epoch, score it, and remember the weights if they are the best so far."""
        training = self.recipe.training
        observer.on_epoch_start(self.epochs_done + 1, len(self.encoded.train))
        loss = train_epoch(
            self.parallel,
            self.optimizer,
            self.encoded.train,
            training,
            self.quantiles,
            epoch=self.epochs_done,
            ranks=self.here,
            stop=stop,
            on_step=observer.on_step,
        )
        score = validate(
            self.model,
            self.encoded.validation,
            self.quantiles,
            batch_rows=training.batch_rows * 8,
            ranks=self.here,
        )
        self._remember(score)
        observer.on_epoch(loss, score)

    def _remember(self, score: Validation) -> None:
        self.epochs_done += 1
        self.epochs_without_gain += 1
        if score.pinball < self.best_pinball:
            self.best_pinball, self.best_wmae = score.pinball, score.wmae
            self.best_weights = self._weights()
            self.epochs_without_gain = 0

    def checkpoint(self) -> Checkpoint:
        """Return everything needed to go on from here; every rank takes part."""
        random = self.here.gather(_random_state(self.here.device))
        tensors = {f"random.{rank}": state for rank, state in enumerate(random)}
        tensors |= {f"weights.{name}": tensor for name, tensor in self._weights().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        state = {
            "identity": self.identity,
            "epochs_done": self.epochs_done,
            "epochs_without_gain": self.epochs_without_gain,
            "best_wmae": self.best_wmae,
            "best_pinball": self.best_pinball,
        }
        return Checkpoint(tensors, state)

    def restore(self, earlier: Checkpoint) -> None:
        """Go back to where a checkpoint was made."""
        self.model.load_state_dict(earlier.part("weights"))
        self.best_weights = earlier.part("best")
        _set_random_state(earlier.tensors[f"random.{self.here.rank}"], self.here.device)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in earlier.part("optimizer").items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.epochs_done = earlier.epochs_done
        self.epochs_without_gain = earlier.state["epochs_without_gain"]
        self.best_wmae = earlier.state["best_wmae"]
        self.best_pinball = earlier.state["best_pinball"]

    def _weights(self) -> dict[str, torch.Tensor]:
        return {
            name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()
        }


def publish(fit: Fit, snapshot: Snapshot, bundle: Path) -> None:
    """Publish the best weights with the encoder, the scores and where it all came from."""
    manifest = snapshot.manifest
    lineage = {
        "snapshot": snapshot.fingerprint,
        "recipe": fit.recipe.model_dump(mode="json"),
        "row_features": manifest["row_features"],
        "known_features": manifest["known_features"],
        "service": manifest["service"],
        "first_period": manifest["periods"]["first"],
        "feastrain": __version__,
        "torch": torch.__version__,
        "world_size": fit.here.world_size,
    }
    metrics = {
        "epochs": fit.epochs_done,
        "validation_wmae": fit.best_wmae,
        "validation_pinball": fit.best_pinball,
    }
    with publishing(bundle, {}) as scratch:
        write_bundle(
            scratch,
            fit.encoded.architecture,
            fit.best_weights,
            fit.encoded.encoder,
            metrics,
            lineage,
        )


def _random_state(device: torch.device) -> torch.Tensor:
    """Return the state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(state: torch.Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _identity(recipe: Recipe, snapshot: Snapshot, here: Ranks) -> dict[str, Any]:
    return {
        "recipe": fingerprint(recipe.training_section()),
        "snapshot": snapshot.fingerprint,
        "world_size": here.world_size,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Read the command line, join the other ranks, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("recipe", "snapshot", "run", "bundle"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--launcher", type=int, metavar="PID", help="leave when it is gone")
    asked = parser.parse_args()
    die_with_parent(asked.launcher)
    asked.run.mkdir(parents=True, exist_ok=True)
    try:
        recipe, snapshot = load_recipe(asked.recipe), Snapshot.open(asked.snapshot)
        settings = load_settings()
        with ranks() as here, listening() as stop:
            paths = asked.run, asked.bundle
            run(recipe, snapshot, *paths, here, stop, settings=settings, fresh=asked.fresh)
    except FeastrainError as error:
        (asked.run / FAILURE).write_text(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
