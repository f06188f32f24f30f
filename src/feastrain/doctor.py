"""What is installed, reachable or missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from feastrain.errors import FeastrainError
from feastrain.project import Project
from feastrain.settings import load_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

    from feastrain.recipe import Recipe
    from feastrain.settings import Settings

PACKAGES = {
    "feast": ("retrieval and the online store", "pip install feastrain", False),
    "duckdb": ("feature engineering", "pip install feastrain", False),
    "torch": ("training and serving", "pip install torch, then 'feastrain[train]'", False),
    "fastapi": ("serving", "pip install 'feastrain[serve]'", False),
    "lightgbm": ("a baseline", "pip install 'feastrain[baselines]'", True),
    "great_expectations": ("a second engine of checks", "pip install 'feastrain[gx]'", True),
    "psycopg": ("PostgreSQL stores", "pip install 'feastrain[postgres]'", True),
    "redis": ("Redis stores", "pip install 'feastrain[redis]'", True),
    "optuna": ("the search of `tune`", "pip install 'feastrain[tune]'", True),
    "mlflow": ("records of runs", "pip install 'feastrain[mlflow]'", True),
    "kubeflow": ("jobs on Kubernetes", "pip install 'feastrain[jobs]'", True),
}
LEAST_FREE_BYTES = 2 << 30
LOCAL = ("127.", "::1", "localhost")
VERIFIED = ("verify-ca", "verify-full")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it is, and what to do when it is not well."""

    what: str
    well: bool
    found: str
    mend: str = ""
    optional: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return asdict(self)


def examine(root: Path) -> list[Finding]:
    """Look at this machine and at the project in `root`; changes nothing."""
    return [_python(), *_packages(), _disk(root), *_project(root)]


def show_findings(findings: list[Finding]) -> None:
    """Print the findings as one table."""
    table = Table(title="feastrain doctor", title_style="bold")
    for heading in ("", "what", "found", "mend"):
        table.add_column(heading)
    for finding in findings:
        mark = "[green]✓[/]" if finding.well else ("[dim]-[/]" if finding.optional else "[red]✗[/]")
        told = (finding.what, finding.found, "" if finding.well else finding.mend)
        table.add_row(mark, *map(escape, told))  # `feastrain[serve]` is no markup
    Console(highlight=False).print(table)


def _python() -> Finding:
    return Finding(
        "Python 3.11 or newer",
        sys.version_info >= (3, 11),
        platform.python_version(),
        "install Python 3.11 or newer",
    )


def _packages() -> Iterator[Finding]:
    for name, (purpose, mend, optional) in PACKAGES.items():
        installed = importlib.util.find_spec(name) is not None
        found = _version(name) if installed else "not installed"
        yield Finding(f"{name} ({purpose})", installed, found, mend, optional)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "installed"


def _disk(root: Path) -> Finding:
    existing = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Finding(
        "disk space", free >= LEAST_FREE_BYTES, f"{free / 2**30:.1f} GiB free", "free some space"
    )


def _project(root: Path) -> Iterator[Finding]:
    project = Project(root)
    try:
        settings = project.settings
    except FeastrainError as error:
        yield Finding("settings", well=False, found=str(error), mend="correct the variable")
        return
    yield _artifacts(project)
    yield from _cluster()
    yield from _service(settings)
    recipes = sorted((project.root / "recipes").glob("*.yaml"))
    if not recipes:
        yield Finding(
            "project", well=False, found=f"{root} has no recipes/", mend="feastrain init demand"
        )
        return
    for path in recipes:
        yield _recipe(project, path)
    yield from _stores(project, str(recipes[0]))


def _artifacts(project: Project) -> Finding:
    """Look at whether stages can publish."""
    folder = project.artifacts
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    well = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    found = "can be written to" if well else f"{existing} cannot be written to"
    return Finding("artifacts", well, found, "correct FEASTRAIN_ARTIFACTS, or the folder's rights")


def _cluster() -> Iterator[Finding]:
    """Look at the settings of a cluster, which are read by its verbs alone."""
    try:
        load_cluster()
    except FeastrainError as error:
        yield Finding("cluster", well=False, found=str(error), mend="correct the variable")


def _service(settings: Settings) -> Iterator[Finding]:
    """Look at where `serve` would listen, and at who may ask."""
    with socket.socket() as probe:
        free = probe.connect_ex((settings.host, settings.port)) != 0
    yield Finding(
        f"port {settings.port}", free, "free" if free else "in use", "serve --port N", optional=True
    )
    if importlib.util.find_spec("fastapi") is None:
        return
    from feastrain.serving.access import tokens_of

    try:
        guarded = tokens_of(settings) is not None
    except FeastrainError as error:
        yield Finding("who may ask", well=False, found=str(error), mend="correct the tokens")
        return
    alone = settings.host.startswith(LOCAL)
    found = "who has a token" if guarded else f"whoever reaches {settings.host}"
    mend = "set FEASTRAIN_SERVE_TOKENS_FILE, or FEASTRAIN_HOST to 127.0.0.1"
    yield Finding("who may ask", guarded or alone, found, mend)


def _recipe(project: Project, path: Path) -> Finding:
    try:
        recipe = project.recipe(path)
    except FeastrainError as error:
        return Finding(f"recipe {path.stem}", well=False, found=str(error), mend="correct it")
    return Finding(
        f"recipe {path.stem}", well=True, found=f"{recipe.model.kind}, H={recipe.horizon}"
    )


def _stores(project: Project, recipe: str) -> Iterator[Finding]:
    """Look at what earlier stages left behind: registry, online store, bundle."""
    try:
        from feastrain.stores.feature_repo import endpoints, open_store

        asked = project.recipe(recipe)
        store = open_store(project.root / asked.features.repo)
    except (FeastrainError, ImportError) as error:
        yield Finding(
            "feature store", well=False, found=str(error), mend="correct the feature repo"
        )
        return
    yield Finding("feature store", well=True, found=f"project {store.project}")
    for what, (host, port) in endpoints(store).items():
        yield _endpoint(what, host, port)
    yield from _verified(store)
    yield _online(project, store, asked, recipe)
    yield _bundle(project, asked, recipe)


def _verified(store: FeatureStore) -> Iterator[Finding]:
    """Look at whether servers on other machines are asked who they are."""
    config = store.config.online_store
    for what, part in (
        ("offline store", store.config.offline_store),
        ("online store", getattr(config, "fallback", config)),
    ):
        host, mode = getattr(part, "host", None), getattr(part, "sslmode", None)
        if host and mode not in VERIFIED and not str(host).startswith((*LOCAL, "/")):
            found = f"{host} may be anybody: sslmode is {mode or 'require'}"
            mend = "sslmode: verify-full and sslrootcert_path in feature_store.yaml"
            yield Finding(f"{what}, TLS", well=False, found=found, mend=mend)


def _online(project: Project, store: FeatureStore, asked: Recipe, recipe: str) -> Finding:
    """Look at how old the features are that would be served."""
    from feastrain.dataset.service import resolve_service
    from feastrain.stores.feature_repo import view_of

    what, mend = "features online", f"feastrain materialize {recipe}"
    try:
        service = resolve_service(store, asked)
        views = [*service.sources, *service.elsewhere]
        ends = [view_of(store, name).most_recent_end_time for name in views]
    except FeastrainError as error:
        return Finding(what, well=False, found=str(error), mend=f"feastrain build {recipe}")
    if None in ends:
        return Finding(what, well=False, found="never materialised", mend=mend, optional=True)
    oldest = min(end for end in ends if end is not None)
    most = project.settings.max_feature_age_seconds
    fresh = most is None or time.time() - oldest.timestamp() <= most
    return Finding(what, fresh, f"as of {oldest:%Y-%m-%d}", mend)


def _bundle(project: Project, asked: Recipe, recipe: str) -> Finding:
    """Look at what would be served: whether every byte is as it was published, and signed."""
    what, mend = f"bundle of {asked.name}", f"feastrain train {recipe}"
    if not project.bundle_pointer(recipe).exists():
        return Finding(what, well=False, found="not trained yet", mend=mend, optional=True)
    try:
        bundle = project.bundle(recipe)
    except FeastrainError as error:
        return Finding(what, well=False, found=str(error), mend=f"{mend}, or sign it")
    return Finding(what, well=True, found=bundle.fingerprint)


def _endpoint(what: str, host: str, port: int) -> Finding:
    try:
        with socket.create_connection((host, port), timeout=2):
            return Finding(what, well=True, found=f"{host}:{port} answers")
    except OSError as error:
        return Finding(
            what,
            well=False,
            found=f"{host}:{port}: {error}",
            mend="start it, or correct feature_store.yaml",
        )
