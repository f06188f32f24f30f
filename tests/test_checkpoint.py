"""Checkpoints on disk: whole, found, and no more of them than are needed."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

from feastrain.errors import FeastrainError, UsageError
from feastrain.training import members
from feastrain.training.checkpoint import Checkpoint, Saver, discard, newest, save

IDENTITY = {"recipe": "a", "snapshot": "b"}


def _checkpoint(epoch: int, best: str | None = None) -> Checkpoint:
    state = {"identity": IDENTITY, "epochs_done": epoch, "row": 0, "best": best}
    return Checkpoint({"weights.w": torch.full((1000,), float(epoch))}, state)


def test_newest_whole_checkpoint_is_found(tmp_path: Path, capsys) -> None:
    """A damaged or truncated newest checkpoint is reported, and the one before it is used."""
    save(tmp_path, _checkpoint(1))
    last = save(tmp_path, _checkpoint(2))
    last.write_bytes(last.read_bytes()[:-10])
    found = newest(tmp_path, IDENTITY)
    assert found is not None
    assert 1 == found.state["epochs_done"]
    assert last.name in json.loads(capsys.readouterr().err)["text"]


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    """All but the last three and the best are dropped, and what a killed save left behind."""
    (tmp_path / ".epoch-0001.partial").write_bytes(b"half")
    for epoch in range(1, 5):
        save(tmp_path, _checkpoint(epoch))
    assert ["epoch-0002", "epoch-0003", "epoch-0004"] == sorted(
        path.name[:10] for path in tmp_path.iterdir()
    )


def test_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    """A checkpoint made from another recipe names what differs and how to start over."""
    save(tmp_path, _checkpoint(1))
    told = r"epoch-0001-.* \(recipe was a, is z; snapshot was b, is None\); .* --fresh"
    with pytest.raises(UsageError, match=told):
        newest(tmp_path, {"recipe": "z"})


def test_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """A save that runs out of space fails, and the checkpoint before it is still found."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        save(tmp_path, _checkpoint(1))
        large = Checkpoint({"weights.w": torch.zeros(100_000)}, _checkpoint(2).state)
        with pytest.raises(FeastrainError, match=r"no checkpoint can be .* from the one before$"):
            save(tmp_path, large)
        found = newest(tmp_path, IDENTITY)
        assert found is not None
        assert 1 == found.state["epochs_done"]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_the_best_weights_are_those_of_an_older_file(tmp_path: Path) -> None:
    """The file with the best weights is kept however old, and is read with the newest."""
    best = save(tmp_path, _checkpoint(1))
    for epoch in range(2, 6):
        save(tmp_path, _checkpoint(epoch, best.name))
    assert [1, 3, 4, 5] == sorted(int(path.name[6:10]) for path in tmp_path.iterdir())
    found = newest(tmp_path, IDENTITY)
    assert found is not None
    assert (5, best.name) == (found.state["epochs_done"], found.best_file)
    assert found.best is not None
    assert torch.equal(torch.full((1000,), 1.0), found.best["w"])


def test_without_its_best_weights_a_checkpoint_is_none(tmp_path: Path, capsys) -> None:
    """Where the file with the best weights is damaged, the checkpoint before that is used."""
    first = save(tmp_path, _checkpoint(1))
    best = save(tmp_path, _checkpoint(2))
    save(tmp_path, _checkpoint(3, best.name))
    best.write_bytes(b"damaged")
    found = newest(tmp_path, IDENTITY)
    assert found is not None
    assert (1, first.name) == (found.state["epochs_done"], found.best_file)
    assert best.name in capsys.readouterr().err


def test_a_saver_names_the_best_file_in_later_checkpoints(tmp_path: Path) -> None:
    """Saved in the background, one after the other; each is told of, and knows the best so far."""
    seconds: list[float] = []
    best = []
    started = time.perf_counter()
    with Saver(tmp_path, seconds.append, None) as saver:
        for epoch, better in ((1, True), (2, False), (3, False), (4, True), (5, False)):
            saver.save(_checkpoint(epoch), best=better)
            saver.wait()
            found = newest(tmp_path, IDENTITY)
            assert found is not None
            assert found.best is not None
            best.append(float(found.best["w"][0]))
    assert [1, 1, 1, 4, 4] == best
    assert 5 == len(seconds)
    assert 0 < sum(seconds) < time.perf_counter() - started


def test_a_save_that_failed_in_the_background_is_raised(tmp_path: Path) -> None:
    """The call after it says so, and leaving the block does where no other follows."""
    gone = tmp_path / "gone"
    saver = Saver(gone, lambda seconds: None, None)  # noqa: ARG005
    saver.save(_checkpoint(1), best=True)
    with pytest.raises(FeastrainError, match="no checkpoint can be written"):
        saver.wait()
    with pytest.raises(FeastrainError, match="no checkpoint can be written"), saver:
        saver.save(_checkpoint(1), best=True)


def test_a_damaged_newest_checkpoint_does_not_lose_the_run(tmp_path: Path) -> None:
    """The best weights that older checkpoints name are there when those are gone back to."""
    first = save(tmp_path, _checkpoint(1))
    for epoch in (2, 3):
        save(tmp_path, _checkpoint(epoch, first.name))
    save(tmp_path, _checkpoint(4)).write_bytes(b"damaged")
    found = newest(tmp_path, IDENTITY)
    assert found is not None
    assert (3, first.name) == (found.state["epochs_done"], found.best_file)


def test_damaged_checkpoints_ahead_do_not_push_out_new_ones(tmp_path: Path) -> None:
    """After going back past damaged files, what is saved then is kept and they are not."""
    for epoch in (7, 8, 9):
        save(tmp_path, _checkpoint(epoch)).write_bytes(b"damaged")
    save(tmp_path, _checkpoint(2))
    assert ["epoch-0002"] == [path.name[:10] for path in tmp_path.iterdir()]


def test_one_state_is_one_file(tmp_path: Path) -> None:
    """Whatever order its keys were noted in, the bytes, and so the name, are the same."""
    (tmp_path / "other").mkdir()
    made = _checkpoint(1)
    turned = Checkpoint(made.tensors, dict(reversed(made.state.items())))
    assert save(tmp_path, made).name == save(tmp_path / "other", turned).name


def test_a_run_that_starts_over_keeps_no_checkpoint(tmp_path: Path) -> None:
    """Nor what a killed save left; whatever else is in the folder stays."""
    save(tmp_path, _checkpoint(1))
    for name in (".epoch-0002.partial", "epoch-notes.safetensors"):
        (tmp_path / name).write_bytes(b"")
    discard(tmp_path)
    assert ["epoch-notes.safetensors"] == [path.name for path in tmp_path.iterdir()]


def test_a_run_that_starts_over_forgets_all_models(tmp_path: Path) -> None:
    """Checkpoints and boosters, those of members and of a second fit too; nothing else."""
    for folder in (tmp_path, tmp_path / "member-1" / "refit"):
        folder.mkdir(parents=True, exist_ok=True)
        save(folder, _checkpoint(1))
        for name in ("trees-0.5-0.txt", "recipe.yaml"):
            (folder / name).touch()
    members.discard(tmp_path)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert ["recipe.yaml"] * 2 == left
