"""The state of a fit: what a checkpoint holds, and how a run goes on from one."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

from feastrain.artifacts import fingerprint
from feastrain.errors import FeastrainError, InterruptedRun
from feastrain.models.architecture import make_module
from feastrain.models.batches import rows_read
from feastrain.telemetry import say
from feastrain.training.checkpoint import Checkpoint
from feastrain.training.loop import Position, Validation, train_epoch, validate

if TYPE_CHECKING:
    from torch import nn

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.recipe import Recipe
    from feastrain.training.checkpoint import Saver
    from feastrain.training.distributed import Ranks
    from feastrain.training.encoding import Encodings
    from feastrain.training.observer import Observer
    from feastrain.training.shutdown import StopRequest

LOOK_EVERY = 16
"""Steps between two looks at whether to stop or save, which ranks take together; a step of a
model that looks back takes long enough to look at each."""


class Fit:
    """A model that is being fitted on one rank, between two steps."""

    def __init__(
        self,
        recipe: Recipe,
        snapshot: Snapshot,
        encoded: Encodings,
        here: Ranks,
        epochs_before: int = 0,
    ) -> None:
        """Begin a fit; `epochs_before` is how many of other fits the run has had."""
        self.recipe, self.encoded, self.here = recipe, encoded, here
        self._epochs_before = epochs_before
        self.identity = {
            "recipe": fingerprint(recipe.training_section()),
            "snapshot": snapshot.fingerprint,
        }
        self.layout = {"world_size": here.world_size, "threads": torch.get_num_threads()}
        training = recipe.training
        torch.manual_seed(training.seed)
        made = encoded.architecture, recipe.members[0]
        self.model = make_module(*made, recompute=training.recompute).to(here.device)
        self.parallel: nn.Module = self.model
        if here.world_size > 1:
            self.parallel = DistributedDataParallel(self.model)
        self.quantiles = torch.tensor(recipe.model.quantiles, device=here.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
        )
        # Dropout draws differ by rank; everything before this line is equal on all.
        torch.manual_seed(training.seed * 1_000_003 + here.rank)
        self.at = Position()
        self.epochs_without_gain = 0
        self.best_wmae = float("inf")
        self.best_pinball = float("inf")
        self.best_epoch = 0
        self.best_weights = self._weights()
        self._saved_at = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last few brought nothing."""
        training = self.recipe.training
        return self.at.epoch >= training.epochs or self.epochs_without_gain >= training.patience

    def epoch(self, stop: StopRequest, observer: Observer, saver: Saver) -> None:
        """Fit one epoch, or what is left of it, score it, and save.

        Args:
            stop: set when this process was asked to stop.
            observer: told of every step.
            saver: writes checkpoints, of the rank that leads.

        Raises:
            InterruptedRun: a rank was asked to stop; a checkpoint is saved.
            FeastrainError: a checkpoint cannot be written.
            DataError: a loss is not finite.
        """
        observer.on_epoch_start(self._epochs_before + self.at.epoch + 1, len(self.encoded.train))
        loss = train_epoch(
            self.parallel,
            self.optimizer,
            self.encoded.train,
            self.recipe.training,
            self.quantiles,
            at=self.at,
            ranks=self.here,
            look_every=1 if self.recipe.model.look_back else LOOK_EVERY,
            look=lambda: self._look(stop, saver),
            on_step=observer.on_step,
        )
        score = self._score()
        self._save(saver, best=self._remember(score))
        if score is not None:
            observer.on_epoch(loss, score)

    def _score(self) -> Validation | None:
        """Score the epoch's weights, where there is something to score them on."""
        if not len(self.encoded.validation):
            return None
        return validate(
            self.model,
            self.encoded.validation,
            self.quantiles,
            batch_rows=self.recipe.training.batch_rows * 8,
            ranks=self.here,
        )

    def _look(self, stop: StopRequest, saver: Saver) -> None:
        """Save where it is time to, and leave where a rank was asked to; all ranks at once."""
        waited = time.monotonic() - self._saved_at
        due = self.here.leads and self.at.step > 0 and waited >= self.recipe.training.checkpoint_s
        asked = self.here.total(torch.tensor([float(stop.received), float(due)]))
        stopping, saving = (asked > 0).tolist()
        if saving or stopping:
            self._save(saver, best=False)
        if stopping:
            saver.wait()
            message = f"asked to stop in epoch {self.at.epoch + 1}; the same command resumes"
            raise InterruptedRun(message)

    def _save(self, saver: Saver, *, best: bool) -> None:
        """Begin to save; every rank takes part."""
        random = self.here.gather(_random_state(self.here.device))
        if self.here.leads:
            saver.save(self._checkpoint(random), best=best)
        self._saved_at = time.monotonic()

    def _remember(self, score: Validation | None) -> bool:
        """Count the epoch, and return whether its weights are the best so far; unscored, always."""
        self.at = Position(epoch=self.at.epoch + 1)
        if score is not None:
            if score.pinball >= self.best_pinball:
                self.epochs_without_gain += 1
                return False
            self.best_pinball, self.best_wmae = score.pinball, score.wmae
        self.best_epoch = self.at.epoch
        self.best_weights = self._weights()
        self.epochs_without_gain = 0
        return True

    def _checkpoint(self, random: list[torch.Tensor]) -> Checkpoint:
        """Return a copy of everything needed to go on from here."""
        tensors = {f"random.{rank}": state for rank, state in enumerate(random)}
        tensors |= {f"weights.{name}": tensor for name, tensor in self._weights().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"optimizer.{index}.{name}"] = _copied(value)
        state = {
            "identity": self.identity,
            "layout": self.layout,
            "epochs_done": self.at.epoch,
            "row": self._rows_read(self.at, self.here.world_size),
            "position": asdict(self.at),
            "epochs_without_gain": self.epochs_without_gain,
            "best_wmae": self.best_wmae,
            "best_pinball": self.best_pinball,
            "best_epoch": self.best_epoch,
        }
        return Checkpoint(tensors, state)

    def restore(self, earlier: Checkpoint) -> None:
        """Go back to where a checkpoint was made.

        With another number of ranks or threads the run goes on at the same row of the epoch, and
        ends in other weights than it would have.

        Raises:
            FeastrainError: another rank found another checkpoint.
        """
        state = earlier.state
        self.model.load_state_dict(earlier.part("weights"))
        assert earlier.best is not None
        self.best_weights = earlier.best
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in earlier.part("optimizer").items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.epochs_without_gain = state["epochs_without_gain"]
        self.best_wmae, self.best_pinball = state["best_wmae"], state["best_pinball"]
        self.best_epoch = state["best_epoch"]
        self.at = Position(**state["position"])
        if state["layout"] == self.layout:
            _set_random_state(earlier.tensors[f"random.{self.here.rank}"], self.here.device)
        else:
            self._move_to_this_layout(state["layout"], state["row"])
        self._require_one_position()

    def _move_to_this_layout(self, before: dict[str, int], row: int) -> None:
        training, rank = self.recipe.training, self.here.rank
        if before["world_size"] != self.here.world_size:
            self.at = Position(epoch=self.at.epoch, first_row=row)
        torch.manual_seed(((training.seed * 1_000_003 + rank) * 1_000_003 + self.at.epoch) + row)
        if self.here.leads:
            told = [f"{name} was {before[name]}, is {now}" for name, now in self.layout.items()]
            say(
                f"Resumed at row {row:,} of epoch {self.at.epoch + 1}, not bit for bit: "
                f"{'; '.join(told)}."
            )

    def _require_one_position(self) -> None:
        mine = torch.tensor([self.at.epoch, self.at.first_row, self.at.step])
        found = [tuple(place.tolist()) for place in self.here.gather(mine)]
        if len(set(found)) > 1:
            message = (
                f"ranks found different checkpoints (epoch, first row, step: {found}); "
                "the run's folder must be the same for all of them"
            )
            raise FeastrainError(message)

    def _rows_read(self, at: Position, world_size: int) -> int:
        rows, training = len(self.encoded.train), self.recipe.training
        if rows - at.first_row < world_size:
            return rows
        return rows_read(
            rows,
            batch_rows=training.batch_rows,
            world_size=world_size,
            first_row=at.first_row,
            step=at.step,
        )

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: _copied(tensor) for name, tensor in self.model.state_dict().items()}


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy in main memory that training does not change."""
    return tensor.detach().to("cpu", copy=True)


def _random_state(device: torch.device) -> torch.Tensor:
    """Return the state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(state: torch.Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
