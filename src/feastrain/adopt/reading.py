"""What a Feast repo defines, reduced to what a forecast can be made from; nothing is registered.

Its Python files are run as `feast apply` runs them; a repo without any is read from its registry.
What a forecast cannot use is left out, and why is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import duckdb

from feastrain.errors import ProjectError
from feastrain.stores.feature_repo import read_definitions

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

USABLE = {"Int32", "Int64", "Float32", "Float64", "Bool", "String"}
"""Feast's types that a model can read: numbers, and text as categories."""


@dataclass(frozen=True)
class Guess:
    """One thing that was decided, what it was decided to be, and why."""

    what: str
    taken: str
    why: str


@dataclass(frozen=True)
class Table:
    """Parquet files with the columns that say when a row happened and when it became known."""

    name: str
    path: Path
    event_timestamp: str
    created: str | None
    columns: dict[str, str]
    """DuckDB's type by column."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Feature by column, where Feast's `field_mapping` says so."""

    @property
    def sql(self) -> str:
        """The rows, as DuckDB reads them."""
        pattern = str(self.path / "**" / "*.parquet") if self.path.is_dir() else str(self.path)
        return "read_parquet('{}')".format(pattern.replace("'", "''"))

    def column_of(self, feature: str) -> str:
        """Return the column that holds a feature."""
        return next((old for old, new in self.renamed.items() if new == feature), feature)


@dataclass(frozen=True)
class View:
    """A feature view on a table of this machine."""

    name: str
    keys: tuple[str, ...]
    features: dict[str, str]
    """Feast's type by feature."""
    ttl: timedelta | None
    table: Table


@dataclass(frozen=True)
class Found:
    """A Feast repo: the views and tables that can be used, and what was left out."""

    repo: Path
    views: tuple[View, ...]
    tables: tuple[Table, ...]
    labelled: frozenset[str]
    """Tables that Feast's label views read."""
    services: dict[str, dict[str, set[str]]]
    """Of each feature service, the features it takes of each view."""
    join_keys: frozenset[str]
    left_out: tuple[Guess, ...]

    def of_service(self, name: str) -> tuple[View, ...]:
        """Return the views of a service with the features that it takes."""
        wanted = self.services[name]
        chosen = (
            replace(
                view, features={f: t for f, t in view.features.items() if f in wanted[view.name]}
            )
            for view in self.views
            if view.name in wanted
        )
        return tuple(view for view in chosen if view.features)


def read_repo(given: Path) -> Found:
    """Read a Feast repo.

    Args:
        given: the folder of `feature_store.yaml`, or the one above it that `feast init` makes.

    Raises:
        ProjectError: it is no Feast repo, its files cannot be run, or no view reads a Parquet file.
    """
    inner = given / "feature_repo"
    is_outer = not (given / "feature_store.yaml").is_file() and inner.is_dir()
    repo = (inner if is_outer else given).resolve()
    defined = read_definitions(repo)
    keys = {entity.name: entity.join_key for entity in defined.entities}
    left_out = [
        Guess(view.name, "left out", _why_on_demand(view))
        for view in defined.on_demand_feature_views
    ]
    views = []
    for view in (*defined.feature_views, *defined.stream_feature_views):
        read = _view(view, repo, keys)
        if isinstance(read, str):
            left_out.append(Guess(view.name, "left out", read))
        else:
            views.append(read)
            left_out += _unusable(view, read)
    if not views:
        reasons = "; ".join(f"{one.what}: {one.why}" for one in left_out) or "it defines none"
        message = f"{repo} has no feature view to forecast from: {reasons}"
        raise ProjectError(message)
    views.sort(key=lambda view: view.name)  # Feast collects them in no order
    labels = [_table(_batch_source(view.source), repo) for view in defined.label_views]
    sources = [_table(_batch_source(source), repo) for source in defined.data_sources]
    tables = {
        t.name: t for t in (*sources, *labels, *(v.table for v in views)) if isinstance(t, Table)
    }
    return Found(
        repo,
        tuple(views),
        tuple(tables.values()),
        frozenset(table.name for table in labels if isinstance(table, Table)),
        _services(defined, tuple(views)),
        frozenset(keys.values()) - {"__dummy_id"},
        tuple(left_out),
    )


def table_of_file(path: Path, name: str = "") -> Table | str:
    """Describe a Parquet file that no source of Feast names, or say why it is none."""
    return _described(name or path.stem, path, None, None, {})


def _services(defined: Any, views: tuple[View, ...]) -> dict[str, dict[str, set[str]]]:
    """Return the features of each service by view; what its on-demand views read included."""
    inputs = {view.name: view for view in defined.on_demand_feature_views}
    services = {}
    for service in defined.feature_services:
        taken: dict[str, set[str]] = {}
        for projection in service.feature_view_projections:
            behind = inputs.get(projection.name)
            read = [projection]
            if behind is not None:
                read = list(behind.source_feature_view_projections.values())
            for one in read:
                taken.setdefault(one.name, set()).update(f.name for f in one.features)
        services[service.name] = taken
    return services or {"forecast": {view.name: set(view.features) for view in views}}


def _view(view: Any, repo: Path, join_keys: dict[str, str]) -> View | str:
    table = _table(_batch_source(view), repo)
    if isinstance(table, str):
        return table
    keys = tuple(join_keys.get(name, name) for name in view.entities if name != "__dummy")
    features = {field.name: str(field.dtype) for field in view.features if field.name not in keys}
    if not features:  # Feast would infer them when it is applied
        times = {table.event_timestamp, table.created}
        features = {
            table.renamed.get(column, column): _feast_type(kind)
            for column, kind in table.columns.items()
            if column not in {*keys, *times}
        }
    usable = {
        name: kind
        for name, kind in features.items()
        if kind in USABLE and table.column_of(name) in table.columns
    }
    if not keys:
        return "it has no entity, and a forecast is made for each series of one"
    if not usable:
        return "it has no number and no text"
    return View(view.name, keys, usable, view.ttl, table)


def _unusable(view: Any, read: View) -> list[Guess]:
    return [
        Guess(f"{view.name}:{field.name}", "left out", f"a model cannot read a {field.dtype}")
        for field in view.features
        if field.name not in read.features and field.name not in read.keys
    ]


def _why_on_demand(view: Any) -> str:
    requests = getattr(view, "source_request_sources", None) or {}
    if requests:
        names = ", ".join(requests)
        return (
            f"it needs data of a request ({names}), which nobody has when forecasts are made ahead"
        )
    return "it is computed on demand: copy its definition to feature_repo/features.py to use it"


def _batch_source(of: Any) -> Any:
    """Return the files behind a view, a push source or a stream."""
    return getattr(of, "batch_source", None) or getattr(of, "source", None) or of


def _table(source: Any, repo: Path) -> Table | str:
    from feast import FileSource

    if not isinstance(source, FileSource):
        return f"it reads {type(source).__name__}; export that to a Parquet file first"
    path = source.path.removeprefix("file://")
    if "://" in path:
        return f"it reads {path}; copy that to this machine first"
    found = repo / path
    return _described(
        source.name,
        found,
        source.timestamp_field or None,
        source.created_timestamp_column or None,
        dict(source.field_mapping or {}),
    )


def _described(
    name: str, path: Path, timestamp: str | None, created: str | None, renamed: dict[str, str]
) -> Table | str:
    if not path.exists():
        return f"it reads {path}, which does not exist"
    table = Table(name, path.resolve(), timestamp or "", created, {}, renamed)
    try:
        with duckdb.connect(":memory:") as connection:
            described = connection.execute(f"DESCRIBE FROM {table.sql}").fetchall()
    except duckdb.Error as error:
        return f"it reads {path}, which DuckDB refuses: {' '.join(str(error).split())}"
    columns = {column: str(kind) for column, kind, *_ in described}
    times = [column for column, kind in columns.items() if "TIMESTAMP" in kind or kind == "DATE"]
    found = next((c for c in (timestamp, "event_timestamp", *times) if c in columns), None)
    if found is None:
        return f"{path} has no column with the time of a row"
    return replace(table, event_timestamp=found, columns=columns)


def _feast_type(kind: str) -> str:
    """Return Feast's name for a DuckDB type, as near as a feature needs."""
    if "INT" in kind:
        return "Int64"
    named = {"FLOAT": "Float32", "DOUBLE": "Float64", "BOOLEAN": "Bool", "VARCHAR": "String"}
    return named.get(kind, kind)
