"""A new project: the reference application copied into a folder, with its raw tables made."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from feastrain.artifacts import fingerprint, new_folder, point, publishing, source_digests
from feastrain.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

TEMPLATE = "demand"
RAW = Path("data/raw")


class DataModule(Protocol):
    """What a project's `data.py` offers: raw tables from a folder, or made from a seed."""

    def prepare(self, source: Path | None, destination: Path, seed: int = 0) -> dict[str, Any]:
        """Write the raw tables as Parquet files into `destination` and say what they are."""


def scaffold(root: Path, source: Path | None, seed: int) -> dict[str, Any]:
    """Make the folder `root` a project on the tables in `source`, or on synthetic ones.

    Nothing appears at `root` unless all of it succeeds.

    Returns:
        What `data.py` says of the raw tables.

    Raises:
        ProjectError: `root` is in use.
        UsageError: `source` is no folder.
        DataError: the tables are refused.
    """
    if source is not None and not source.is_dir():
        message = f"{source}: no such folder of raw tables; --data names the folder that holds them"
        raise UsageError(message)
    with (
        new_folder(root) as scratch,
        as_file(files("feastrain") / "templates" / TEMPLATE) as template,
    ):
        shutil.copytree(
            template,
            scratch,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "__init__.py"),
        )
        return _make_raw_tables(scratch, source, seed)


def _make_raw_tables(root: Path, source: Path | None, seed: int) -> dict[str, Any]:
    identity = source_digests(source) if source else {"seed": seed}
    code = [source_digests(path) for path in sorted(root.glob("*.py"))]
    final = root / "artifacts" / "raw" / fingerprint(identity, code)
    manifest: dict[str, Any] = {}
    with publishing(final, manifest) as scratch:
        facts = _load(root / "data.py").prepare(source, scratch, seed)
        manifest.update(facts)
    point(root / RAW, final)
    return facts


def _load(path: Path) -> DataModule:
    """Import the project's `data.py`, its siblings importable, leaving nothing behind."""
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location("feastrain_project_data", path)
        assert spec is not None
        assert spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return cast("DataModule", module)
    finally:
        sys.path.remove(str(path.parent))
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) and str(path.parent) in str(
                sys.modules[name].__file__
            ):
                del sys.modules[name]
