"""Immutable, content-addressed folders, published whole or not at all.

An artefact is a folder named by the fingerprint of its inputs. It is written beside its
final name, synced to disk, and renamed; `manifest.json` inside holds the SHA-256 of every
other file, so a flipped byte is found when the artefact is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feastrain.errors import ArtifactError, ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def fingerprint(*parts: object) -> str:
    """Return 16 hexadecimal digits that name `parts` (anything JSON can hold, in order)."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of one file, or of every file below a folder, by relative name."""
    if root.is_file():
        return {root.name: file_digest(root)}
    return {
        path.relative_to(root).as_posix(): file_digest(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@contextlib.contextmanager
def publishing(final: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """Yield a scratch folder that becomes `final` when the block ends without an error.

    `manifest` may be filled in during the block; the digests of the files are added to it.
    When another process published `final` meanwhile, its copy stands and ours is dropped:
    both were made from the same inputs.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield scratch
        manifest["files"] = source_digests(scratch)
        write_json(scratch / MANIFEST, manifest)
        for path in scratch.rglob("*"):
            _sync(path)
        _sync(scratch)
        scratch.chmod(0o755)
        with contextlib.suppress(OSError):
            scratch.rename(final)
        if not (final / MANIFEST).is_file():
            message = f"{final} could not be published: the name is taken by something else"
            raise ArtifactError(message)
        _sync(final.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes `root` when the block ends without an error.

    Raises:
        ProjectError: `root` is in use.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        message = f"{root} exists and is not empty; name another folder, or remove it"
        raise ProjectError(message)
    root.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_published(final: Path) -> bool:
    """Tell whether an artefact stands under its final name."""
    return (final / MANIFEST).is_file()


def open_manifest(directory: Path) -> dict[str, Any]:
    """Return an artefact's manifest after checking every file against its digest.

    Raises:
        ArtifactError: a file is missing or its bytes changed since it was published, or the
            manifest names what does not lie in the folder.
    """
    remedy = f"delete {directory} and run the command again to make it anew"
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        message = f"{directory / MANIFEST} cannot be read ({error}); {remedy}"
        raise ArtifactError(message) from error
    for name, expected in _files(directory, manifest).items():
        path = directory / name
        if not path.is_file():
            message = f"{path} is missing; {remedy}"
            raise ArtifactError(message)
        try:
            digest = file_digest(path)
        except OSError as error:
            message = f"{path} cannot be read ({error.strerror}); may this user? If so, {remedy}"
            raise ArtifactError(message) from error
        if digest != expected:
            message = f"{path} is damaged: its bytes are not those that were published; {remedy}"
            raise ArtifactError(message)
    return manifest


def named(folder: Path, name: object) -> Path:
    """Return where an artefact lies that another one names, in a folder of them.

    Raises:
        ArtifactError: it is no name but a path, that could lead elsewhere.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        message = f"{name!r} names no artefact of {folder}: what names it is damaged or made up"
        raise ArtifactError(message)
    return folder / name


def _files(directory: Path, manifest: object) -> dict[str, str]:
    """Return the digests that a manifest lists, all of files in the artefact's own folder."""
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        message = f"{directory / MANIFEST} lists no files: it is not one that feastrain wrote"
        raise ArtifactError(message)
    for name in files:
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts:
            message = f"{directory / MANIFEST} names {name!r}, which is not in its folder"
            raise ArtifactError(message)
    return files


def point(pointer: Path, target: Path) -> None:
    """Make the symbolic link `pointer` lead to `target`, in one atomic step, where it does not."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    leads = os.path.relpath(target, pointer.parent)
    if pointer.is_symlink() and pointer.readlink() == Path(leads):
        return
    if pointer.exists() and not pointer.is_symlink():
        message = f"{pointer} is in the way: it should be a link made by feastrain; move it aside"
        raise ArtifactError(message)
    beside = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(leads)
    beside.replace(pointer)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the block: of several processes one at a time is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, keys in order, so that equal content is equal bytes."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
