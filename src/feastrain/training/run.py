r"""The stage that fits a model; what torchrun executes, here and on a cluster.

    torchrun --nproc-per-node 2 -m feastrain.training.run \
        --recipe R --snapshot S --folder D --bundle B

It exits with the code of `feastrain.errors`: 75 when it was asked to stop and can be resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from feastrain.artifacts import publishing
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import FeastrainError
from feastrain.models.bundle import write_bundle
from feastrain.models.calibration import Calibration, calibrate
from feastrain.models.events import special_ahead
from feastrain.models.mixture import Mixture
from feastrain.settings import Settings, load_settings
from feastrain.telemetry import Stage, bind, log_as_lines, say, stage
from feastrain.training.distributed import Ranks, die_with_parent, ranks
from feastrain.training.files import FAILURE, fitted, recipe_of_run
from feastrain.training.members import Members, discard
from feastrain.training.observer import About
from feastrain.training.shutdown import StopRequest, listening
from feastrain.training.usage import Usage, peaks
from feastrain.training.watching import watching
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feastrain.models.encoder import Encoder
    from feastrain.recipe import Recipe
    from feastrain.training.observer import Watcher


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
    watchers: Sequence[Watcher] = (),
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
        watchers: who watches it besides.
    """
    if fresh and here.leads:
        discard(folder)
    here.wait()
    with stage("fit") if here.leads else contextlib.nullcontext(Stage("fit")) as progress:
        about = About(recipe, snapshot, folder, bundle, here.world_size, fresh)
        with watching(about, settings, progress, watchers, leads=here.leads) as observer:
            members = Members(recipe, snapshot, folder, here, stop, observer, progress)
            resumed, started = bool(fitted(folder)), time.monotonic()
            encoder = members.fit()
            seconds = None if resumed else time.monotonic() - started
            if here.leads:
                scores = publish(members, encoder, bundle)
                progress.made(epochs=members.epochs, validation_wmae=scores["validation_wmae"])
        peak, on_device = peaks(here)  # all ranks are done once each has told
        if here.leads:
            Usage(snapshot.fingerprint, here.world_size, peak, on_device, seconds).save(folder)


def publish(members: Members, encoder: Encoder, bundle: Path) -> dict[str, float]:
    """Publish what was fitted with the encoder, the scores and where it all came from."""
    recipe, snapshot = members.recipe, members.snapshot
    manifest = snapshot.manifest
    lineage = {
        "snapshot": snapshot.fingerprint,
        "recipe": recipe.without_code(),
        "row_features": manifest["row_features"],
        "known_features": manifest["known_features"],
        "service": manifest["service"],
        "first_period": manifest["periods"]["first"],
        "feastrain": __version__,
        "torch": torch.__version__,
        "world_size": members.here.world_size,
    }
    scores, calibration = _judge(members, encoder)
    metrics = {"epochs": members.epochs, **scores}
    with publishing(bundle, {}) as scratch:
        final = Mixture(tuple(members.final), recipe.weights)
        write_bundle(scratch, final, encoder, calibration, metrics, lineage)
    return metrics


def _judge(members: Members, encoder: Encoder) -> tuple[dict[str, float], Calibration]:
    """Score and calibrate the models on the validation rows, which they did not see."""
    snapshot, quantiles = members.snapshot, members.recipe.model.quantiles
    rows, known = snapshot.rows("validation"), snapshot.known()
    scored = Mixture(tuple(members.scored), members.recipe.weights)
    past = snapshot.rows() if scored.looks_back else None
    forecast_NHQ = scored.forecast(encoder, rows, known, past)
    label_NH, weight_NH = encoder.labels(rows)
    unit_N = encoder.unit(rows)
    error_NHQ = (label_NH * unit_N[:, None])[:, :, None] - forecast_NHQ
    level_Q = np.asarray(quantiles)
    pinball_NHQ = np.maximum(level_Q * error_NHQ, (level_Q - 1) * error_NHQ)
    middle, weight = quantiles.index(0.5), weight_NH.sum()
    wmae = (weight_NH * np.abs(error_NHQ[:, :, middle])).sum() / weight
    pinball = (weight_NH * pinball_NHQ.mean(axis=2)).sum() / weight
    scores = {"validation_wmae": round(float(wmae), 4), "validation_pinball": float(pinball)}
    seen_NH = np.where(weight_NH > 0, label_NH * unit_N[:, None], np.nan)
    event = members.recipe.label.event
    special_NH = special_ahead(rows, known, encoder.columns, event)
    return scores, calibrate(seen_NH, forecast_NHQ, unit_N, special_NH, quantiles)


def main() -> None:
    """Read the command line, join the other ranks, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("recipe", "snapshot", "folder", "bundle"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--launcher", type=int, metavar="PID", help="leave when it is gone")
    asked = parser.parse_args()
    log_as_lines()
    die_with_parent(asked.launcher)
    asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        recipe, snapshot = recipe_of_run(asked.recipe), Snapshot.open(asked.snapshot)
        bind(run=asked.folder.name, snapshot=snapshot.fingerprint)
        settings = load_settings()
        timeout = timedelta(seconds=settings.training_timeout_seconds)
        with ranks(timeout) as here, listening() as stop:
            paths = asked.folder, asked.bundle
            run(recipe, snapshot, *paths, here, stop, settings=settings, fresh=asked.fresh)
    except FeastrainError as error:
        if not _left_word(asked.folder, error) or asked.launcher is None:
            say(str(error))
        sys.exit(error.exit_code)


def _left_word(folder: Path, error: FeastrainError) -> bool:
    """Write why the run ends where the launcher looks, and tell whether that could be written."""
    try:
        (folder / FAILURE).write_text(f"{error}\n")
    except OSError:  # the disk may be what failed
        (folder / FAILURE).unlink(missing_ok=True)
        return False
    return True


if __name__ == "__main__":
    main()
