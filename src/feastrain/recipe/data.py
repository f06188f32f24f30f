"""The sections of a recipe that say what is forecast from what, and how rows are made."""

from __future__ import annotations

from datetime import date
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation when the class is made
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from feastrain.section import Count, Section

Role = Literal["static", "observed", "known_ahead", "unused"]


class Transform(Section):
    """How feature tables are made from raw tables: one SQL file run by DuckDB.

    Every `inputs/NAME.parquet` is the table `raw.NAME`; every table that the SQL makes in
    the schema `features` is written to `outputs/NAME.parquet`. A `python` file, where given,
    has a function `make(connection)` that adds tables after the SQL, in the same connection.

    `known_at` names, by raw table, the column that says when a row became known, for the
    leakage audit: by default `created_timestamp`, else the latest of its dates and times, a
    date being known at its last second. `holidays: null` says that all of it always was.
    """

    sql: Path
    python: Path | None = None
    inputs: Path
    outputs: Path
    known_at: dict[str, str | None] = Field(default_factory=dict)


class Label(Section):
    """Where the labels are: a Parquet table outside the feature service.

    `column` is the value of the period that closes at the event timestamp; `weight`, where
    given, is a column with what an error in that period weighs (Kaggle's holidays weigh 5);
    `event`, where given, is a text column that names what makes a period special ("" where
    nothing does), and a known-ahead feature of that name says it for periods to come. Models
    read that feature where `features.categorical` lists it; else it is told and calibrated by.
    """

    source: Path
    column: str
    event_timestamp: str = "event_timestamp"
    weight: str | None = None
    event: str | None = None


class Features(Section):
    """Which features of which service, and the role each view or feature plays.

    `roles` maps a feature view, or one feature of it, to its role; the feature wins.
    A *static* feature does not change; an *observed* one is read as of the cut-off; a
    *known ahead* one is about a target period and is keyed by it: its view has the join key
    `period_key`, whose value is the date of that period (`2012-09-07`), and its event
    timestamp says when it became known; an *unused* one is joined and checked but not read by
    the model. A *stepped* feature is observed, one column a step:
    `stepped: [sales_last_year]` reads `sales_last_year_1` ... `sales_last_year_H`.
    """

    repo: Path
    service: str
    roles: dict[str, Role]
    period_key: str | None = None
    stepped: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    label_units: tuple[str, ...] = ()
    """Features (stepped ones by their stem) in the unit of the label, scaled with it."""
    unit: tuple[str, ...] = ()
    """Features whose first non-null value sets the scale of a series as of the cut-off."""


class Split(Section):
    """How many of the last cut-offs test and validate; all earlier ones train.

    `embargo` is the least number of periods between the last training or validation cut-off
    and the first cut-off of the next part; by default the horizon, and never less. The first
    `warm_up` cut-offs train nothing: their features look back on more than there is.
    """

    validation_cutoffs: Count = 4
    test_cutoffs: Count = 1
    embargo: Count | None = None
    warm_up: Annotated[int, Field(ge=0)] = 0


def _as_written(moment: object) -> object:
    """Return a date or a moment that YAML has read as it was written."""
    return moment.isoformat() if isinstance(moment, date) else moment


class Backtest(Section):
    """The origins of a backtest: for each a model is trained on what was known then.

    An origin is the first cut-off of a test part. `origins: 4` and `every: 13` are the split as
    it is, and as it was 13, 26 and 39 periods ago; `origins: [2011-11-11, 2012-02-03]` are the
    dates at which the period of such a cut-off closes. Each tests `split.test_cutoffs`.
    """

    origins: (
        Count
        | Annotated[tuple[Annotated[str, BeforeValidator(_as_written)], ...], Field(min_length=1)]
    ) = 1
    every: Count = 1


class Audit(Section):
    """The proof that no feature knows the future, which every build gives on a sample.

    `rows` (series, cut-off) rows at `cutoffs` cut-offs are built again from sources whose
    later facts came out otherwise; `seed` decides which, and how.
    """

    enabled: bool = True
    cutoffs: Count = 2
    rows: Count = 200
    seed: Annotated[int, Field(ge=0)] = 0


class FeatureColumns(Section):
    """The columns of a training set by the role they play; the contract of all later stages.

    Rows are keyed by `entities` and the cut-off, known-ahead rows by `known_keys` (some of
    the entities, often none), the cut-off and the step. `stepped` holds stems.
    """

    entities: tuple[str, ...]
    static: tuple[str, ...]
    observed: tuple[str, ...]
    stepped: tuple[str, ...]
    known_ahead: tuple[str, ...]
    known_keys: tuple[str, ...]
    categorical: tuple[str, ...]
    label_units: tuple[str, ...]
    unit: tuple[str, ...]
    horizon: int


class Retrieval(Section):
    """How features are joined: in parts of whole series, here or on a Ray cluster.

    The engine decides where, and changes no byte; the cluster's address is a setting.
    """

    engine: Literal["local", "ray"] = "local"
    part_rows: Count = 1_000_000
    """About how many rows a part has: one part is in memory at a time."""
