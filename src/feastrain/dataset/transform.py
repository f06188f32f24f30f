"""The stage that turns raw tables into feature tables: one SQL file, run by DuckDB in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from feastrain.artifacts import (
    file_digest,
    fingerprint,
    is_published,
    open_manifest,
    point,
    publishing,
)
from feastrain.errors import DataError, ProjectError

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.recipe import Transform


@dataclass(frozen=True)
class Engineered:
    """Published feature tables: rows by table, and whether an earlier run had made them."""

    path: Path
    tables: dict[str, int]
    cached: bool


def engineer(root: Path, transform: Transform, directory: Path) -> Engineered:
    """Make the feature tables under `directory` and point the recipe's outputs at them.

    Raises:
        ProjectError: the SQL file or the raw tables are missing, or it makes no table.
        DataError: DuckDB refuses the statement or the data.
    """
    sql, inputs, outputs = (
        root / path for path in (transform.sql, transform.inputs, transform.outputs)
    )
    final, raw = _destination(sql, inputs, directory)
    cached = is_published(final)
    manifest: dict[str, Any] = {"raw": raw}
    if cached:
        manifest = open_manifest(final)
    else:
        with publishing(final, manifest) as scratch:
            manifest["tables"] = run_transform(sql, inputs, scratch)
    point(outputs, final)
    return Engineered(final, manifest["tables"], cached)


def is_engineered(root: Path, transform: Transform, directory: Path) -> bool:
    """Tell whether the recipe's outputs are what `engineer` would make now; writes nothing.

    Raises:
        ProjectError: the SQL file or the raw tables are missing.
    """
    final, _ = _destination(root / transform.sql, root / transform.inputs, directory)
    return is_published(final) and (root / transform.outputs).resolve() == final.resolve()


def run_transform(
    sql: Path, inputs: Path, outputs: Path, compression: str = "zstd"
) -> dict[str, int]:
    """Run `sql` over `inputs/*.parquet` and write every `features.*` table to `outputs`.

    Each `inputs/NAME.parquet` is the view `raw.NAME`. Time is UTC throughout.

    Returns:
        Rows written, by table.

    Raises:
        ProjectError: the SQL file or the raw tables are missing, or it makes no table.
        DataError: DuckDB refuses the statement or the data.
    """
    _require(sql, inputs)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA raw; CREATE SCHEMA features")
        for path in sorted(inputs.glob("*.parquet")):
            literal = str(path).replace("'", "''")
            connection.execute(
                f"CREATE VIEW raw.{_quoted(path.stem)} AS FROM read_parquet('{literal}')"
            )
        try:
            connection.execute(sql.read_text())
        except duckdb.Error as error:
            message = f"{sql}: {' '.join(str(error).split())}"
            raise DataError(message) from error
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = 'features' ORDER BY table_name"
        ).fetchall()
        if not tables:
            message = f"{sql} makes no table in the schema `features`"
            raise ProjectError(message)
        return {name: _export(connection, name, outputs, compression) for (name,) in tables}


def _destination(sql: Path, inputs: Path, directory: Path) -> tuple[Path, dict[str, str]]:
    """Return the folder for the feature tables, and the digests of the raw ones."""
    _require(sql, inputs)
    raw = {path.name: file_digest(path) for path in sorted(inputs.glob("*.parquet"))}
    return directory / fingerprint(file_digest(sql), raw, duckdb.__version__), raw


def _require(sql: Path, inputs: Path) -> None:
    if not sql.is_file():
        message = f"{sql}: no such SQL file; the recipe's transform.sql names it"
        raise ProjectError(message)
    if not any(inputs.glob("*.parquet")):
        message = f"{inputs} holds no *.parquet: make the raw tables first (`feastrain init`)"
        raise ProjectError(message)


def _export(
    connection: duckdb.DuckDBPyConnection, name: str, outputs: Path, compression: str
) -> int:
    literal = str(outputs / f"{name}.parquet").replace("'", "''")
    connection.execute(
        f"COPY features.{_quoted(name)} TO '{literal}' (FORMAT parquet, COMPRESSION {compression})"
    )
    row = connection.execute(f"SELECT count(*) FROM features.{_quoted(name)}").fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
