"""The stage that turns raw tables into feature tables: SQL, run by DuckDB in memory, and Python."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

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
class Steps:
    """The files of a transform: SQL, and Python to follow it."""

    sql: Path
    python: Path | None = None

    @classmethod
    def of(cls, root: Path, transform: Transform) -> Self:
        """Return the files of a recipe's transform."""
        python = root / transform.python if transform.python else None
        return cls(root / transform.sql, python)

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.sql, *([self.python] if self.python else [])]

    def run(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the tables.

        Raises:
            DataError: DuckDB refuses a statement or the data, or a step fails on them.
            ProjectError: the Python file has no `make`.
        """
        try:
            connection.execute(self.sql.read_text())
        except duckdb.Error as error:
            message = f"{self.sql}: {' '.join(str(error).split())}"
            raise DataError(message) from error
        if self.python is None:
            return
        make = runpy.run_path(str(self.python)).get("make")
        if make is None:
            message = f"{self.python} has no function make(connection)"
            raise ProjectError(message)
        try:
            make(connection)
        except (duckdb.Error, ArithmeticError, LookupError, TypeError, ValueError) as error:
            message = f"{self.python}: {type(error).__name__}: {' '.join(str(error).split())}"
            raise DataError(message) from error


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
    steps, inputs = Steps.of(root, transform), root / transform.inputs
    final, raw = _destination(steps, inputs, directory)
    cached = is_published(final)
    manifest: dict[str, Any] = {"raw": raw}
    if cached:
        manifest = open_manifest(final)
    else:
        with publishing(final, manifest) as scratch:
            manifest["tables"] = run_transform(steps, inputs, scratch)
    point(root / transform.outputs, final)
    return Engineered(final, manifest["tables"], cached)


def is_engineered(root: Path, transform: Transform, directory: Path) -> bool:
    """Tell whether the recipe's outputs are what `engineer` would make now; writes nothing.

    Raises:
        ProjectError: the SQL file or the raw tables are missing.
    """
    final, _ = _destination(Steps.of(root, transform), root / transform.inputs, directory)
    return is_published(final) and (root / transform.outputs).resolve() == final.resolve()


def run_transform(
    steps: Steps, inputs: Path, outputs: Path, compression: str = "zstd"
) -> dict[str, int]:
    """Run the steps over `inputs/*.parquet` and write every `features.*` table to `outputs`.

    Each `inputs/NAME.parquet` is the view `raw.NAME`. Time is UTC throughout.

    Returns:
        Rows written, by table.

    Raises:
        ProjectError: a file or the raw tables are missing, or no table is made.
        DataError: DuckDB refuses a statement or the data, or a step fails on them.
    """
    _require(steps, inputs)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA raw; CREATE SCHEMA features")
        for path in sorted(inputs.glob("*.parquet")):
            literal = str(path).replace("'", "''")
            connection.execute(
                f"CREATE VIEW raw.{_quoted(path.stem)} AS FROM read_parquet('{literal}')"
            )
        steps.run(connection)
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = 'features' ORDER BY table_name"
        ).fetchall()
        if not tables:
            message = f"{steps.sql} makes no table in the schema `features`"
            raise ProjectError(message)
        return {name: _export(connection, name, outputs, compression) for (name,) in tables}


def _destination(steps: Steps, inputs: Path, directory: Path) -> tuple[Path, dict[str, str]]:
    """Return the folder for the feature tables, and the digests of the raw ones."""
    _require(steps, inputs)
    raw = {path.name: file_digest(path) for path in sorted(inputs.glob("*.parquet"))}
    return directory / fingerprint(*map(file_digest, steps.files), raw, duckdb.__version__), raw


def _require(steps: Steps, inputs: Path) -> None:
    for path, key in zip(steps.files, ("sql", "python"), strict=False):
        if not path.is_file():
            message = f"{path}: no such file; the recipe's transform.{key} names it"
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
    row = connection.execute(f"SELECT count(*) FROM features.{_quoted(name)}").fetchone()  # noqa: S608 - quoted
    return int(row[0]) if row else 0


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
