"""A snapshot brought to a node: whole or not at all, once for all pods of the node."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import ArtifactError, FeastrainError
from feastrain.jobs.fetch import fetch
from tiny_snapshot import tiny_snapshot


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Where snapshots are kept."""
    return tiny_snapshot(tmp_path / "store", parts=3).path


@pytest.mark.parametrize("address", [str, Path.as_uri])
def test_a_snapshot_is_copied_whole(
    published: Path, tmp_path: Path, address: Callable[[Path], str]
) -> None:
    """From a mounted folder and from an address, and once only."""
    copy = fetch(address(published), tmp_path / "node")
    assert published.name == copy.name
    assert Snapshot.open(published).manifest == Snapshot.open(copy).manifest
    before = copy.stat().st_ino
    assert before == fetch(address(published), tmp_path / "node").stat().st_ino
    assert [copy.name] == [path.name for path in copy.parent.glob("[!.]*")]


def test_pods_of_one_node_share_a_copy(published: Path, tmp_path: Path) -> None:
    """Of four that start at once, one copies; none sees a part."""
    node = tmp_path / "node"
    command = [sys.executable, "-m", "feastrain.jobs.fetch", str(published), str(node)]
    pods = [subprocess.Popen(command) for _ in range(4)]
    assert [0] * 4 == [pod.wait() for pod in pods]
    assert [published.name] == [path.name for path in node.iterdir() if path.is_dir()]


def test_a_copy_that_was_damaged_is_fetched_again(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped byte on the node's disk costs another fetch, which is said."""
    copy = fetch(str(published), tmp_path / "node")
    part = next(copy.glob("part-*"))
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert copy == fetch(str(published), tmp_path / "node")
    assert Snapshot.open(published).manifest == Snapshot.open(copy).manifest
    assert "it is fetched again" in capsys.readouterr().err


def test_a_source_that_is_damaged_gets_no_name(published: Path, tmp_path: Path) -> None:
    """Nothing of it is trained on, and what a killed fetch left is swept."""
    part = next(published.glob("part-*"))
    part.write_bytes(b"x" + part.read_bytes()[1:])
    for _ in range(2):
        with pytest.raises(ArtifactError, match="is damaged"):
            fetch(str(published), tmp_path / "node")
    left = [path.name for path in (tmp_path / "node").iterdir() if path.is_dir()]
    assert 1 == len(left)
    assert left[0].startswith(f".{published.name}.part-")


def test_a_source_that_is_not_there_is_said(tmp_path: Path) -> None:
    """One line names it, with the code of the error."""
    with pytest.raises(FeastrainError, match=r"/absent cannot be fetched: .*; see that pods may"):
        fetch(str(tmp_path / "absent"), tmp_path / "node")
