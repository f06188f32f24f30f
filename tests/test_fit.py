"""A fit that goes on from a checkpoint of other ranks or threads, and one that cannot."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import FakeWatcher
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import FeastrainError
from feastrain.recipe import load_recipe
from feastrain.training.checkpoint import Checkpoint, Saver, newest
from feastrain.training.distributed import Ranks
from feastrain.training.encoding import encode
from feastrain.training.fit import Fit
from feastrain.training.loop import Position
from feastrain.training.observer import Epoch, Observer, Step
from feastrain.training.shutdown import StopRequest
from tiny_snapshot import tiny_recipe, tiny_snapshot

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
ROWS = 8 * 40


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"))


def begun(snapshot: Snapshot, folder: Path, here: Ranks = ALONE) -> Fit:
    recipe = load_recipe(tiny_recipe(folder))
    return Fit(recipe, snapshot, encode(recipe, snapshot, folder, CPU, 1 << 30), here)


def fitted(fit: Fit, folder: Path) -> list[Any]:
    """Fit an epoch, and return what a watcher sees of its steps and its score."""
    watcher = FakeWatcher()
    observer = Observer(3, [watcher])
    with Saver(folder, lambda _: None, None) as saver:
        fit.epoch(StopRequest(), observer, saver)
    return watcher.events


def saved(snapshot: Snapshot, folder: Path) -> Checkpoint:
    """Return the checkpoint after an epoch."""
    fit = begun(snapshot, folder)
    fitted(fit, folder)
    found = newest(folder, fit.identity)
    assert found is not None
    return found


def with_state(checkpoint: Checkpoint, **state: Any) -> Checkpoint:
    return replace(checkpoint, state=checkpoint.state | state)


def test_other_threads_go_on_at_the_same_step(
    snapshot: Snapshot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What they change is said; where the fit is they do not."""
    place = {"epoch": 1, "first_row": 0, "step": 4, "loss": 2.0}
    layout = {"world_size": 1, "threads": 99}
    earlier = with_state(saved(snapshot, tmp_path), layout=layout, position=place, row=128)
    fit = begun(snapshot, tmp_path)
    fit.restore(earlier)
    assert Position(**place) == fit.at
    told = f"threads was 99, is {torch.get_num_threads()}"
    assert "Resumed at row 128 of epoch 2, not bit for bit: " in (err := capsys.readouterr().err)
    assert told in err


def test_one_rank_speaks_for_all(
    snapshot: Snapshot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others move to another layout and say nothing."""
    earlier = with_state(saved(snapshot, tmp_path), layout={"world_size": 2, "threads": 1}, row=64)
    fit = begun(snapshot, tmp_path, Ranks(1, 1, CPU))
    fit.restore(earlier)
    assert Position(epoch=1, first_row=64) == fit.at
    assert "" == capsys.readouterr().err


def test_an_epoch_that_others_have_read_is_scored_without_a_step(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    """Two ranks were stopped after its last row; the one that goes on has no row left."""
    layout = {"world_size": 2, "threads": 1}
    earlier = with_state(saved(snapshot, tmp_path), layout=layout, row=ROWS)
    fit = begun(snapshot, tmp_path)
    fit.restore(earlier)
    before = {name: tensor.clone() for name, tensor in fit.model.state_dict().items()}
    (epoch,) = fitted(fit, tmp_path)
    assert (Epoch, 2) == (type(epoch), fit.at.epoch)
    assert all(torch.equal(before[name], now) for name, now in fit.model.state_dict().items())
    assert Step in map(type, fitted(fit, tmp_path))


def test_an_epoch_of_fewer_rows_than_ranks_is_read_at_once(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    """No rank has a row for each of the others, so there is no step to be in."""
    fit = begun(snapshot, tmp_path)
    assert [ROWS, 64] == [fit._rows_read(Position(step=1), ranks) for ranks in (ROWS + 1, 2)]


@dataclass(frozen=True)
class AnotherPlace(Ranks):
    """Ranks of which another one is a step ahead."""

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        return [values, values + torch.tensor([0, 0, 1])]


def test_ranks_with_different_checkpoints_are_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    """Each would go on from its own folder; the line says where they are."""
    earlier = saved(snapshot, tmp_path)
    fit = begun(snapshot, tmp_path, AnotherPlace(0, 1, CPU))
    told = re.escape("(epoch, first row, step: [(1, 0, 0), (1, 0, 1)]); the run's folder must be")
    with pytest.raises(FeastrainError, match=told):
        fit.restore(earlier)
