"""What a run tells those who watch it.

The loop calls one `Observer`, which works out rates and the time that is left and passes each
event to every watcher: progress on the terminal, Prometheus, MLflow, Kubeflow. Only rank 0 has
watchers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Protocol

from feastrain.recipe import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.recipe import Recipe
    from feastrain.telemetry import Stage
    from feastrain.training.loop import Validation

REFRESH_SECONDS = 0.1
"""Least time between two looks at the progress: a step may take less than a millisecond."""

Outcome = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class About:
    """What is known of a run before its first step.

    `folder` holds the run and is named by its fingerprint; `bundle` is where its outcome will be.
    """

    recipe: Recipe
    snapshot: Snapshot
    folder: Path
    bundle: Path
    world_size: int
    fresh: bool

    @property
    def epochs(self) -> int:
        """The most that all networks of the recipe are fitted for."""
        networks = [member for member in self.recipe.members if member.kind in NETWORKS]
        training = self.recipe.training
        return training.epochs * len(networks) * (1 + training.refit)

    @property
    def name(self) -> str:
        """The fingerprint of the run."""
        return self.folder.name


@dataclass(frozen=True, slots=True)
class Step:
    """A step has ended: `epoch` of `epochs`, `step` of `steps`, both counted from 1.

    `loss` is the mean of the epoch so far, `rows` were read in this step by all ranks together,
    `remaining_seconds` assumes that no epoch is saved by patience.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    rows: int
    loss: float
    gradient_norm: float
    seconds: float
    rows_per_s: float
    remaining_seconds: float

    @property
    def done(self) -> int:
        """Steps that are done of all epochs."""
        return (self.epoch - 1) * self.steps + self.step


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch was fitted, in `seconds`, and scored on the validation rows after that."""

    epoch: int
    loss: float
    validation_loss: float
    validation_wmae: float
    seconds: float
    rows_per_s: float
    remaining_seconds: float


@dataclass(frozen=True, slots=True)
class Boosted:
    """Rounds of a booster are done, `done` of `rounds` at the most; boosters count from 1."""

    booster: int
    boosters: int
    done: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint was written, in `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """The run is over; where it is finished, its bundle is published."""

    outcome: Outcome


Event = Step | Epoch | Boosted | Saved | End


class Watcher(Protocol):
    """Someone outside who wants to know how the run goes."""

    def see(self, event: Event) -> None:
        """Take note of one event; quickly, since the run waits, and without an error."""


class Observer:
    """Measures a run as it goes and tells its watchers; without watchers it does nothing."""

    def __init__(
        self,
        epochs: int,
        watchers: Sequence[Watcher] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._epochs, self._watchers, self._clock = epochs, watchers, clock
        self._started = self._epoch_started = self._step_ended = clock()
        self._epoch = self._rows = 0
        self._steps_here = self._rows_here = 0
        self._remaining = 0.0

    def on_epoch_start(self, epoch: int, rows: int) -> None:
        """Note that an epoch begins.

        Args:
            epoch: counted from 1.
            rows: rows of a whole epoch, of all ranks together.
        """
        self._epoch, self._rows, self._rows_here = epoch, rows, 0
        self._epoch_started = self._step_ended = self._clock()
        if not self._steps_here:
            self._started = self._epoch_started

    def on_step(self, step: int, steps: int, loss: float, gradient_norm: float) -> None:
        """Tell of a step that ended, `step` of `steps` from 1, and the epoch's mean loss so far."""
        if not self._watchers:
            return
        now = self._clock()
        rows = self._rows * step // steps - self._rows * (step - 1) // steps
        self._steps_here, self._rows_here = self._steps_here + 1, self._rows_here + rows
        left = (self._epochs - self._epoch + 1) * steps - step
        self._remaining = (now - self._started) / self._steps_here * left
        event = Step(
            epoch=self._epoch,
            epochs=self._epochs,
            step=step,
            steps=steps,
            rows=rows,
            loss=loss,
            gradient_norm=gradient_norm,
            seconds=now - self._step_ended,
            rows_per_s=self._rows_here / max(now - self._epoch_started, 1e-9),
            remaining_seconds=self._remaining,
        )
        self._step_ended = now
        self._tell(event)

    def on_epoch(self, loss: float, validation: Validation) -> None:
        """Tell of an epoch that was fitted with mean `loss` and then scored."""
        seconds = self._step_ended - self._epoch_started
        event = Epoch(
            epoch=self._epoch,
            loss=loss,
            validation_loss=validation.pinball,
            validation_wmae=validation.wmae,
            seconds=seconds,
            rows_per_s=self._rows_here / max(seconds, 1e-9),
            remaining_seconds=self._remaining,
        )
        self._tell(event)

    def on_boosted(self, booster: int, boosters: int, done: int, rounds: int) -> None:
        """Tell how far a booster is, `booster` of this rank's `boosters` from 1."""
        self._tell(Boosted(booster, boosters, done, rounds))

    def on_checkpoint(self, seconds: float) -> None:
        """Tell of a checkpoint that was written; another thread than the loop's may."""
        self._tell(Saved(seconds))

    def on_end(self, outcome: Outcome) -> None:
        """Tell how the run ended."""
        self._tell(End(outcome))

    def _tell(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher.see(event)


class Progress:
    """Shows a run in its stage: a line that fills in on a terminal, JSON lines elsewhere."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._shown = stage, float("-inf")

    def see(self, event: Event) -> None:
        """Show a step, an epoch or a booster."""
        match event:
            case Step():
                now = time.perf_counter()
                if now - self._shown < REFRESH_SECONDS:
                    return
                self._shown = now
                self._stage.advance(
                    event.done,
                    event.epochs * event.steps,
                    epoch=f"{event.epoch}/{event.epochs}",
                    loss=round(event.loss, 5),
                    rows_per_s=round(event.rows_per_s),
                    eta=timedelta(seconds=round(event.remaining_seconds)),
                )
            case Boosted(booster, boosters, done, rounds):
                told = f"{booster}/{boosters}"
                self._stage.advance((booster - 1) * rounds + done, boosters * rounds, booster=told)
            case Epoch():
                self._stage.tell(
                    "epoch",
                    epoch=event.epoch,
                    loss=round(event.loss, 5),
                    validation_wmae=round(event.validation_wmae, 2),
                    seconds=round(event.seconds, 2),
                    rows_per_s=round(event.rows_per_s),
                    eta=timedelta(seconds=round(event.remaining_seconds)),
                )
            case _:
                pass
