"""A training run whose disk fills, or that is killed: one line, then the rest.

A link that is cut and a node that is lost are in `tests/test_two_nodes.py`.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING

import pytest
from nodes import require

from gangs import launcher, same_weights, started, until
from tiny_snapshot import tiny_recipe, tiny_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from outcomes import Outcome

pytestmark = [pytest.mark.faults, pytest.mark.distributed]
EPOCHS = 60


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return trained(folder, folder / "artifacts")


def trained(folder: Path, artifacts: Path, **environment: str) -> Path:
    """Train to the end, and return the bundle."""
    with started(command(folder, artifacts), **environment) as process:
        _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    (bundle,) = {path.resolve() for path in (artifacts / "bundles").iterdir()}
    return bundle


def command(folder: Path, artifacts: Path) -> list[str]:
    """Return the command of a run in two ranks."""
    snapshot = tiny_snapshot(folder)
    recipe = tiny_recipe(folder, EPOCHS)
    return launcher(recipe, snapshot.path, artifacts)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mount a disk of a size for the length of the block."""
    folder.mkdir()
    size = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills(
    undisturbed: Path, tmp_path: Path, outcome_of: Callable[[str, str], Outcome]
) -> None:
    """The run ends in one line that says where; with room, the same command ends in its bundle."""
    require("mount")
    outcome = outcome_of("training", "the disk fills")
    artifacts = tmp_path / "artifacts"
    with small_disk(artifacts, 4096):
        filler = artifacts / "filler"
        with started(command(tmp_path, artifacts)) as process:
            until(lambda: any(artifacts.rglob("epoch-*.safetensors")), "a checkpoint")
            began = time.monotonic()
            filler.write_bytes(bytes(shutil.disk_usage(artifacts).free))
            _, told = process.communicate(timeout=120)
        ended = time.monotonic() - began
        assert process.returncode == 1, told
        assert "Traceback" not in told
        assert "No space left on device (os error 28)); make room, and the same command" in told
        filler.unlink()
        same = same_weights(undisturbed, trained(tmp_path, artifacts))
    outcome.add({"other weights": int(not same)}, {"until it ended": ended}, survived=same)
    assert same


def test_a_rank_that_is_killed_again_and_again(
    undisturbed: Path,
    tmp_path: Path,
    outcome_of: Callable[[str, str], Outcome],
    times: int,
) -> None:
    """The whole run is killed at a moment of its own each time; the bundle is the same."""
    outcome = outcome_of("training", "kill -9 of the whole run, then the same command")
    artifacts = tmp_path / "artifacts"
    for strike in range(times):
        with started(command(tmp_path, artifacts)) as process:
            until(lambda: any(artifacts.rglob("epoch-*.safetensors")), "a checkpoint")
            time.sleep(0.2 + 0.3 * (strike % 3))
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(1)
    same = same_weights(undisturbed, trained(tmp_path, artifacts))
    for _ in range(times):
        outcome.add({"other weights": int(not same)}, {}, survived=same)
    assert same
