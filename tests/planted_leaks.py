"""Leaks planted in a copy of the reference application, and a fast reader of its copies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feastrain.dataset.retrieve import steps_ahead
from feastrain.stores.replica import views_behind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from feastrain.dataset.audit.copies import Copies
    from feastrain.dataset.join import Joined

COMING = "lead(sales) OVER series"
"""The sales of the first week after the cut-off: label_1."""

LEAKS = {
    # The three classics, computed from the week that is to be forecast.
    "sales_normalized": f"{COMING} / avg(sales) OVER (series ROWS 51 PRECEDING)",
    "sales_per_sqft": f"{COMING} / size",
    "markdown_efficiency": f"{COMING} / (1 + abs(coalesce(markdown_1, 0)))",
    # Windows that reach over the cut-off.
    "lag_off_by_one": "lag(sales, -1) OVER series",
    "mean_with_target": "avg(sales) OVER (series ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING)",
    "centred_window": "avg(sales) OVER (series ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING)",
    # Statistics of the whole period.
    "scaled_by_all_weeks": "(sales - avg(sales) OVER whole) / stddev_pop(sales) OVER whole",
    "encoded_by_all_weeks": "avg(sales) OVER (PARTITION BY dept)",
    # What is told by whether the future has rows at all.
    "weeks_to_come": "count(sales) OVER (series ROWS BETWEEN 1 FOLLOWING AND 4 FOLLOWING)",
    # Sales as they were corrected, said to be known when the week closed.
    "corrected_sales": "sales",
}
"""Of features.planted, whose rows say that they are known when their week closes."""

SQL = f"""
CREATE TABLE features.planted AS
SELECT grid.store, grid.dept, random() AS dice,
    {", ".join(f"({value})::DOUBLE AS {name}" for name, value in LEAKS.items())},
    close_of(week) AS event_timestamp,
    close_of(week) AS created_timestamp
FROM grid
JOIN raw.stores ON stores.store = grid.store
LEFT JOIN raw.externals ON externals.store = grid.store AND externals.date = week + 7
WINDOW series AS (PARTITION BY grid.store, grid.dept ORDER BY week),
    whole AS (PARTITION BY grid.store, grid.dept);

CREATE TABLE features.planted_static AS
SELECT sales.store, avg(weekly_sales) AS usual_sales_of_store,
    any_value(close_of(first_week - INTERVAL 52 WEEK)) AS event_timestamp,
    any_value(close_of(first_week - INTERVAL 52 WEEK)) AS created_timestamp
FROM raw.sales, (SELECT DISTINCT first_week FROM weeks)
GROUP BY ALL;

-- The facts of a week, dated by its first day: when they were not known.
CREATE TABLE features.planted_early AS
SELECT store, temperature AS temperature_too_early,
    close_of(date - 7) AS event_timestamp,
    close_of(date - 7) AS created_timestamp
FROM raw.externals;
"""

REPO = f"""

def planted(name, entities, fields):
    return FeatureView(
        name=name, entities=entities, ttl=timedelta(days=3650), source=table(name),
        schema=[Field(name=field, dtype=Float64) for field in fields],
    )


planted_leaks = planted("planted", [store, dept], {["dice", *LEAKS]!r})
planted_static = planted("planted_static", [store], ["usual_sales_of_store"])
planted_early = planted("planted_early", [store], ["temperature_too_early"])
planted_service = FeatureService(
    name="planted",
    features=[
        sales_history_features, external(), store_static_features, calendar_features,
        computed_features, planted_leaks, planted_static, planted_early,
    ],
)
"""

PLANTED = {f"planted:{name}" for name in LEAKS} | {
    "planted_static:usual_sales_of_store",
    "planted_early:temperature_too_early",
}
"""Every planted leak, by reference."""

DICE = "planted:dice"
"""Is never the same twice."""


def plant(root: Path) -> None:
    """Plant every leak in a project, and correct one sale in ten three weeks late."""
    append(root / "features.sql", SQL)
    append(root / "feature_repo" / "features.py", REPO)
    for path in (root / "recipes").glob("*.yaml"):
        text = path.read_text()
        text = text.replace("demand_forecasting_service", "planted")
        # The planted service goes without the baseline: hundreds of transforms are run.
        text = text.replace("  python: baseline.py\n", "")
        text = re.sub(r"    seasonal_baseline_features: .*\n", "", text)
        roles = "".join(
            f"    {view}: observed\n" for view in ("planted", "planted_static", "planted_early")
        )
        path.write_text(text.replace("  roles:\n", f"  roles:\n{roles}"))
    correct_late(root / "data" / "raw")


def correct_late(raw: Path) -> None:
    """Say of one sale in ten that it was published three weeks after its week."""
    folder = raw.resolve()
    copy = folder.with_name("corrected")
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    sales = pq.read_table(copy / "sales.parquet")
    late = np.random.default_rng(0).random(len(sales)) < 0.1
    created = sales["created_timestamp"]
    delayed = pc.add(created, pa.scalar(np.timedelta64(21, "D").astype("timedelta64[us]")))
    position = sales.schema.get_field_index("created_timestamp")
    created = pc.if_else(pa.array(late), delayed, created)
    pq.write_table(sales.set_column(position, "created_timestamp", created), copy / "sales.parquet")
    raw.unlink()
    raw.symlink_to(copy)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def point_in_time_reader(
    joined: Joined, copies: Copies, *, by_created: bool = True
) -> Callable[[pa.Table], tuple[pa.Table, pa.Table]]:
    """Return what reads the copies by a plain point-in-time join, without Feast.

    Args:
        joined: the training set that is read again.
        copies: the copies.
        by_created: whether a row is read only once it was created, as it must be.
    """
    views = views_behind(joined.store, joined.recipe.features.service)

    def read(features: tuple[str, ...], wanted: pa.Table) -> pa.Table:
        wanted = wanted.append_column("row", pa.array(np.arange(len(wanted))))
        answer = wanted
        for view in dict.fromkeys(reference.partition(":")[0] for reference in features):
            names = [f.partition(":")[2] for f in features if f.startswith(f"{view}:")]
            answer = answer.join(
                _as_of(wanted, views[view], copies.paths[view], names, by_created=by_created),
                keys="row",
            )
        return answer.sort_by("row")

    def retrieve(spine: pa.Table) -> tuple[pa.Table, pa.Table]:
        service, recipe = joined.service, joined.recipe
        rows = read((*service.row_features, *service.unused_features), spine)
        groups = spine.select([*service.columns.known_keys, "event_timestamp"])
        ahead = steps_ahead(groups.group_by(groups.column_names).aggregate([]), recipe)
        period_key = str(recipe.features.period_key)
        return rows, read(service.known_features, ahead.rename_columns({"period": period_key}))

    return retrieve


def _as_of(
    wanted: pa.Table, view: Any, path: Path, names: list[str], *, by_created: bool
) -> pa.Table:
    source = view.batch_source
    event, created = source.timestamp_field, source.created_timestamp_column
    keys = " AND ".join(f"wanted.{f.name} = facts.{f.name}" for f in view.entity_columns)
    renamed = {new: old for old, new in (source.field_mapping or {}).items()}
    columns = ", ".join(f"facts.{renamed.get(name, name)} AS {name}" for name in names)
    conditions = [keys, f"facts.{event}::TIMESTAMPTZ <= wanted.event_timestamp"]
    if by_created:
        conditions.append(f"facts.{created}::TIMESTAMPTZ <= wanted.event_timestamp")
    if view.ttl:
        seconds = view.ttl.total_seconds()
        age = f"epoch(wanted.event_timestamp) - epoch(facts.{event}::TIMESTAMPTZ)"
        conditions.append(f"{age} <= {seconds}")
    query = f"""
        SELECT wanted.row, {columns}
        FROM wanted JOIN read_parquet('{path}') AS facts ON {" AND ".join(conditions)}
        QUALIFY row_number() OVER (
            PARTITION BY wanted.row ORDER BY facts.{event} DESC, facts.{created} DESC
        ) = 1"""
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("wanted", wanted)
        return connection.sql(query).to_arrow_table()
