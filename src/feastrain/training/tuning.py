"""The search for better values of a recipe's keys: trials that are fitted, scored and compared.

Optuna proposes values (TPE, Bergstra et al. 2011) and ends trials that are worse than the median
of the others at the same epoch. A study lives in one SQLite file, and every trial is a run like
any other: after a kill the study goes on, and the trial from its last checkpoint.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import yaml

from feastrain.artifacts import fingerprint, is_published, locked
from feastrain.errors import DataError, RecipeError, UsageError
from feastrain.recipe import Choices, Range, Recipe, place_of, with_values
from feastrain.shown import Shown
from feastrain.telemetry import say
from feastrain.training.distributed import ranks
from feastrain.training.members import discard
from feastrain.training.observer import Epoch, Event
from feastrain.training.run import run
from feastrain.training.shutdown import listening

if TYPE_CHECKING:
    from pathlib import Path

    from optuna import Study, Trial

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.settings import Settings

BEST = "best.yaml"
COMPARED_AFTER = 4
"""Trials that run to their end before any is ended for being worse than the median."""
WARM_UP = 2
"""The first epoch that is compared."""


@dataclass(frozen=True)
class Tried:
    """One trial."""

    number: int
    outcome: str
    """`finished`, `pruned` (worse than the median of the others), or `failed`."""
    wmae: float | None
    """On the validation rows; of a trial that was pruned, when it was."""
    epochs: int
    values: dict[str, Any]
    """By the key of the recipe."""


@dataclass(frozen=True)
class Tuned(Shown):
    """A study: its trials, the best first, and the recipe of the best."""

    path: Path
    trials: tuple[Tried, ...]

    @property
    def recipe(self) -> Path:
        """The best recipe."""
        return self.path / BEST

    def to_json(self) -> dict[str, Any]:
        """Return the study as plain JSON values."""
        trials = [asdict(trial) for trial in self.trials]
        return {"path": str(self.path), "recipe": str(self.recipe), "trials": trials}


class _Pruned(Exception):  # noqa: N818 - no error: the trial is not worth its time
    """The trial is worse than the median of the others."""


def tune(
    recipe_path: Path,
    recipe: Recipe,
    snapshot: Snapshot,
    artifacts: Path,
    trials: int,
    *,
    settings: Settings,
) -> Tuned:
    """Try values of the recipe's `tune` until `trials` are done, earlier ones counted in.

    The first trial is the recipe as it is. All are fitted in this process: a step reads as many
    rows as those of all `training.processes` together.

    Raises:
        UsageError: Optuna is not installed, or the recipe says nothing of what to try.
        RecipeError: a key or a value of `tune` is none of the recipe's.
        InterruptedRun: it was asked to stop; the same command goes on.
        FeastrainError: no trial could be fitted.
    """
    _require(recipe)
    space = {key: of.model_dump(mode="json") for key, of in recipe.tune.items()}
    about = fingerprint(snapshot.fingerprint, recipe.training_section(), space)
    folder = artifacts / "studies" / about
    with locked(folder / "lock"):
        study = _study(folder, recipe)
        _resume(study)
        while _done(study) < trials:
            _try(study, recipe, snapshot, artifacts, settings)
        tried = sorted(map(_tried, _told(study)), key=_rank)
        if not tried or tried[0].outcome != "finished":
            message = f"none of {trials} trials could be fitted; see {folder} and widen `tune`"
            raise UsageError(message)
        content = yaml.safe_load(recipe_path.read_text())
        _write_best(folder / BEST, content, recipe, tried[0])
    return Tuned(folder, tuple(tried))


def _require(recipe: Recipe) -> None:
    if importlib.util.find_spec("optuna") is None:
        message = "Optuna is not installed: pip install 'feastrain[tune]'"
        raise UsageError(message)
    if not recipe.tune:
        message = (
            f"recipe {recipe.name!r} does not say what to try: give it e.g. "
            "`tune: {training.learning_rate: {low: 0.001, high: 0.01, log: true}}`"
        )
        raise RecipeError(message)
    for values in zip(*(of.extremes for of in recipe.tune.values()), strict=False):
        with_values(recipe, dict(zip(recipe.tune, values, strict=True)))


def _study(folder: Path, recipe: Recipe) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{folder / 'study.db'}"
    study = optuna.create_study(
        storage=url,
        study_name=recipe.name,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=COMPARED_AFTER, n_warmup_steps=WARM_UP),
    )
    # A study that goes on must not draw again what it drew in the beginning.
    seed = recipe.training.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    if not study.trials:
        as_is = recipe.model_dump(mode="json")
        places = {key: place_of(as_is, key) for key in recipe.tune}
        values = {key: section[last] for key, (section, last) in places.items()}
        if all(recipe.tune[key].holds(value) for key, value in values.items()):
            study.enqueue_trial({key: _coded(recipe.tune[key], of) for key, of in values.items()})
    return study


def _resume(study: Study) -> None:
    """Put a trial that was killed first in the queue: its run goes on from its checkpoint."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _try(
    study: Study, recipe: Recipe, snapshot: Snapshot, artifacts: Path, settings: Settings
) -> None:
    from optuna.trial import TrialState

    trial = study.ask()
    values = {key: _drawn(trial, key, of) for key, of in recipe.tune.items()}
    trial.set_user_attr("values", values)
    candidate = _alone(with_values(recipe, values))
    name = fingerprint(snapshot.fingerprint, candidate.training_section())
    folder, bundle = artifacts / "runs" / name, artifacts / "bundles" / name
    folder.mkdir(parents=True, exist_ok=True)
    say(f"Trial {trial.number}: {_said(values)}")
    judge = _Judge(trial)
    try:
        if not is_published(bundle):
            timeout = timedelta(seconds=settings.training_timeout_seconds)
            with ranks(timeout) as here, listening() as stop:
                about = (candidate, snapshot, folder, bundle, here, stop)
                run(*about, settings=settings, fresh=False, watchers=(judge,))
    except _Pruned:
        study.tell(trial, state=TrialState.PRUNED)
        discard(folder)
    except DataError as error:
        say(f"Trial {trial.number} failed: {error}")
        trial.set_user_attr("why", str(error))
        study.tell(trial, state=TrialState.FAIL)
    else:
        metrics = json.loads((bundle / "metrics.json").read_text())
        trial.set_user_attr("epochs", metrics["epochs"])
        study.tell(trial, metrics["validation_wmae"])


class _Judge:
    """Watches a run, and ends it where it is worse than the median of the others."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._epochs = trial, 0

    def see(self, event: Event) -> None:
        """Report an epoch.

        Raises:
            _Pruned: it is not worth going on.
        """
        if isinstance(event, Epoch):
            self._epochs += 1
            # After a resume the epochs before are those of the trial that was killed.
            self._trial.report(event.validation_wmae, max(self._epochs, event.epoch))
            self._trial.set_user_attr("epochs", max(self._epochs, event.epoch))
            if self._trial.should_prune():
                raise _Pruned


def _alone(recipe: Recipe) -> Recipe:
    """Return a recipe for one process whose steps read as many rows as those of all."""
    training = recipe.training
    rows = training.batch_rows * training.processes
    alone = training.model_copy(update={"batch_rows": rows, "processes": 1})
    return recipe.model_copy(update={"training": alone})


def _drawn(trial: Trial, key: str, of: Range | Choices) -> Any:
    if isinstance(of, Choices):
        coded = [_coded(of, choice) for choice in of.choices]
        return json.loads(trial.suggest_categorical(key, coded))
    if isinstance(of.low, int) and isinstance(of.high, int):
        return trial.suggest_int(key, of.low, of.high, log=of.log)
    return trial.suggest_float(key, of.low, of.high, log=of.log)


def _coded(of: Range | Choices, value: Any) -> Any:
    """Return a value as Optuna keeps it: a choice, which may be a list, as JSON."""
    return json.dumps(value) if isinstance(of, Choices) else value


def _told(study: Study) -> list[Any]:
    """Return the trials that are done; one that was killed is none of them."""
    from optuna.trial import TrialState

    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    failed = TrialState.FAIL
    return [trial for trial in ended if trial.state is not failed or "why" in trial.user_attrs]


def _done(study: Study) -> int:
    return len(_told(study))


def _tried(trial: Any) -> Tried:
    outcomes = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    return Tried(
        number=trial.number,
        outcome=outcomes[trial.state.name],
        wmae=trial.value,
        epochs=trial.user_attrs.get("epochs", 0),
        values=trial.user_attrs["values"],
    )


def _rank(tried: Tried) -> tuple[int, float]:
    wmae = float("inf") if tried.wmae is None else tried.wmae
    return ("finished", "pruned", "failed").index(tried.outcome), wmae


def _said(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _write_best(path: Path, content: dict[str, Any], recipe: Recipe, best: Tried) -> None:
    """Write the recipe with the best values; what it does not say stays unsaid."""
    written = {key: value for key, value in content.items() if key != "tune"}
    written["name"] = f"{recipe.name}-tuned"
    for key, value in best.values.items():
        section, last = place_of(written, key)
        section[last] = value
    head = f"# {recipe.name}.yaml with the best of the values that `feastrain tune` tried: "
    head += f"trial {best.number}, WMAE {best.wmae:,.2f} on the validation rows.\n"
    path.write_text(head + yaml.safe_dump(written, sort_keys=False))
