"""The same retrieval as one DuckDB statement, written for these tables: what a plugin can reach.

A version of a fact becomes visible when it has both happened and been recorded. Versions that a
newer fact has overtaken by then are dropped first; of the rest, the last visible one is the right
one, which is what ASOF finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrieval_data import table_path

if TYPE_CHECKING:
    from pathlib import Path

    from retrieval_data import Case, View

EXPRESSIONS = {
    "temperature_normalized": "(temperature - 60) / 20",
    "holiday_markdown_interaction": "is_holiday::DOUBLE * ("
    + " + ".join(f"coalesce(markdown_{number}, 0)" for number in range(1, 6))
    + ")",
    "seasonal_sine": "sin(2 * pi() * week_of_year / 52)",
    "seasonal_cosine": "cos(2 * pi() * week_of_year / 52)",
}


def statement(case: Case, folder: Path, entities: str, *, keep_order: bool) -> str:
    """Return the SELECT over the relation `entities`, in its row order if asked for."""
    tables = ",\n".join(f"{view.name} AS ({_visible(view, folder)})" for view in case.views)
    features = ",\n".join(_live(view, name) for view in case.views for name in view.features)
    joins = "\n".join(_join(view) for view in case.views)
    computed = "".join(f",\n{EXPRESSIONS[name]} AS {name}" for name in case.transforms)
    order = "ORDER BY position" if keep_order else ""
    position = "row_number() OVER ()" if keep_order else "NULL"
    return f"""
        WITH entity AS (SELECT *, {position} AS position FROM {entities}),
        {tables},
        joined AS (SELECT entity.*, {features} FROM entity {joins})
        SELECT * EXCLUDE (position) {computed} FROM joined {order}
    """  # noqa: S608


def _visible(view: View, folder: Path) -> str:
    arrival = f"""(
        PARTITION BY {", ".join(view.keys)}
        ORDER BY visible_from, event_timestamp, created_timestamp
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )"""
    return f"""
        SELECT *, greatest(event_timestamp, created_timestamp) AS visible_from
        FROM read_parquet('{table_path(folder, view)}')
        QUALIFY event_timestamp = max(event_timestamp) OVER {arrival}
        AND visible_from IS DISTINCT FROM lead(visible_from) OVER {arrival}
    """  # noqa: S608


def _live(view: View, feature: str) -> str:
    oldest = "entity.event_timestamp - INTERVAL 365 DAY"
    alive = f"{view.name}.event_timestamp >= {oldest}"
    return f"CASE WHEN {alive} THEN {view.name}.{feature} END AS {feature}"


def _join(view: View) -> str:
    same = " AND ".join(f"entity.{key} = {view.name}.{key}" for key in view.keys)
    return f"""
        ASOF LEFT JOIN {view.name}
        ON {same} AND entity.event_timestamp >= {view.name}.visible_from
    """
