"""A snapshot brought to a node of a cluster, once for all pods that run there.

    python -m feastrain.jobs.fetch s3://shop/snapshots/3f6b0c9d2a417e58 /feastrain/snapshots

copies it below the folder from where Arrow's file systems reach it: a mounted volume, S3, Google or
Azure storage. A copy has its name only once every byte is checked against the manifest; one that
was damaged since is fetched again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileSystem, LocalFileSystem, copy_files

from feastrain.artifacts import is_published, locked, open_manifest
from feastrain.errors import ArtifactError, FeastrainError
from feastrain.telemetry import say


def fetch(source: str, folder: Path) -> Path:
    """Return the copy of an artefact below a folder, made unless it is there and whole.

    Of several processes that ask for the same one, one copies and the others wait for it.

    Args:
        source: its address or path, which ends in its fingerprint.
        folder: on a disk of this node.

    Raises:
        ArtifactError: the bytes that came are not those that were published.
        FeastrainError: the source cannot be read.
    """
    final = folder / source.rstrip("/").rpartition("/")[2]
    with locked(folder / f".{final.name}.lock"):
        if not _is_whole(final):
            _copy(source, final)
    return final


def _is_whole(final: Path) -> bool:
    if not is_published(final):
        return False
    try:
        open_manifest(final)
    except ArtifactError as error:
        say(f"{error}; it is fetched again")
        return False
    return True


def _copy(source: str, final: Path) -> None:
    for rest in (final, *final.parent.glob(f".{final.name}.part-*")):
        shutil.rmtree(rest, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.part-", dir=final.parent))
    try:
        store, path = FileSystem.from_uri(source)
        copy_files(path, str(scratch), store, LocalFileSystem())
    except (OSError, ArrowException) as error:
        told = str(error).splitlines()[0]
        message = f"{source} cannot be fetched: {told}; see that pods may read it"
        raise FeastrainError(message) from error
    open_manifest(scratch)
    scratch.chmod(0o755)
    scratch.rename(final)


def main(arguments: list[str]) -> int:
    """Fetch one artefact, and return the exit code."""
    source, folder = arguments
    try:
        fetch(source, Path(folder))
    except FeastrainError as error:
        say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
