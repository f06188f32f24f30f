"""What one rank of a run needs of memory, from the manifest of its snapshot and its recipe.

A rank holds its libraries, the rows it encodes, and what a step takes. What encoding frees is
rarely of a size that a step can use, so the three add up. The factors were fitted to the peaks
that `benchmarks/sizing.py` measures, on Linux with glibc; it tells how far they are off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.jobs.footprint import FLOAT, Step, footprint
from feastrain.models.architecture import architecture
from feastrain.models.encoder import Encoder, Number
from feastrain.models.network import CHUNK
from feastrain.recipe import BaselineModel, FeatureColumns, PythonModel, TFTModel, TreesModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feastrain.recipe import Member, Recipe

LIBRARIES = 430 << 20
"""Python, PyTorch, Arrow and what they reserve at once."""
NETWORK = 90 << 20
"""What PyTorch loads and reserves once it computes."""
LIGHTGBM = 20 << 20
TABLES = 2
"""The table as it is read, and its rows of one part."""
ENCODED = {"mlp": 3, "tft": 8, "trees": 2.5, "baseline": 3}
"""Copies of the encoded rows while they are made, the one that stays among them."""
FRAGMENTED = {"mlp": 2.35, "tft": 1.55}
"""Resident bytes for each live byte of a step: what glibc's heap loses to tensors of many sizes."""
RECOMPUTED = {"mlp": 5.5, "tft": 1.55}
"""The same where activations are computed again, in smaller tensors of more sizes."""
REFITTED = 1.36
"""Encoded bytes where they are made a second time, for each that is made once."""
WEIGHTS = 10
"""Copies of the weights: their own, AdamW's two moments, the best so far, and those of two
checkpoints that are being written, each with the moments."""
BUCKETS = 1
"""Copies of the gradients that ranks exchange."""
LSTM = 16
"""Numbers that a recurrent layer keeps for each unit and period, which the count does not see."""
OTHERS = 0.4
"""Share of what an ensemble's other members took that its largest cannot use."""
MOST_OF_OTHERS = 150 << 20
"""Bytes that this comes to at most: what was large finds room again."""
HEADROOM = 1.1
"""How much more is asked for than is expected."""


@dataclass(frozen=True)
class TrainingRows:
    """What a snapshot's manifest says of its rows."""

    columns: FeatureColumns
    rows: Mapping[str, int]
    """By part of the split, those among them that train nothing."""
    row_bytes: float
    """Of a row of the table in memory."""
    series: int
    periods: int

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> TrainingRows:
        """Read a manifest."""
        return cls(
            columns=FeatureColumns.model_validate(manifest["columns"]),
            rows=manifest["rows"],
            row_bytes=sum(_width(kind) for kind in manifest["schema"].values()),
            series=manifest["series"],
            periods=manifest["periods"]["count"],
        )

    @property
    def every(self) -> int:
        """All rows."""
        return sum(self.rows.values())

    @property
    def train(self) -> int:
        """Rows that are fitted on."""
        return self.rows.get("train", 0)

    @property
    def validation(self) -> int:
        """Rows that are scored after every epoch."""
        return self.rows.get("validation", 0)


@dataclass(frozen=True)
class Need:
    """Bytes of one rank, by what takes them, and the step of its largest network."""

    libraries: int
    rows: int
    step: int
    network: Step | None

    @property
    def expected(self) -> int:
        """Everything that is resident at once."""
        return self.libraries + self.rows + self.step

    @property
    def asked(self) -> int:
        """What to ask for: what is expected, and head-room."""
        return round(self.expected * HEADROOM)


def need_of_rank(rows: TrainingRows, recipe: Recipe) -> Need:
    """Return what one rank of the recipe's run on a snapshot needs of memory."""
    each = [_need(rows, recipe.of_member(number)) for number in range(len(recipe.members))]
    largest = max(each, key=lambda need: need.rows + need.step)
    others = sum(need.rows + need.step for need in each) - largest.rows - largest.step
    networks = [need.network for need in each if need.network is not None]
    return Need(
        libraries=max(need.libraries for need in each),
        rows=largest.rows + min(round(OTHERS * others), MOST_OF_OTHERS),
        step=largest.step,
        network=max(networks, key=lambda step: step.flops_a_row, default=None),
    )


def _need(rows: TrainingRows, recipe: Recipe) -> Need:
    """Return the need of a recipe with one model."""
    (model,) = recipe.members
    encoder = _widest_encoder(rows)
    fitted = _fitted(rows, recipe)
    encoded = ENCODED[_like(model)] * FLOAT * _words(model, encoder) * fitted
    encoded *= REFITTED if recipe.training.refit else 1
    table = round(TABLES * rows.row_bytes * rows.every + encoded)
    if isinstance(model, TreesModel | BaselineModel):
        trees = LIGHTGBM if isinstance(model, TreesModel) else 0
        return Need(LIBRARIES + trees, table, 0, None)
    training, made = recipe.training, architecture(recipe, encoder)
    batch = max(1, min(training.batch_rows, fitted // training.processes))
    scored = max(1, min(max(8 * training.batch_rows, CHUNK), rows.validation))
    step = footprint(
        made,
        batch,
        scored,
        model=model,
        recompute=training.recompute,
        precision=training.precision,
    )
    live = max(step.train_bytes + _recurrent(model, batch, rows), step.score_bytes)
    copies = WEIGHTS + (BUCKETS if training.processes > 1 else 0)
    lost = RECOMPUTED if training.recompute else FRAGMENTED
    resident = round(lost[_like(model)] * live) + copies * FLOAT * step.parameters
    return Need(LIBRARIES + NETWORK, table, resident, step)


def _like(model: Member) -> str:
    """Return the kind of ours that needs what the model does."""
    if isinstance(model, PythonModel):
        return "tft" if model.context else "mlp"
    return model.kind


def _fitted(rows: TrainingRows, recipe: Recipe) -> int:
    """Return the most rows that are encoded at once: with `refit`, those of the embargoes too."""
    fitted = rows.train + rows.validation
    if recipe.training.refit:
        of_cutoff = -(-rows.validation // recipe.split.validation_cutoffs)
        fitted += 2 * recipe.embargo * of_cutoff
    return min(fitted, rows.every)


def _words(model: Member, encoder: Encoder) -> int:
    """Return the numbers and codes of an encoded row with its labels; for trees, of all steps."""
    horizon = encoder.columns.horizon
    of_row = 1 + 2 * len(encoder.rows) + len(encoder.row_categories)
    of_step = 2 * len(encoder.stepped)
    if isinstance(model, TreesModel):
        known = 2 * len(encoder.known) + len(encoder.known_categories)
        return horizon * (of_row + of_step + known + 1)
    return of_row + 2 + horizon * (of_step + 2)


def _recurrent(model: Member, batch: int, rows: TrainingRows) -> int:
    if not isinstance(model, TFTModel):
        return 0
    return LSTM * FLOAT * batch * model.hidden * (model.context + rows.columns.horizon)


def _widest_encoder(rows: TrainingRows) -> Encoder:
    """Return an encoder as wide as one can be that is fitted on such rows.

    Every number may miss; a category has as many values as there are series, or periods.
    """
    columns = rows.columns
    categorical = {*columns.categorical}
    of_row = (*columns.entities, *columns.static, *columns.observed)
    row_categories = tuple(name for name in of_row if name in categorical)
    known_categories = tuple(name for name in columns.known_ahead if name in categorical)
    values = dict.fromkeys(row_categories, rows.series)
    values |= dict.fromkeys(known_categories, rows.periods + columns.horizon)

    def numbers(names: tuple[str, ...]) -> tuple[Number, ...]:
        units = {*columns.label_units}
        return tuple(
            Number(name, in_units=name in units, mean=0.0, deviation=1.0, may_miss=True)
            for name in names
            if name not in categorical
        )

    return Encoder(
        columns=columns,
        unit_floor=1.0,
        unit_missing=1.0,
        log_unit=Number("log_unit", in_units=False, mean=0.0, deviation=1.0, may_miss=False),
        rows=numbers((*columns.static, *columns.observed)),
        stepped=numbers(columns.stepped),
        known=numbers(columns.known_ahead),
        vocabularies={name: ("",) * count for name, count in values.items()},
        row_categories=row_categories,
        known_categories=known_categories,
    )


def _width(kind: str) -> float:
    """Return the bytes of a value of an Arrow type, with its share of the bits of nulls."""
    return {"string": 16, "large_string": 20}.get(kind, 8) + 1 / 8
