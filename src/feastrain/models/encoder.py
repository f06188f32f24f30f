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
from feastrain.recipe import FeatureColumns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Whole = NDArray[np.int64]

CLIP = 8.0
FLOOR_QUANTILE = 0.01
RUN = 16_384
"""Rows that are scaled at a time: all columns of them fit a cache."""
SCALING = ("mean", "deviation")
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
        groups, group_N = known_groups(rows, known, self.columns)
        return Encoded(
            row_NF=np.column_stack(
                [
                    _standardised(np.log(unit_N), self.log_unit),
                    self._scaled(rows, self.rows, [n.name for n in self.rows], unit_N),
                ]
            ),
            category_NC=self.codes(rows, self.row_categories),
            step_NHS=self._stepped(rows, unit_N),
            group_N=group_N,
            known_GHK=self._scaled(known, self.known, [n.name for n in self.known]).reshape(
                groups, self.columns.horizon, width(self.known)
            ),
            known_category_GHD=self.codes(known, self.known_categories).reshape(
                groups, self.columns.horizon, len(self.known_categories)
            ),
            unit_N=unit_N.astype(np.float32),
        )

    def unit(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return [N]: the unit that each row's labels are expressed in."""
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
        base_NH = np.column_stack([_numbers(rows, f"{baseline}_{step}") for step in steps])
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
            found = pc.index_in(_texts(table, name), value_set=self._words[name])
            codes[:, column] = pc.fill_null(found, -1).to_numpy(zero_copy_only=False) + 1
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
    def _words(self) -> dict[str, pa.Array]:
        return {name: pa.array(words, pa.string()) for name, words in self.vocabularies.items()}

    def _scaled(
        self,
        table: pa.Table,
        numbers: tuple[Number, ...],
        columns: list[str],
        unit_N: NDArray[np.float64] | None = None,
    ) -> Floats:
        """Return [N, X]: each column scaled as its number and, where it may miss, an indicator."""
        scaled_NX = np.empty((len(table), width(numbers)), dtype=np.float32)
        column_V = [_column(table, name) for name in columns]
        mean_V, deviation_V = (np.array([getattr(n, of) for n in numbers]) for of in SCALING)
        in_units_V = np.array([n.in_units and unit_N is not None for n in numbers], dtype=bool)
        last, places = len(numbers), []
        for place, number in enumerate(numbers):
            places += [place, last + place] if number.may_miss else [place]
        for start in range(0, len(table) if numbers else 0, RUN):
            run = slice(start, start + RUN)
            value_BV = np.column_stack([_floats(column[run]) for column in column_V])
            missing_BV = ~np.isfinite(value_BV)
            value_BV -= np.where(in_units_V, 0.0, mean_V)
            if unit_N is None:
                value_BV /= deviation_V
            else:
                unit_B1 = unit_N[run, None]
                value_BV /= np.where(in_units_V, unit_B1, deviation_V)
            value_BV.clip(-CLIP, CLIP, out=value_BV)
            value_BV[missing_BV] = 0.0
            both_BV = np.concatenate([value_BV, missing_BV], axis=1)
            scaled_NX[run] = both_BV[:, places]
        return scaled_NX

    def _stepped(self, rows: pa.Table, unit_N: NDArray[np.float64]) -> Floats:
        horizon = self.columns.horizon
        columns = [
            f"{number.name}_{step}" for step in range(1, horizon + 1) for number in self.stepped
        ]
        scaled_NX = self._scaled(rows, self.stepped * horizon, columns, unit_N)
        return scaled_NX.reshape(len(rows), horizon, width(self.stepped))


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
    return _floats(_column(table, name))


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        message = f"feature {name!r} is text; list it in features.categorical of the recipe"
        raise RecipeError(message)
    return column


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    if column.type != pa.float64():
        column = column.cast(pa.float64())
    values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
    return values


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


def known_groups(rows: pa.Table, known: pa.Table, columns: FeatureColumns) -> tuple[int, Whole]:
    """Return how many groups of H known-ahead rows there are, and each row's group.

    Raises:
        DataError: a row has no group, or they are not H rows each.
    """
    heads = known_heads(known, columns)
    group_N = groups_among(rows.select(heads.column_names), heads)
    if missing := int((group_N < 0).sum()):
        message = f"{missing:,} rows have no known-ahead rows for their cut-off"
        raise DataError(message)
    return len(heads), group_N


def known_heads(known: pa.Table, columns: FeatureColumns) -> pa.Table:
    """Return [G] the keys and cut-off of every group of H known-ahead rows.

    Raises:
        DataError: they are not H rows each.
    """
    horizon = columns.horizon
    steps = known["step"].to_numpy()
    if (
        len(known) % horizon
        or (steps != np.tile(np.arange(horizon) + 1, len(known) // horizon)).any()
    ):
        message = f"the known-ahead rows are not {horizon} steps in order for each cut-off"
        raise DataError(message)
    keys = [*columns.known_keys, "event_timestamp"]
    return known.select(keys).take(pa.array(np.arange(0, len(known), horizon)))


def groups_among(wanted: pa.Table, heads: pa.Table) -> Whole:
    """Return for each row of `wanted` the place in `heads` of the same values, -1 for none."""
    code_N, code_G = np.zeros(len(wanted), dtype=np.int64), np.zeros(len(heads), dtype=np.int64)
    absent_N = np.zeros(len(wanted), dtype=bool)
    for name in heads.column_names:  # one number for all keys: a join costs milliseconds
        values = pc.unique(heads[name])
        place_N, place_G = (_places(table[name], values) for table in (wanted, heads))
        absent_N |= place_N < 0
        code_N, code_G = code_N * len(values) + place_N, code_G * len(values) + place_G
    order_G = np.argsort(code_G, kind="stable")
    found_N = np.searchsorted(code_G, code_N, sorter=order_G).clip(max=max(len(heads) - 1, 0))
    if not len(heads):
        return np.full(len(wanted), -1)
    group_N = order_G[found_N]
    return np.where(absent_N | (code_G[group_N] != code_N), -1, group_N)


def _places(column: pa.ChunkedArray, values: pa.Array) -> Whole:
    """Return [N]: the place of each value among others, -1 for none."""
    found = pc.index_in(column, value_set=values, skip_nulls=True)
    return np.asarray(pc.fill_null(found, -1), dtype=np.int64)
