"""A Feast feature repo: opened, and applied to its registry, through the SDK."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from typing import TYPE_CHECKING, Any

# Before Feast, which sets PROMETHEUS_MULTIPROC_DIR: our metrics are those of one process.
import prometheus_client  # noqa: F401
from google.protobuf.message import DecodeError
from yaml import YAMLError

from feastrain.artifacts import file_digest, fingerprint, locked, write_json
from feastrain.errors import FeastrainError, ProjectError
from feastrain.stores.registry import opened
from feastrain.telemetry import say

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from feast import FeatureStore
    from feast.errors import FeastError
    from feast.repo_config import FeastConfigError
    from feast.repo_contents import RepoContents
    from feast.repo_operations import apply_total, get_repo_files, parse_repo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feastrain.stores.fallback import FallbackOnlineStore

ASOF = "feastrain.stores.asof.AsofOfflineStore"
FALLBACK = "feastrain.stores.fallback.FallbackOnlineStore"
REFUSALS = (FeastConfigError, FeastError, YAMLError, ValueError, TypeError, ImportError, OSError)
"""What Feast raises of a configuration that it does not take."""


def open_store(repo: Path) -> FeatureStore:
    """Open the feature store that `repo/feature_store.yaml` describes.

    Raises:
        ProjectError: no such repo, or Feast refuses its configuration.
        FeastrainError: the registry does not answer.
    """
    if not (repo / "feature_store.yaml").is_file():
        message = f"{repo} is no Feast repo: it has no feature_store.yaml"
        raise ProjectError(message)
    try:
        return opened(lambda: FeatureStore(repo_path=str(repo)))
    except REFUSALS as error:
        message = f"{repo / 'feature_store.yaml'} is refused by Feast: {_one_line(error)}"
        raise ProjectError(message) from error


def read_definitions(repo: Path) -> RepoContents:
    """Return what the repo's files define, or its registry where it has none; changes nothing.

    Raises:
        ProjectError: no such repo, or a file of it cannot be run.
    """
    if not (repo / "feature_store.yaml").is_file():
        message = f"{repo} is no Feast repo: it has no feature_store.yaml"
        raise ProjectError(message)
    if not get_repo_files(repo):
        return _registered(open_store(repo))
    try:
        with _importable(repo), quiet_offline_store(), contextlib.redirect_stdout(io.StringIO()):
            return parse_repo(repo.resolve())
    except Exception as error:  # the repo's files are the user's code and may raise anything
        message = f"{repo} cannot be read: {type(error).__name__}: {_one_line(error)}"
        raise ProjectError(message) from error


def _registered(store: FeatureStore) -> RepoContents:
    with quiet_offline_store():
        return RepoContents(
            projects=[],
            data_sources=store.list_data_sources(),
            entities=store.list_entities(),
            feature_views=store.list_batch_feature_views(),
            on_demand_feature_views=store.list_on_demand_feature_views(),
            stream_feature_views=store.list_stream_feature_views(),
            label_views=store.list_label_views(),
            feature_services=store.list_feature_services(),
            permissions=[],
        )


def apply_repo(repo: Path, stamp: Path) -> bool:
    """Register what the repo's files define, as `feast apply` does, unless nothing changed.

    Of several processes that apply one repo at once, one does; the others wait and find it done.

    Args:
        repo: the feature repo.
        stamp: file that remembers what was applied last.

    Returns:
        Whether the registry was up to date already.

    Raises:
        ProjectError: a file of the repo cannot be run, or Feast refuses what it defines.
    """
    with locked(stamp.with_name(f".{stamp.name}.lock")):
        return _apply_anew(repo, stamp)


def _apply_anew(repo: Path, stamp: Path) -> bool:
    before = _stamped(stamp)
    if before and before["root"] != str(repo.resolve()):
        _forget_copied_registry(repo, before["root"])
    store = open_store(repo)
    now = _state(repo)
    if _has_services(store) and before == now:
        return True
    _apply(store, repo)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    write_json(stamp, now)
    return False


def is_applied(repo: Path, stamp: Path) -> bool:
    """Tell whether the registry holds what the repo's files define; writes nothing.

    Raises:
        ProjectError: no such repo, or Feast refuses its configuration.
    """
    store = open_store(repo)
    return _stamped(stamp) == _state(repo) and _has_services(store)


def _has_services(store: FeatureStore) -> bool:
    try:
        return bool(store.list_feature_services())
    except DecodeError as error:
        path = f"{store.repo_path}/{store.config.registry.path}"
        message = f"the registry {path} is damaged: {error}; remove it, and it is made anew"
        raise ProjectError(message) from error


def _stamped(stamp: Path) -> dict[str, str]:
    before: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # a stamp of another version is none
        before = json.loads(stamp.read_text())
    return before


def _state(repo: Path) -> dict[str, str]:
    """Return where the repo is and a fingerprint of its files."""
    root = repo.resolve()
    files = [*get_repo_files(root), root / "feature_store.yaml"]
    state = fingerprint([(str(path), file_digest(path)) for path in files])
    return {"root": str(root), "state": state}


def _forget_copied_registry(repo: Path, origin: str) -> None:
    """Remove a registry file that was copied along with its project.

    It holds the absolute paths of the project it came from: applying to it would drop the
    online tables of that one.
    """
    config = open_store(repo).config.registry
    path = repo / str(config.path)
    if config.registry_type == "file" and "://" not in str(config.path) and path.is_file():
        say(f"{repo} was copied from {origin}; its registry {path} is made anew.")
        path.unlink()


def endpoints(store: FeatureStore) -> dict[str, tuple[str, int]]:
    """Return the servers that the store's configuration names: host and port, by what they are."""
    found = {}
    parts = {
        "offline store": store.config.offline_store,
        "online store": store.config.online_store,
        "registry": store.config.registry,
    }
    if store.config.online_store.type == FALLBACK:
        parts["online store, primary"] = store.config.online_store.primary
        parts["online store, fallback"] = store.config.online_store.fallback
    for what, config in parts.items():
        host, port = getattr(config, "host", None), getattr(config, "port", None)
        address = str(getattr(config, "connection_string", "") or "").split(",")[0]
        if host and port and not str(host).startswith("/"):  # a path is a local socket
            first = str(host).split(",")[0], int(str(port).split(",")[0])
            found[f"{what} ({config.type})"] = first
        elif ":" in address and address.rpartition(":")[2].isdecimal():
            name, _, number = address.rpartition(":")
            found[f"{what} ({config.type})"] = (name, int(number))
    return found


def online_store_of(store: FeatureStore) -> FallbackOnlineStore | None:
    """Return the online store that Feast itself uses, where it is ours."""
    if str(store.config.online_store.type) != FALLBACK:
        return None
    online: FallbackOnlineStore = store._get_provider().online_store
    return online


def view_of(store: FeatureStore, name: str) -> Any:
    """Return a view of the registry, of whatever kind."""
    return store.registry.get_any_feature_view(name, store.project)


def takes_arrow(store: FeatureStore) -> bool:
    """Tell whether the offline store reads an entity frame as an Arrow table."""
    return str(store.config.offline_store.type) == ASOF


@contextlib.contextmanager
def told_in_one_line(doing: str) -> Iterator[None]:
    """Let whatever Feast, a store of its or a transform of the user's raises end in one line.

    Raises:
        FeastrainError: says what was being done, and what was raised.
    """
    try:
        yield
    except FeastrainError:
        raise
    except Exception as error:  # others' code, which may raise anything
        message = f"{doing}: {type(error).__name__}: {_one_line(error)}"
        raise FeastrainError(message) from error


@contextlib.contextmanager
def quiet_offline_store() -> Iterator[None]:
    """Hush Feast's warnings while it reads, and close what its DuckDB store leaves open.

    That store works through ibis's default connection, which otherwise outlives the
    interpreter and makes DuckDB report leaks on the way out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ibis = sys.modules.get("ibis")
        if ibis is not None and ibis.options.default_backend is not None:
            ibis.options.default_backend.disconnect()
            ibis.options.default_backend = None


def _apply(store: FeatureStore, repo: Path) -> None:
    said = io.StringIO()
    try:
        with _importable(repo), quiet_offline_store(), contextlib.redirect_stdout(said):
            apply_total(store.config, repo.resolve(), skip_source_validation=True)
    except SystemExit as error:
        message = f"{repo} cannot be applied: {_one_line(said.getvalue())}"
        raise ProjectError(message) from error
    except Exception as error:  # the repo's files are the user's code and may raise anything
        message = f"{repo} cannot be applied: {type(error).__name__}: {_one_line(error)}"
        raise ProjectError(message) from error


@contextlib.contextmanager
def _importable(repo: Path) -> Iterator[None]:
    """Let Feast import the repo's modules by name, and forget them afterwards."""
    root = repo.resolve()
    names = {
        ".".join(path.relative_to(root).with_suffix("").parts) for path in get_repo_files(root)
    }
    write_bytecode = sys.dont_write_bytecode
    taken = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    sys.path.insert(0, str(root))
    try:
        with contextlib.chdir(root):
            yield
    finally:
        sys.path.remove(str(root))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(taken)
        sys.dont_write_bytecode = write_bytecode


def _one_line(text: object) -> str:
    return " ".join(str(text).split()) or "no reason given"
