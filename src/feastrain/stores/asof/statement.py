"""The point-in-time join as one DuckDB statement: what `to_sql` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast.infra.offline_stores.file_source import FileSource

from feastrain.errors import UsageError

if TYPE_CHECKING:
    from feastrain.stores.asof.views import ViewJoin

ROW = "__row"


def asof_statement(
    joins: list[ViewJoin],
    columns: list[str],
    timestamp: str,
    *,
    entities: str | None,
    repo: str,
    lenient: bool,
) -> str:
    """Return a DuckDB statement that joins every view as of each entity row, in row order.

    Times are compared to the microsecond; the session's time zone is to be UTC.

    Args:
        joins: the views, each on Parquet.
        columns: of the entity frame.
        timestamp: its column that says as of when.
        entities: a query that yields it; None where it is the table `entity_frame`.
        repo: where relative paths start.
        lenient: whether a value may be read before it was created.

    Raises:
        UsageError: a view is not on Parquet.
    """
    frame = f"({entities})" if entities else "entity_frame"
    parts = [f"entities AS (SELECT *, row_number() OVER () AS {ROW} FROM {frame})"]
    chosen = [f"entities.{_quoted(name)}" for name in columns]
    clauses = ["FROM entities"]
    for number, join in enumerate(joins):
        name = f"view_{number}"
        parts.append(f"{name} AS ({_source(join, repo, lenient=lenient)})")
        clauses.append(_clause(join, name, timestamp))
        chosen += [_feature(join, name, f, timestamp) for f in join.features]
    with_parts = ",\n".join(parts)
    select = ",\n    ".join(chosen)
    body = "\n".join(clauses)
    return f"WITH {with_parts}\nSELECT\n    {select}\n{body}\nORDER BY entities.{ROW}"


def _source(join: ViewJoin, repo: str, *, lenient: bool) -> str:
    """Return the query for the rows that count: the last of their time, and when each was known."""
    if not isinstance(join.source, FileSource):
        message = f"view {join.view!r} is not on Parquet, so the join is no single statement"
        raise UsageError(message)
    path = FileSource.get_uri_for_file_path(repo, join.source.path).replace("'", "''")
    files = path if path.endswith(".parquet") or "*" in path else f"{path}/**/*.parquet"
    event, created = _moment(_quoted(join.event_timestamp)), None
    if join.created_timestamp:
        created = _moment(_quoted(join.created_timestamp))
    keys = ", ".join(_quoted(key) for key in join.keys)
    partition = f"PARTITION BY {keys} " if keys else ""
    known = event if lenient or created is None else f"greatest({event}, {created})"
    usable = f"{event} IS NOT NULL"
    if created and not lenient:
        usable += f" AND {created} IS NOT NULL"
    order = f"{event}, {created} NULLS FIRST" if created else event
    later = f"{partition}ORDER BY {order} ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING"
    return (
        f"SELECT *, {known} AS __known "
        f"FROM read_parquet('{files}', hive_partitioning = true) WHERE {usable} "
        f"QUALIFY coalesce(__known < min(__known) OVER ({later}), true)"
    )


def _clause(join: ViewJoin, name: str, timestamp: str) -> str:
    on = [
        f"entities.{_quoted(ours)} = {name}.{_quoted(theirs)}" for theirs, ours in join.keys.items()
    ]
    on.append(f"{_moment(f'entities.{_quoted(timestamp)}')} >= {name}.__known")
    return f"ASOF LEFT JOIN {name} ON {' AND '.join(on)}"


def _feature(join: ViewJoin, name: str, feature: str, timestamp: str) -> str:
    value, alias = f"{name}.{_quoted(join.features[feature])}", _quoted(feature)
    if join.ttl is None:
        return f"{value} AS {alias}"
    age = f"INTERVAL {join.ttl // join.ttl.resolution} MICROSECONDS"
    event = _moment(f"{name}.{_quoted(join.event_timestamp)}")
    fresh = f"{event} >= {_moment(f'entities.{_quoted(timestamp)}')} - {age}"
    return f"CASE WHEN {fresh} THEN {value} END AS {alias}"


def _moment(column: str) -> str:
    """Return a time in the one type that all kinds of timestamps are compared in."""
    return f"{column}::TIMESTAMPTZ"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
