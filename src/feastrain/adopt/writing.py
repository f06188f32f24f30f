"""A proposal as files: a recipe, the labels' SQL, and a Feast repo of the project's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from feastrain.adopt.looking import listed, quoted
from feastrain.recipe import format_period

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from pathlib import Path

    from feastrain.adopt.guessing import Proposal
    from feastrain.adopt.reading import Found, Table, View

STORE = """# The project's own Feast: it reads the tables of {repo},
# and neither its registry nor its online store. All files; docs/serving.md has the servers.
project: {project}
provider: local
registry: data/registry.db
offline_store:
  type: feastrain.stores.asof.AsofOfflineStore
online_store:
  type: sqlite
  path: data/online_store.db
entity_key_serialization_version: 3
"""


def write_project(root: Path, found: Found, proposal: Proposal) -> None:
    """Write the files of a project into the folder `root`."""
    repo, recipes, raw = root / "feature_repo", root / "recipes", root / "data" / "raw"
    for folder in (repo, recipes, raw):
        folder.mkdir(parents=True)
    project = "".join(letter if letter.isalnum() else "_" for letter in found.repo.parent.name)
    (repo / "feature_store.yaml").write_text(STORE.format(repo=found.repo, project=project))
    (repo / "features.py").write_text(_definitions(found, proposal))
    (root / "labels.sql").write_text(_labels(proposal))
    (recipes / "mlp.yaml").write_text(_recipe(found, proposal))
    source = proposal.label.table.path
    (raw / f"{source.stem}.parquet").symlink_to(source)


def _labels(proposal: Proposal) -> str:
    label = proposal.label
    table, keys = label.table, listed(proposal.entities)
    at = f"{quoted(table.event_timestamp)}::TIMESTAMPTZ"
    value = f"{quoted(label.column)}::DOUBLE"
    lines = [
        "-- The labels: one row for each series and period. No feature view reads this table.",
        "CREATE TABLE features.labels AS",
        f"SELECT DISTINCT {keys}, {at} AS event_timestamp,",
        f"  {value} AS {quoted(proposal.label_name)}",
        f"FROM raw.{quoted(table.path.stem)}",
        f"WHERE isfinite({value}) -- a period without a value is left out, not filled",
    ]
    if proposal.grid.since is not None:
        since = proposal.grid.since.isoformat()
        lines.append(f"  AND {at} >= TIMESTAMPTZ '{since}' -- few rows, long before the others")
    if table.created is not None:
        order = f"PARTITION BY {keys}, {at} ORDER BY {quoted(table.created)} DESC"
        lines.append(f"QUALIFY row_number() OVER ({order}) = 1 -- the last correction")
    return "\n".join([*lines, f"ORDER BY {keys}, event_timestamp;", ""])


def _definitions(found: Found, proposal: Proposal) -> str:
    kinds = sorted({kind for view, _ in proposal.views for kind in view.features.values()})
    keys = {key: view.table for view, _ in proposal.views for key in view.keys}
    names = _identifiers([view.name for view, _ in proposal.views])
    head = [
        f'"""The features of {found.repo} that forecasts are made from."""',
        "",
        "from datetime import timedelta",
        "from pathlib import Path",
        "",
        "from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType",
        f"from feast.types import {', '.join(kinds)}",
        "",
        f"THERE = Path({str(found.repo)!r})",
        "",
    ]
    entities = [_entity(key, table) for key, table in keys.items()]
    views = [_view(view, names[view.name], found.repo) for view, _ in proposal.views]
    service = (
        f"{_identifier(proposal.service)}_service = FeatureService(\n"
        f"    name={proposal.service!r},\n"
        f"    features=[{', '.join(names.values())}],\n)"
    )
    return "\n".join(head) + "\n".join(entities) + "\n\n" + "\n".join(views) + "\n" + service + "\n"


def _entity(key: str, table: Table) -> str:
    kind = "STRING" if table.columns[key] == "VARCHAR" else "INT64"
    name = f"{_identifier(key)}_entity"
    return f"{name} = Entity(name={key!r}, join_keys=[{key!r}], value_type=ValueType.{kind})"


def _view(view: View, name: str, repo: Path) -> str:
    table = view.table
    source = [
        f"name={table.name!r}",
        f"path=str(THERE / {os.path.relpath(table.path, repo)!r})",
        f"timestamp_field={table.event_timestamp!r}",
    ]
    if table.created is not None:
        source.append(f"created_timestamp_column={table.created!r}")
    if table.renamed:
        source.append(f"field_mapping={table.renamed!r}")
    fields = [f"Field(name={f!r}, dtype={kind})" for f, kind in view.features.items()]
    entities = ", ".join(f"{_identifier(key)}_entity" for key in view.keys)
    return (
        f"{name} = FeatureView(\n    name={view.name!r},\n    entities=[{entities}],\n"
        f"    ttl={_ttl(view.ttl)},\n"
        f"    source=FileSource(\n        {_lines(source, 8)}\n    ),\n"
        f"    schema=[\n        {_lines(fields, 8)}\n    ],\n)\n"
    )


def _lines(items: Sequence[str], indent: int) -> str:
    return ("\n" + " " * indent).join(f"{item}," for item in items)


def _ttl(ttl: timedelta | None) -> str:
    return f"timedelta(seconds={int(ttl.total_seconds() if ttl else 0)})"


def _identifier(name: str) -> str:
    plain = "".join(letter if letter.isalnum() else "_" for letter in name)
    return plain if plain.isidentifier() else f"_{plain}"


def _identifiers(names: list[str]) -> dict[str, str]:
    return {name: _identifier(name) for name in names}


def _recipe(found: Found, proposal: Proposal) -> str:
    whys = {guess.what: guess.why for guess in proposal.guesses}
    roles = [f"    {view.name}: {role} # {whys[view.name]}" for view, role in proposal.views]
    units = list(proposal.label_units)
    lines = [
        f"# {proposal.label.name} {proposal.horizon} periods ahead, from {found.repo}",
        "# Proposed by `feastrain init --from`: read it, and correct what was guessed wrong.",
        "name: mlp",
        "",
        f"entities: {_flow(proposal.entities)}",
        f"frequency: {format_period(proposal.grid.frequency)}",
        f"season: {proposal.season} # periods, for the seasonal baselines",
        f"horizon: {proposal.horizon} # {whys['horizon']}",
        "",
        "transform:",
        "  sql: labels.sql",
        "  inputs: data/raw",
        "  outputs: data/features",
        f"  known_at: {{{proposal.label.table.path.stem}: {proposal.label.table.event_timestamp}}}",
        "",
        "label:",
        "  source: data/features/labels.parquet",
        f"  column: {proposal.label_name}",
        "",
        "features:",
        "  repo: feature_repo",
        f"  service: {proposal.service}",
        "  roles:",
        *roles,
        *([f"  period_key: {proposal.period_key}"] if proposal.period_key else []),
        *([f"  stepped: {_flow(proposal.stepped)}"] if proposal.stepped else []),
        f"  categorical: {_flow(proposal.categorical)}",
        *([f"  label_units: {_flow(units)}"] if units else []),
        *([f"  unit: {_flow(proposal.unit)} # {whys[proposal.unit[0]]}"] if proposal.unit else []),
        "",
        f"split: {{validation_cutoffs: {proposal.held_out}, test_cutoffs: {proposal.held_out}}}",
        "",
        "expectations:",
        f"  - {{unique: {_flow((*proposal.entities, 'event_timestamp'))}}}",
        "  - {column: label_1, type: float, max_null_fraction: 0.5, severity: warn}",
        "",
        "model: {kind: mlp, hidden: [128, 64]}",
        "",
        "training: {epochs: 10, learning_rate: 0.003, processes: 1}",
    ]
    return "\n".join(lines) + "\n"


def _flow(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"
