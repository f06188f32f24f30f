"""One forecast: every section of a recipe together, and what they mean for each other."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from feastrain.expectations import DriftLimits, Expectation
from feastrain.recipe.data import Audit, Backtest, Features, Label, Retrieval, Split, Transform
from feastrain.recipe.models import (
    OPERATIONAL,
    BaselineModel,
    EnsembleModel,
    MLPModel,
    Model,
    PythonModel,
    TFTModel,
    Training,
    TreesModel,
)
from feastrain.recipe.periods import Period
from feastrain.recipe.search import Choices, Range
from feastrain.section import Count, Section

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    def members(
        self,
    ) -> tuple[MLPModel | TFTModel | PythonModel | TreesModel | BaselineModel, ...]:
        """The models to fit: of an ensemble its members, else the one there is."""
        model = self.model
        return model.members if isinstance(model, EnsembleModel) else (model,)

    @property
    def code(self) -> dict[str, str | None]:
        """What the project's files that `model` names say, by their paths; None where not read."""
        return {one.file: one.source for one in self.members if isinstance(one, PythonModel)}

    def with_code(self, code: Mapping[str, str | None]) -> Recipe:
        """Return the recipe with what those files say."""
        members = tuple(
            one.model_copy(update={"source": code[one.file]})
            if isinstance(one, PythonModel)
            else one
            for one in self.members
        )
        model: Model = members[0]
        if isinstance(self.model, EnsembleModel):
            model = self.model.model_copy(update={"members": members})
        return self.model_copy(update={"model": model})

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

    def without_code(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values, without what files of the project say."""
        return self.with_code(dict.fromkeys(self.code)).model_dump(mode="json")

    def data_section(self) -> dict[str, Any]:
        """Return what a snapshot depends on, as plain JSON values; what is not given is absent."""
        left_out = {"name", "backtest", "model", "training", "tune"}
        section = self.model_dump(mode="json", exclude=left_out, exclude_none=True)
        del section["retrieval"]["engine"]
        return section

    def training_section(self) -> dict[str, Any]:
        """Return what a bundle depends on beyond its snapshot, as plain JSON values."""
        digests = {
            file: source and sha256(source.encode()).hexdigest()
            for file, source in self.code.items()
        }
        content = self.with_code(digests).model_dump(mode="json", include={"model", "training"})
        for name in OPERATIONAL:
            del content["training"][name]
        return content
