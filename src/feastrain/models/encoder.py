"""The encoder: feature tables become arrays, the same way in training and in serving.

Its parameters (units, means, deviations, vocabularies) are fitted on training rows alone and
travel in the bundle. Shapes: N rows (series, cut-off), H steps, G groups of known-ahead rows;
F row numbers, C row categories, S stepped numbers, K known-ahead numbers, D known-ahead
categories.

The unit of a row is u = max(|first non-null of `columns.unit|`, floor): labels, and features
in the label's unit, are divided by it, so that a large store and a small one look alike. Every
other number is standardised, (x - mean) / deviation. All are clipped to +-8. A missing number
is 0, and a column that was ever missing in training has an indicator beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.errors import DataError, RecipeError
from feastrain.models.ahead import Remembered, ahead_of, places
from feastrain.recipe import FeatureColumns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Whole = NDArray[np.int64]

CLIP = 8.0
FLOOR_QUANTILE = 0.01
RUN = 16_384
"""Rows that are scaled at a time: all columns of them fit a cache."""
LARGEST_UNIT = 1e30
"""Beyond it a forecast in single precision would overflow."""


@dataclass(frozen=True)
class Encoded:
    """What a model reads; the shapes are in the names."""

    row_NF: Floats
    category_NC: Whole
    step_NHS: Floats
    group_N: Whole
    known_GHK: Floats
    known_category_GHD: Whole
    unit_N: Floats


@dataclass(frozen=True)
class Number:
    """How one numeric column is scaled."""

    name: str
    in_units: bool
    mean: float
    deviation: float
    may_miss: bool


@dataclass(frozen=True)
class Encoder:
    """The fitted parameters; `fit` makes one, JSON carries it."""

    columns: FeatureColumns
    unit_floor: float
    unit_missing: float
    """Unit of a row that has none of the unit's columns."""
    log_unit: Number
    rows: tuple[Number, ...]
    stepped: tuple[Number, ...]
    known: tuple[Number, ...]
    vocabularies: dict[str, tuple[str, ...]]
    row_categories: tuple[str, ...]
    known_categories: tuple[str, ...]

    def encode(self, rows: pa.Table, known: pa.Table) -> Encoded:
        """Encode N rows and the known-ahead rows they refer to; the order is kept.

        Raises:
            DataError: a row has no known-ahead rows, or they are not H for each group.
        """
        unit_N = self.unit(rows)
        ahead = ahead_of(known, self.columns)
        group_N = ahead.groups(rows)
        known_GHK, known_category_GHD = self._ahead(known)
        return Encoded(
            row_NF=np.column_stack(
                [
                    _standardised(np.log(unit_N), self.log_unit),
                    self._row_scaling.of(rows, unit_N),
                ]
            ),
            category_NC=self.codes(rows, self.row_categories),
            step_NHS=self._step_scaling.of(rows, unit_N).reshape(
                len(rows), self.columns.horizon, width(self.stepped)
            ),
            group_N=group_N,
            known_GHK=known_GHK,
            known_category_GHD=known_category_GHD,
            unit_N=unit_N.astype(np.float32),
        )

    def unit(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return [N]: the unit that each row's labels are expressed in."""
        return self._unit(rows)

    def _find_unit(self, rows: pa.Table) -> NDArray[np.float64]:
        unit_N = _raw_unit(rows, self.columns)
        known_N = np.where(np.isfinite(unit_N), np.abs(unit_N), self.unit_missing)
        return np.clip(known_N, self.unit_floor, LARGEST_UNIT)

    def labels(self, rows: pa.Table, baseline: str | None = None) -> tuple[Floats, Floats]:
        """Return [N, H] labels in units of their row, and weights, 0 where not observed.

        With the stem of a `baseline`, labels are what is left over it.
        """
        unit_N = self.unit(rows)
        steps = range(1, self.columns.horizon + 1)
        label_NH = np.column_stack([_numbers(rows, f"label_{step}") for step in steps])
        weight_NH = np.column_stack([_numbers(rows, f"weight_{step}") for step in steps])
        seen_NH = np.isfinite(label_NH)
        label_NH = np.where(seen_NH, label_NH - self.base(rows, baseline), 0) / unit_N[:, None]
        weight_NH = np.where(seen_NH, weight_NH, 0)
        return label_NH.astype(np.float32), weight_NH.astype(np.float32)

    def base(self, rows: pa.Table, baseline: str | None) -> NDArray[np.float64]:
        """Return [N, H] a stepped feature in the label's unit, 0 where there is none."""
        if baseline is None:
            return np.zeros((len(rows), self.columns.horizon))
        steps = range(1, self.columns.horizon + 1)
        base_NH = _side_by_side(rows, [f"{baseline}_{step}" for step in steps])
        return np.where(np.isfinite(base_NH), base_NH, 0.0)

    @property
    def static_numbers(self) -> tuple[Number, ...]:
        """The numbers that do not change."""
        return tuple(number for number in self.rows if number.name in self.columns.static)

    @property
    def observed_numbers(self) -> tuple[Number, ...]:
        """The observed numbers, those in the label's unit first."""
        observed = [number for number in self.rows if number.name in self.columns.observed]
        return tuple(sorted(observed, key=lambda number: not number.in_units))

    def values(
        self, numbers: tuple[Number, ...], table: pa.Table, unit: NDArray[np.float64] | None = None
    ) -> Floats:
        """Return [N, V]: scaled numbers, NaN where missing.

        Those in the label's unit are divided by `unit` [N], or left as they are without one.
        """
        values_NV = np.full((len(table), len(numbers)), np.nan, dtype=np.float32)
        for column, number in enumerate(numbers):
            values = _numbers(table, number.name)
            if not number.in_units:
                values = np.clip((values - number.mean) / number.deviation, -CLIP, CLIP)
            elif unit is not None:
                values = np.clip(values / unit, -CLIP, CLIP)
            values_NV[:, column] = np.where(np.isfinite(values), values, np.nan)
        return values_NV

    def codes(self, table: pa.Table, names: tuple[str, ...]) -> Whole:
        """Return [N, C] positions in the vocabulary from 1; 0 is a value never trained on."""
        codes = np.zeros((len(table), len(names)), dtype=np.int64)
        for column, name in enumerate(names):
            codes[:, column] = places(_texts(table, name), self._words[name]) + 1
        return codes

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as plain JSON values."""
        return asdict(self) | {"columns": self.columns.model_dump(mode="json")}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Make an encoder of what `to_json` returned."""
        numbers = {
            name: tuple(Number(**number) for number in content[name])
            for name in ("rows", "stepped", "known")
        }
        return cls(
            columns=FeatureColumns.model_validate(content["columns"]),
            unit_floor=content["unit_floor"],
            unit_missing=content["unit_missing"],
            log_unit=Number(**content["log_unit"]),
            vocabularies={k: tuple(v) for k, v in content["vocabularies"].items()},
            row_categories=tuple(content["row_categories"]),
            known_categories=tuple(content["known_categories"]),
            **numbers,
        )

    @cached_property
    def _words(self) -> dict[str, pc.SetLookupOptions]:
        return {
            name: pc.SetLookupOptions(value_set=pa.array(words, pa.string()), skip_nulls=True)
            for name, words in self.vocabularies.items()
        }

    @cached_property
    def _unit(self) -> Remembered[NDArray[np.float64]]:
        return Remembered(self._find_unit)

    @cached_property
    def _row_scaling(self) -> Scaling:
        return Scaling(self.rows, [number.name for number in self.rows])

    @cached_property
    def _step_scaling(self) -> Scaling:
        steps = range(1, self.columns.horizon + 1)
        names = [f"{number.name}_{step}" for step in steps for number in self.stepped]
        return Scaling(self.stepped * self.columns.horizon, names)

    @cached_property
    def _ahead(self) -> Remembered[tuple[Floats, Whole]]:
        """The numbers [G, H, K] and categories [G, H, D] of known-ahead rows."""
        scaling = Scaling(self.known, [number.name for number in self.known])

        def encoded(known: pa.Table) -> tuple[Floats, Whole]:
            groups = len(known) // self.columns.horizon
            shape = groups, self.columns.horizon
            numbers = scaling.of(known).reshape(*shape, width(self.known))
            categories = self.codes(known, self.known_categories)
            return numbers, categories.reshape(*shape, len(self.known_categories))

        return Remembered(encoded)


class Scaling:
    """Scales columns of a table as numbers; those that may miss get an indicator beside them."""

    def __init__(self, numbers: tuple[Number, ...], names: list[str]) -> None:
        """Scale the columns of these names, each as its number."""
        self._names = names
        self._width = width(numbers)
        self._mean_V = np.array([0.0 if n.in_units else n.mean for n in numbers])
        self._deviation_V = np.array([n.deviation for n in numbers])
        self._in_units_V = np.array([n.in_units for n in numbers], dtype=bool)
        last = len(numbers)
        places = ([at, last + at] if n.may_miss else [at] for at, n in enumerate(numbers))
        self._places = [place for pair in places for place in pair]

    def of(self, table: pa.Table, unit_N: NDArray[np.float64] | None = None) -> Floats:
        """Return [N, X]; numbers in the label's unit are divided by `unit_N`."""
        scaled_NX = np.empty((len(table), self._width), dtype=np.float32)
        for start in range(0, len(table) if self._names else 0, RUN):
            run = slice(start, start + RUN)
            part = table if len(table) <= RUN else table.slice(start, RUN)
            value_BV = _side_by_side(part, self._names)
            missing_BV = ~np.isfinite(value_BV)
            value_BV -= self._mean_V
            value_BV /= (
                self._deviation_V
                if unit_N is None
                else np.where(self._in_units_V, unit_N[run, None], self._deviation_V)
            )
            value_BV.clip(-CLIP, CLIP, out=value_BV)
            value_BV[missing_BV] = 0.0
            scaled_NX[run] = np.concatenate([value_BV, missing_BV], axis=1)[:, self._places]
        return scaled_NX


def fit(
    columns: FeatureColumns, rows: pa.Table, known: pa.Table, event: str | None = None
) -> Encoder:
    """Fit an encoder on training rows and the known-ahead rows they refer to.

    The known-ahead feature that names events, where it is not categorical, is read by no model:
    it only tells special periods apart.

    Raises:
        RecipeError: a text feature is not listed as categorical.
        DataError: there is no training row.
    """
    if not len(rows):
        message = "there is no training row to fit an encoder on; shorten the split"
        raise DataError(message)
    categorical = set(columns.categorical)
    row_names = (*columns.static, *columns.observed)
    row_categories = [n for n in (*columns.entities, *row_names) if n in categorical]
    known_categories = [n for n in columns.known_ahead if n in categorical]
    unit_N = _raw_unit(rows, columns)
    sizes = np.abs(unit_N[np.isfinite(unit_N)])
    sizes = sizes if len(sizes) else np.ones(1)
    floor = float(np.quantile(sizes, FLOOR_QUANTILE)) or 1.0
    partial = Encoder(
        columns=columns,
        unit_floor=floor,
        unit_missing=float(np.median(sizes)),
        log_unit=Number("log_unit", in_units=False, mean=0.0, deviation=1.0, may_miss=False),
        rows=(),
        stepped=(),
        known=(),
        vocabularies={
            **{name: _vocabulary(rows, name) for name in row_categories},
            **{name: _vocabulary(known, name) for name in known_categories},
        },
        row_categories=tuple(row_categories),
        known_categories=tuple(known_categories),
    )
    units = set(columns.label_units)
    log_unit_N = np.log(partial.unit(rows))
    stems = {f"{stem}_{h}": stem for stem in columns.stepped for h in range(1, columns.horizon + 1)}
    content = partial.to_json() | {
        "log_unit": asdict(_fit_number("log_unit", log_unit_N, in_units=False)),
        "rows": [
            asdict(_fit_number(name, _numbers(rows, name), in_units=name in units))
            for name in row_names
            if name not in categorical
        ],
        "stepped": [
            asdict(
                _fit_number(
                    stem,
                    np.concatenate([_numbers(rows, c) for c, of in stems.items() if of == stem]),
                    in_units=stem in units,
                )
            )
            for stem in columns.stepped
        ],
        "known": [
            asdict(_fit_number(name, _numbers(known, name), in_units=False))
            for name in columns.known_ahead
            if name not in categorical and name != event
        ],
    }
    return Encoder.from_json(content)


def _fit_number(name: str, values: NDArray[np.float64], *, in_units: bool) -> Number:
    seen = values[np.isfinite(values)]
    deviation = float(seen.std()) if len(seen) else 1.0
    mean = float(seen.mean()) if len(seen) else 0.0
    return Number(
        name=name,
        in_units=in_units,
        mean=mean,
        # Equal numbers have a deviation of rounding errors, not of zero.
        deviation=deviation if deviation > 1e-9 * abs(mean) else 1.0,
        may_miss=len(seen) < len(values),
    )


def _raw_unit(rows: pa.Table, columns: FeatureColumns) -> NDArray[np.float64]:
    """Return [N]: the first non-null of the unit's columns, NaN where there is none."""
    if not columns.unit:
        return np.ones(len(rows))
    unit_N = np.full(len(rows), np.nan)
    for name in columns.unit:
        unit_N = np.where(np.isfinite(unit_N), unit_N, _numbers(rows, name))
    return unit_N


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    column = table[name]
    if column.type != pa.float64():
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            message = f"feature {name!r} is text; list it in features.categorical of the recipe"
            raise RecipeError(message)
        column = column.cast(pa.float64())
    values: NDArray[np.float64] = column.to_numpy()
    return values


def _side_by_side(table: pa.Table, names: list[str]) -> NDArray[np.float64]:
    """Return [N, V] numbers of some columns, NaN where there is none."""
    batches = table.select(names).to_batches()
    if len(batches) == 1:
        try:
            tensor = batches[0].to_tensor(null_to_nan=True)
        except (pa.ArrowTypeError, pa.ArrowNotImplementedError):
            pass  # a column is no number, and may yet be read as one
        else:
            values_NV: NDArray[np.float64] = tensor.to_numpy().astype(np.float64, copy=False)
            return values_NV
    return np.column_stack([_numbers(table, name) for name in names])


def _standardised(values: NDArray[np.float64], number: Number) -> Floats:
    scaled = np.clip((values - number.mean) / number.deviation, -CLIP, CLIP)
    return scaled.astype(np.float32)


def width(numbers: tuple[Number, ...]) -> int:
    """Return how many columns the numbers make: one each, and one more where it may be missing."""
    return sum(1 + number.may_miss for number in numbers)


def _texts(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table[name].cast(pa.string())


def _vocabulary(table: pa.Table, name: str) -> tuple[str, ...]:
    values = pc.drop_null(pc.unique(_texts(table, name)))
    return tuple(sorted(values.to_pylist()))
