"""The recipe: the science of one forecast, as one typed, frozen YAML file.

A recipe says what to forecast from what, how to split it, what the data must look like,
and how to train. It never says where: endpoints and folders of one machine are settings
(`feastrain.settings`). Unknown keys are refused.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation when the class is made
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    model_validator,
)

from feastrain.errors import LeakageError, RecipeError
from feastrain.expectations import DriftLimits, Expectation  # noqa: TC001 - read by pydantic
from feastrain.section import Count, Section

if TYPE_CHECKING:
    from collections.abc import Mapping

Role = Literal["static", "observed", "known_ahead", "unused"]

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def parse_period(text: object) -> object:
    """Read `1w`, `7d` or `12h` as a time span; leave anything else for pydantic to refuse."""
    match = re.fullmatch(r"([1-9]\d*)([hdw])", text) if isinstance(text, str) else None
    if match is None:
        message = "must be a whole number and a unit: 12h, 1d or 1w"
        raise ValueError(message)
    return int(match[1]) * _UNITS[match[2]]


def format_period(period: timedelta) -> str:
    """Write a time span as `parse_period` reads it."""
    for unit, size in reversed(_UNITS.items()):
        if period % size == timedelta(0):
            return f"{period // size}{unit}"
    message = f"{period} is not a whole number of hours"
    raise ValueError(message)


Period = Annotated[timedelta, BeforeValidator(parse_period), PlainSerializer(format_period)]


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
    nothing does), and a known-ahead feature of that name says it for periods to come.
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


class Range(Section):
    """Values to try from `low` to `high`: whole numbers where both are; `log` spreads them."""

    low: float | int
    high: float | int
    log: bool = False

    @model_validator(mode="after")
    def _has_a_width(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            message = f"low {self.low} must be less than high {self.high}, and positive for log"
            raise ValueError(message)
        return self

    @property
    def extremes(self) -> tuple[Any, Any]:
        """The least and the largest value."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one to try."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Choices(Section):
    """Values to try, of any kind."""

    choices: Annotated[tuple[Any, ...], Field(min_length=2)]

    @property
    def extremes(self) -> tuple[Any, Any]:
        """The first and the last value."""
        return self.choices[0], self.choices[-1]

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one to try."""
        return value in self.choices


class Audit(Section):
    """The proof that no feature knows the future, which every build gives on a sample.

    `rows` (series, cut-off) rows at `cutoffs` cut-offs are built again from sources whose
    later facts came out otherwise; `seed` decides which, and how.
    """

    enabled: bool = True
    cutoffs: Count = 2
    rows: Count = 200
    seed: Annotated[int, Field(ge=0)] = 0


class QuantileModel(Section):
    """What all models have in common.

    `baseline` is a stepped feature in the label's unit, over which the model forecasts: it
    learns what is left, and a row without the feature is forecast from zero.
    """

    baseline: str | None = None
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.5, 0.9)

    @model_validator(mode="after")
    def _quantiles_make_sense(self) -> Self:
        if list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles:
            message = "quantiles must increase strictly and hold 0.5, the point forecast"
            raise ValueError(message)
        return self


class MLPModel(QuantileModel):
    """A multilayer perceptron shared by all steps of the horizon."""

    look_back: ClassVar[int] = 0

    kind: Literal["mlp"] = "mlp"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    hidden: tuple[Count, ...] = (128, 64)
    embedding: Count = 8


class TFTModel(QuantileModel):
    """A Temporal Fusion Transformer that looks back on the last `context` periods."""

    kind: Literal["tft"]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    context: Annotated[int, Field(ge=2)] = 52
    hidden: Count = 32
    heads: Count = 4

    @property
    def look_back(self) -> int:
        """How many cut-offs a row needs besides its own: one for what was known of the oldest."""
        return self.context

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden % self.heads:
            message = f"hidden is {self.hidden}, which {self.heads} heads do not divide"
            raise ValueError(message)
        return self


class TreesModel(QuantileModel):
    """Gradient-boosted trees (LightGBM): for each quantile `seeds` boosters, averaged."""

    look_back: ClassVar[int] = 0

    kind: Literal["trees"]
    rounds: Count = 500
    """The most; the validation rows say how many are used."""
    leaves: Annotated[int, Field(ge=2)] = 63
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    min_labels: Count = 100
    """In a leaf."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Of labels and of columns, that each tree sees."""
    seeds: Count = 1


class BaselineModel(QuantileModel):
    """The baseline itself, with quantiles as far from it as past labels were, by step."""

    look_back: ClassVar[int] = 0

    kind: Literal["baseline"]
    baseline: str


def _kind(model: Any) -> str:
    return str(model.get("kind", "mlp") if isinstance(model, dict) else model.kind)


Member = Annotated[
    Annotated[MLPModel, Tag("mlp")]
    | Annotated[TFTModel, Tag("tft")]
    | Annotated[TreesModel, Tag("trees")]
    | Annotated[BaselineModel, Tag("baseline")],
    Discriminator(_kind),
]


class EnsembleModel(Section):
    """Several models, trained one after the other; each quantile is the mean of theirs.

    `weights` say how much each member counts, in the order of the members; alike without them.
    """

    kind: Literal["ensemble"]
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None

    @model_validator(mode="after")
    def _members_answer_alike(self) -> Self:
        if len({member.quantiles for member in self.members}) > 1:
            message = "the members of an ensemble must have the same quantiles"
            raise ValueError(message)
        if self.weights is not None and len(self.weights) != len(self.members):
            message = f"{len(self.weights)} weights are given for {len(self.members)} members"
            raise ValueError(message)
        return self

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Those of every member."""
        return self.members[0].quantiles

    @property
    def look_back(self) -> int:
        """How many cut-offs a row needs besides its own, for the member that needs most."""
        return max(member.look_back for member in self.members)


Model = Annotated[
    Annotated[MLPModel, Tag("mlp")]
    | Annotated[TFTModel, Tag("tft")]
    | Annotated[TreesModel, Tag("trees")]
    | Annotated[BaselineModel, Tag("baseline")]
    | Annotated[EnsembleModel, Tag("ensemble")],
    Discriminator(_kind),
]


class Training(Section):
    """How the model is fitted. `batch_rows` counts (series, cut-off) rows on every rank."""

    epochs: Count = 10
    patience: Count = 3
    batch_rows: Count = 512
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    processes: Count = 2
    seed: int = 0
    checkpoint_s: Annotated[float, Field(gt=0)] = 60
    """Most seconds between two checkpoints; every epoch ends with one."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """How often in a row, without a new checkpoint, all are started again after one died."""
    recompute: bool = False
    """Gradient checkpointing: activations are computed again in the backward pass, not kept."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass; weights and optimiser stay in single precision."""
    refit: bool = False
    """Whether, once the validation rows have said how long to fit, the model is fitted again
    on every label that is known at the first test cut-off. Scores are those of the first fit."""


OPERATIONAL = ("checkpoint_s", "restarts")
"""Keys of `training` that change no weight."""


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


class Recipe(Section):
    """One forecast: the file as read, plus the folder its relative paths start from."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    entities: Annotated[tuple[str, ...], Field(min_length=1)]
    frequency: Period
    season: Count = 1
    """Periods in a season (52 weeks), for the seasonal baselines; 1 where there is none."""
    horizon: Count
    label: Label
    features: Features
    transform: Transform | None = None
    split: Split = Split()
    backtest: Backtest = Backtest()
    expectations: tuple[Expectation, ...] = ()
    audit: Audit = Audit()
    drift: DriftLimits | None = None
    retrieval: Retrieval = Retrieval()
    model: Model = MLPModel()
    training: Training = Training()
    tune: dict[str, Range | Choices] = Field(default_factory=dict)
    """What `tune` tries, by key: `training.learning_rate: {low: 0.001, high: 0.01, log: true}`,
    `model.hidden: {choices: [[64], [128, 64]]}`, `model.members.0.leaves: {low: 31, high: 255}`."""

    @model_validator(mode="after")
    def _embargo_covers_the_horizon(self) -> Self:
        if self.split.embargo is not None and self.split.embargo < self.horizon:
            message = (
                f"split.embargo is {self.split.embargo}, less than the horizon of {self.horizon}: "
                "labels of one part would be known only after the next part begins"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _baselines_are_stepped(self) -> Self:
        for member in self.members:
            stem = member.baseline
            if stem and not {stem} <= {*self.features.stepped} & {*self.features.label_units}:
                message = (
                    f"model.baseline is {stem!r}, which is not listed both in features.stepped "
                    "and in features.label_units"
                )
                raise ValueError(message)
        return self

    @property
    def members(self) -> tuple[MLPModel | TFTModel | TreesModel | BaselineModel, ...]:
        """The models to fit: of an ensemble its members, else the one there is."""
        model = self.model
        return model.members if isinstance(model, EnsembleModel) else (model,)

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each of `members` counts; they sum to 1."""
        given = self.model.weights if isinstance(self.model, EnsembleModel) else None
        weights = given or (1.0,) * len(self.members)
        return tuple(weight / sum(weights) for weight in weights)

    def of_member(self, number: int) -> Recipe:
        """Return the recipe of one member alone; each starts from a seed of its own."""
        if len(self.members) == 1:
            return self.model_copy(update={"model": self.members[0]})
        training = self.training.model_copy(update={"seed": self.training.seed + number})
        return self.model_copy(update={"model": self.members[number], "training": training})

    @property
    def embargo(self) -> int:
        """Periods between the last cut-off of one part and the first of the next."""
        return self.split.embargo or self.horizon

    def stepped_columns(self, stem: str) -> list[str]:
        """Return the column of every step of a stepped feature, nearest step first."""
        return [f"{stem}_{step}" for step in range(1, self.horizon + 1)]

    def period_name(self, period_end: datetime) -> str:
        """Return the value of the period key for the period that closes at `period_end`."""
        whole_days = self.frequency % timedelta(days=1) == timedelta(0)
        return period_end.strftime("%Y-%m-%d" if whole_days else "%Y-%m-%dT%H:%M:%S")

    def data_section(self) -> dict[str, Any]:
        """Return what a snapshot depends on, as plain JSON values; what is not given is absent."""
        left_out = {"name", "backtest", "model", "training", "tune"}
        section = self.model_dump(mode="json", exclude=left_out, exclude_none=True)
        del section["retrieval"]["engine"]
        return section

    def training_section(self) -> dict[str, Any]:
        """Return what a bundle depends on beyond its snapshot, as plain JSON values."""
        content = self.model_dump(mode="json", include={"model", "training"})
        for name in OPERATIONAL:
            del content["training"][name]
        return content


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, or say in one line what is wrong with it and where.

    Raises:
        RecipeError: no such file, not YAML, an unknown key, a wrong or contradictory value.
        LeakageError: the label is given a role among the features.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        message = f"{path}: no such recipe; `feastrain init` makes a project with some"
        raise RecipeError(message) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
        raise RecipeError(message) from error
    if not isinstance(content, dict):
        message = f"{path}: a recipe is a mapping of keys to values; see the reference for its keys"
        raise RecipeError(message)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        message = f"{path}: {_first_fault(error)}"
        raise RecipeError(message) from error
    named = {*recipe.features.roles, *recipe.features.stepped, *recipe.features.label_units}
    if recipe.label.column in named:
        message = (
            f"{path}: the label {recipe.label.column!r} is listed among the features; "
            "a model would read the answer: remove it there"
        )
        raise LeakageError(message)
    return recipe


def place_of(content: dict[str, Any], key: str) -> tuple[Any, Any]:
    """Return the section that a dotted key lies in, and its name there; `members.0` is the first.

    Sections that are not there are made.
    """
    section: Any = content
    *parents, last = key.split(".")
    for part in parents:
        section = section[int(part)] if isinstance(section, list) else section.setdefault(part, {})
    return section, int(last) if isinstance(section, list) else last


def _there(content: dict[str, Any], key: str) -> tuple[Any, Any]:
    """Return the place of a key of `model` or `training`.

    Raises:
        RecipeError: there is none.
    """
    section = last = None
    try:
        section, last = place_of(content, key)
        section[last]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        section = None
    if section is None or not key.startswith(("model.", "training.")):
        message = f"tune.{key}: the recipe has no such key of model or training"
        raise RecipeError(message)
    return section, last


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other values of some keys of `model` and `training`.

    Raises:
        RecipeError: it has no such key, or the value is none of it.
    """
    content = recipe.model_dump(mode="json")
    for key, value in values.items():
        section, last = _there(content, key)
        section[last] = value
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        message = f"tune: {_first_fault(error)}"
        raise RecipeError(message) from error


def recipe_of(lineage: dict[str, Any]) -> Recipe:
    """Read the recipe that a bundle's lineage holds.

    Raises:
        RecipeError: another release of feastrain wrote it, with keys that this one does not have.
    """
    try:
        return Recipe.model_validate(lineage["recipe"])
    except ValidationError as error:
        message = (
            f"the bundle was trained by feastrain {lineage.get('feastrain', 'unknown')}, whose "
            f"recipe this release cannot read: {_first_fault(error)}; train it again"
        )
        raise RecipeError(message) from error


def _first_fault(error: ValidationError) -> str:
    faults = error.errors()
    fault = faults[0]
    where = ".".join(str(part) for part in fault["loc"]) or "recipe"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}: remove it or correct its spelling{more}"
    if fault["type"] == "missing":
        return f"key {where!r} is missing{more}"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}{more}"
