"""The sections of a recipe that say which model is fitted, and how."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from feastrain.section import Count, Section


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
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (128, 64)
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


class PythonModel(QuantileModel):
    """A network of the project's own: `network: models/gru.py:Gru` is a file and a class of it.

    The class is a `torch.nn.Module`. It is made with the sizes of what it reads, the `quantiles`
    and `options` as keywords, and answers [B, H, Q] quantiles for a batch, increasing along Q. With
    a `context` it reads the last so many periods (`feastrain.models.windows.WindowBatch`), else the
    features as of the cut-off (`feastrain.models.batches.Batch`).
    """

    kind: Literal["python"]
    network: str
    context: Annotated[int, Field(ge=2)] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    source: str | None = None
    """What the file says: read from it with the recipe, so that it is part of what a run is."""

    @field_validator("network")
    @classmethod
    def _names_a_file_and_a_class(cls, network: str) -> str:
        path, _, name = network.rpartition(":")
        file = PurePosixPath(path)
        within = not file.is_absolute() and ".." not in file.parts
        if not (within and file.suffix == ".py" and name.isidentifier()):
            message = (
                f"{network!r} is no FILE.py:CLASS with the file's path within the project, "
                "as models/gru.py:Gru"
            )
            raise ValueError(message)
        return network

    @property
    def file(self) -> str:
        """The path of the file, within the project."""
        return self.network.rpartition(":")[0]

    @property
    def look_back(self) -> int:
        """How many cut-offs a row needs besides its own."""
        return self.context or 0


class TreesModel(QuantileModel):
    """Gradient-boosted trees (LightGBM): for each quantile `seeds` boosters, averaged."""

    look_back: ClassVar[int] = 0

    kind: Literal["trees"]
    rounds: Count = 500
    """The most; the validation rows say how many are used, where there is a `patience`."""
    patience: Count | None = 30
    """Rounds without gain on the validation rows after which no more are added; with null all are.
    A few weeks of validation stop too early what other seasons need."""
    leaves: Annotated[int, Field(ge=2)] = 63
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    min_labels: Count = 100
    """In a leaf."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Of labels and of columns, that each tree sees."""
    seeds: Count = 1


NETWORKS = ("mlp", "tft", "python")
"""Kinds of models that are fitted in epochs."""


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
    | Annotated[PythonModel, Tag("python")]
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
    | Annotated[PythonModel, Tag("python")]
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
