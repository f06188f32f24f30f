r"""The stage that fits a model; what torchrun executes, here and on a cluster.

    torchrun --nproc-per-node 2 -m feastrain.training.run \
        --recipe R --snapshot S --folder D --bundle B

It exits with the code of `feastrain.errors`: 75 when it was asked to stop and can be resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from datetime import timedelta
from pathlib import Path

import torch

from feastrain.artifacts import publishing
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import FeastrainError
from feastrain.models.bundle import write_bundle
from feastrain.recipe import Recipe, load_recipe
from feastrain.settings import Settings, load_settings
from feastrain.telemetry import Stage, say, stage
from feastrain.training import checkpoint as checkpoints
from feastrain.training.checkpoint import Saver
from feastrain.training.distributed import Ranks, die_with_parent, ranks
from feastrain.training.encoding import encode, memory_share
from feastrain.training.finite import naming_rows
from feastrain.training.fit import Fit
from feastrain.training.observer import About
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
    fit = Fit(recipe, snapshot, encoded, here)
    if fresh and here.leads:
        checkpoints.discard(folder)
    earlier = None if fresh else checkpoints.newest(folder, fit.identity)
    if earlier is not None:
        fit.restore(earlier)
    with stage("fit") if here.leads else contextlib.nullcontext(Stage("fit")) as progress:
        if earlier is not None:
            told = {key: earlier.state[key] for key in ("epochs_done", "row")}
            progress.tell("resumed", **told)
        about = About(recipe, snapshot, folder, bundle, here.world_size, fresh)
        best = earlier.best_file if earlier else None
        with watching(about, settings, progress, leads=here.leads) as observer:
            with Saver(folder, observer.on_checkpoint, best) as saver:
                while not fit.finished:
                    fit.epoch(stop, observer, saver)
            if here.leads:
                publish(fit, snapshot, bundle)
        progress.made(epochs=fit.at.epoch, validation_wmae=round(fit.best_wmae, 2))
    here.wait()


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
        "epochs": fit.at.epoch,
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


def main() -> None:
    """Read the command line, join the other ranks, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("recipe", "snapshot", "folder", "bundle"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--launcher", type=int, metavar="PID", help="leave when it is gone")
    asked = parser.parse_args()
    die_with_parent(asked.launcher)
    asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        recipe, snapshot = load_recipe(asked.recipe), Snapshot.open(asked.snapshot)
        settings = load_settings()
        timeout = timedelta(seconds=settings.training_timeout_seconds)
        with ranks(timeout) as here, naming_rows(snapshot), listening() as stop:
            paths = asked.folder, asked.bundle
            run(recipe, snapshot, *paths, here, stop, settings=settings, fresh=asked.fresh)
    except FeastrainError as error:
        (asked.folder / FAILURE).write_text(f"{error}\n")
        if asked.launcher is None:
            say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
