import re
import subprocess
import sys
from pathlib import Path

import pytest

from feastrain import Project
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import ArtifactError, ProjectError
from tiny_snapshot import tiny_snapshot


@pytest.mark.parametrize("table", ["part-00000", "known", "labels"])
def test_a_flipped_byte_is_found_on_open(tmp_path: Path, table: str) -> None:
    """One changed bit in any table of a snapshot is told with the file it is in."""
    snapshot = tiny_snapshot(tmp_path)
    path = snapshot.path / f"{table}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=re.escape(f"{table}.parquet is damaged")):
        Snapshot.open(snapshot.path)


def test_a_snapshot_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    """A missing folder is a usage error with the verb that makes it."""
    with pytest.raises(ProjectError, match="feastrain build"):
        Snapshot.open(tmp_path / "none")


BUILDER = """
import sys
import feastrain.dataset.build
from feastrain import Project
print("ready", flush=True)
sys.stdin.readline()
Project(sys.argv[1]).build("smoke")
"""


def test_two_builds_at_once_publish_one_snapshot(tmp_path: Path, small_tables: Path) -> None:
    """Two processes start together where nothing is made yet: both end well, with one snapshot."""
    project = Project.init(tmp_path / "demand", small_tables)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(project.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert ["ready\n"] * 2 == [process.stdout.readline() for process in both if process.stdout]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=200)[1] for process in both]
    assert [0, 0] == [process.returncode for process in both], said
    folder = project.artifacts / "snapshots"
    made = sorted(path.name for path in folder.iterdir() if not path.is_symlink())
    assert [project.snapshot("smoke").fingerprint, "smoke.built.json"] == made
    assert len(project.snapshot("smoke").rows()) > 0
