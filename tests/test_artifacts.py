import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from feastrain.artifacts import fingerprint, is_published, open_manifest, point, publishing
from feastrain.errors import ArtifactError


def _publish(final: Path, content: str = "content") -> None:
    with publishing(final, {"made": "by a test"}) as scratch:
        (scratch / "file.txt").write_text(content)


def test_published_folder_holds_files_and_manifest(tmp_path: Path) -> None:
    """What the block wrote stands under the final name, with its digests."""
    _publish(tmp_path / "made")
    manifest = open_manifest(tmp_path / "made")
    assert ["file.txt"] == list(manifest["files"])
    assert "by a test" == manifest["made"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    """An error inside the block leaves neither the final name nor the scratch folder."""

    def fail_half_way() -> None:
        with publishing(tmp_path / "made", {}) as scratch:
            (scratch / "file.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [] == list(tmp_path.iterdir())


def test_flipped_byte_is_found(tmp_path: Path) -> None:
    """Opening an artefact with one changed byte names the file."""
    _publish(tmp_path / "made")
    path = tmp_path / "made" / "file.txt"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(ArtifactError, match=r"file\.txt is damaged"):
        open_manifest(tmp_path / "made")


def test_missing_file_is_found(tmp_path: Path) -> None:
    """Opening an artefact without one of its files names the file."""
    _publish(tmp_path / "made")
    (tmp_path / "made" / "file.txt").unlink()
    with pytest.raises(ArtifactError, match=r"file\.txt is missing"):
        open_manifest(tmp_path / "made")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """What the system says of it is told, with the file: it may be another user's."""
    with publishing(tmp_path / "made", {}) as scratch:
        (scratch / "a").write_text("1")
    (tmp_path / "made" / "a").unlink()
    (tmp_path / "made" / "a").symlink_to("/proc/self/mem")  # reading its first byte fails
    with pytest.raises(ArtifactError, match=r"made/a cannot be read \(Input/output error\)"):
        open_manifest(tmp_path / "made")


def test_several_publish_at_once(tmp_path: Path) -> None:
    """Eight publishers of one name leave one whole artefact and no scratch folder."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: _publish(tmp_path / "made"), range(8)))
    assert ["made"] == [path.name for path in tmp_path.iterdir()]
    open_manifest(tmp_path / "made")


def test_taken_name_is_refused(tmp_path: Path) -> None:
    """A folder that is no artefact is never overwritten."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("keep")
    with pytest.raises(ArtifactError, match="taken by something else"):
        _publish(tmp_path / "made")
    assert "keep" == (tmp_path / "made" / "mine.txt").read_text()
    assert not is_published(tmp_path / "made")


def test_pointer_moves_to_the_newest(tmp_path: Path) -> None:
    """A pointer leads to the target it was given last, by a relative path."""
    for name in ("one", "two"):
        _publish(tmp_path / "all" / name, name)
        point(tmp_path / "current", tmp_path / "all" / name)
    assert "two" == (tmp_path / "current" / "file.txt").read_text()
    assert not Path((tmp_path / "current").readlink()).is_absolute()


def test_a_pointer_that_leads_there_is_not_touched(tmp_path: Path) -> None:
    """Nothing is written for a target that it has already: others may look at the folder."""
    (tmp_path / "all").mkdir()
    point(tmp_path / "current", tmp_path / "all")
    before = tmp_path.stat().st_mtime_ns, (tmp_path / "current").lstat().st_ino
    point(tmp_path / "current", tmp_path / "all")
    assert before == (tmp_path.stat().st_mtime_ns, (tmp_path / "current").lstat().st_ino)


def test_pointer_spares_a_real_folder(tmp_path: Path) -> None:
    """A real folder where the pointer should be is reported, not replaced."""
    (tmp_path / "current").mkdir()
    with pytest.raises(ArtifactError, match="in the way"):
        point(tmp_path / "current", tmp_path)


def test_fingerprint_ignores_key_order() -> None:
    """Equal content has one fingerprint, however its keys are ordered."""
    content = {"a": 1, "b": [1, 2]}
    assert fingerprint(content) == fingerprint(json.loads('{"b": [1, 2], "a": 1}'))
    assert fingerprint(content) != fingerprint({"a": 1, "b": [2, 1]})
