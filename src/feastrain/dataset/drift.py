"""How far the features of one training set are from those of another.

Three distances, none of which assumes a distribution:

- **Population stability index** of a feature, over bins *i* that hold the shares *p* of the
  reference and *q* of the newcomer: `PSI = sum_i (q_i - p_i) * ln(q_i / p_i)`. A number's bins
  are cut at the deciles of the reference, and a value that is two of them is a bin of its own;
  a category is a bin; missing values are one more. A share below 0.0001 counts as that much,
  so an empty bin costs no more than 9.2. The usual reading is: below 0.1 no change, 0.1 to
  0.25 some, above 0.25 a population of its own (N. Siddiqi, *Credit Risk Scorecards*, Wiley
  2006; the statistic is Jeffreys' divergence).
- **Kolmogorov-Smirnov distance** of a number: the largest gap between the two cumulative
  distributions of its values, 0 to 1 (N. Smirnov, *Ann. Math. Statist.* 19, 1948). It has no
  p-value here: rows of neighbouring cut-offs are no independent sample, and with hundreds of
  thousands of them every difference is significant.
- **Missing change**: the share of missing values in the newcomer less that in the reference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feastrain.dataset.verdict import EXAMPLES, Verdict
from feastrain.errors import DataError
from feastrain.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from feastrain.expectations import DriftLimits
    from feastrain.recipe import FeatureColumns

LEAST_SHARE = 1e-4
DECILES = np.linspace(0.1, 0.9, 9)
SHOWN_CATEGORIES = 10


@dataclass(frozen=True)
class Sample:
    """One part of a training set: its rows and the known-ahead rows of the same cut-offs."""

    rows: pa.Table
    known: pa.Table
    columns: FeatureColumns

    @classmethod
    def of_part(cls, rows: pa.Table, known: pa.Table, columns: FeatureColumns, part: str) -> Sample:
        """Return the sample of one part of the split, or of `all`.

        Raises:
            DataError: the part has no rows.
        """
        if part != "all":
            rows = rows.filter(pc.equal(rows["split"], part))
            cutoffs = pc.unique(rows["event_timestamp"])
            known = known.filter(pc.is_in(known["event_timestamp"], value_set=cutoffs))
        if not len(rows):
            message = f"the training set has no {part} rows to compare; choose another part"
            raise DataError(message)
        return cls(rows, known, columns)

    def features(self) -> dict[str, pa.Table]:
        """Return where what is compared is: entities, features and the nearest label, by name."""
        left_out = {"event_timestamp", "split", "step", *self._steps_of("weight")}
        left_out |= self._steps_of("label") - {"label_1"}
        found: dict[str, pa.Table] = {}
        for table in (self.rows, self.known):
            for field in table.schema:
                if field.name not in left_out and not pa.types.is_timestamp(field.type):
                    found.setdefault(field.name, table)
        return found

    def _steps_of(self, name: str) -> set[str]:
        return {f"{name}_{step}" for step in range(1, self.columns.horizon + 1)}


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature moved; `ks` is None where there are no two sets of numbers."""

    feature: str
    kind: str
    psi: float
    ks: float | None
    missing_before: float
    missing_after: float
    new_categories: tuple[str, ...] = ()
    """The commonest of them, at most ten."""
    new_share: float = 0.0
    """Rows of the newcomer that hold a category which the reference lacks."""

    @property
    def missing_change(self) -> float:
        """How much the share of missing values grew."""
        return self.missing_after - self.missing_before


@dataclass(frozen=True)
class Drift(Shown):
    """Every common feature, worst first, and the features that only one side has."""

    features: tuple[FeatureDrift, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    rows_before: int
    rows_after: int

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return {
            **asdict(self),
            "features": [
                {**asdict(feature), "missing_change": feature.missing_change}
                for feature in self.features
            ],
        }


def measure_drift(reference: Sample, newcomer: Sample) -> Drift:
    """Compare every feature that both samples have.

    Entities and what the newcomer's recipe calls categorical are compared as categories, as
    are texts and truth values; all else is compared as numbers.
    """
    before, after = reference.features(), newcomer.features()
    categorical = {*newcomer.columns.entities, *newcomer.columns.categorical}
    measured = [
        _measure(name, before[name][name], after[name][name], categorical=name in categorical)
        for name in before
        if name in after
    ]
    measured.sort(key=lambda f: (-f.psi, -(f.ks or 0.0), -abs(f.missing_change), f.feature))
    return Drift(
        features=tuple(measured),
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        rows_before=len(reference.rows),
        rows_after=len(newcomer.rows),
    )


def judge_drift(drift: Drift, limits: DriftLimits, against: str) -> list[Verdict]:
    """Return one verdict for every limit: how many features are beyond it, and the worst.

    Args:
        drift: what was measured.
        limits: the recipe's.
        against: name of the reference.
    """
    measures: list[tuple[str, float | None, Callable[[FeatureDrift], float]]] = [
        ("PSI", limits.max_psi, lambda feature: feature.psi),
        ("KS", limits.max_ks, lambda feature: feature.ks or 0.0),
        ("missing change", limits.max_missing_change, lambda f: abs(f.missing_change)),
    ]
    verdicts = []
    for name, limit, measure in measures:
        if limit is None or not drift.features:
            continue
        ranked = sorted(drift.features, key=measure, reverse=True)
        beyond = [feature for feature in ranked if measure(feature) > limit]
        verdicts.append(
            Verdict(
                column="(drift)",
                expectation=f"{name} of every feature <= {limit:g}",
                severity=limits.severity,
                failures=len(beyond),
                rows=len(ranked),
                examples=tuple(
                    {"key": {"feature": feature.feature}, "value": round(measure(feature), 4)}
                    for feature in beyond[:EXAMPLES]
                ),
                found=f"{measure(ranked[0]):.3g} of {ranked[0].feature}, against {against}",
            )
        )
    return verdicts


def psi(before_B: NDArray[np.float64], after_B: NDArray[np.float64]) -> float:
    """Return the population stability index of two sets of shares over the same B bins."""
    p_B, q_B = np.maximum(before_B, LEAST_SHARE), np.maximum(after_B, LEAST_SHARE)
    return float(np.sum((q_B - p_B) * np.log(q_B / p_B)))


def ks_distance(before_N: NDArray[np.float64], after_M: NDArray[np.float64]) -> float:
    """Return the two-sample Kolmogorov-Smirnov distance of two sorted samples, neither empty."""
    both = np.concatenate([before_N, after_M])
    order = np.argsort(both, kind="stable")  # merges two sorted runs in linear time
    count_before = np.cumsum(order < len(before_N))
    count_after = np.arange(1, len(both) + 1) - count_before
    gap = np.abs(count_before / len(before_N) - count_after / len(after_M))
    ordered = both[order]
    last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    return float(np.max(gap[last_of_ties]))


def _measure(
    name: str, before: pa.ChunkedArray, after: pa.ChunkedArray, *, categorical: bool
) -> FeatureDrift:
    numbers = all(
        pa.types.is_integer(side.type) or pa.types.is_floating(side.type)
        for side in (before, after)
    )
    if categorical or not numbers:
        return _categories(name, before, after)
    return _numbers(name, before, after)


def _numbers(name: str, before: pa.ChunkedArray, after: pa.ChunkedArray) -> FeatureDrift:
    sorted_before, sorted_after = _sorted(before), _sorted(after)
    missing_before = 1 - len(sorted_before) / len(before)
    missing_after = 1 - len(sorted_after) / len(after)
    deciles = (
        np.quantile(sorted_before, DECILES, method="nearest") if len(sorted_before) else np.empty(0)
    )
    distance = psi(
        np.append(_bin_counts(sorted_before, deciles) / len(before), missing_before),
        np.append(_bin_counts(sorted_after, deciles) / len(after), missing_after),
    )
    both = len(sorted_before) and len(sorted_after)
    ks = ks_distance(sorted_before, sorted_after) if both else None
    return FeatureDrift(name, "numeric", distance, ks, missing_before, missing_after)


def _sorted(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values = np.asarray(column.to_numpy(), dtype=np.float64)
    return np.sort(values[~np.isnan(values)])


def _bin_counts(values: NDArray[np.float64], deciles: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count sorted values up to each decile, on each that is there twice, and beyond the last."""
    edges, times = np.unique(deciles, return_counts=True)
    through = np.searchsorted(values, edges, side="right")
    below = np.searchsorted(values, edges[times > 1], side="left")
    return np.diff(np.concatenate([[0], np.sort([*below, *through]), [len(values)]]))


def _categories(name: str, before: pa.ChunkedArray, after: pa.ChunkedArray) -> FeatureDrift:
    counts_before, counts_after = _counts(before), _counts(after)
    categories = sorted({*counts_before, *counts_after}, key=str)
    distance = psi(
        np.array([counts_before.get(category, 0) for category in categories]) / len(before),
        np.array([counts_after.get(category, 0) for category in categories]) / len(after),
    )
    new = {
        category: count
        for category, count in counts_after.items()
        if category is not None and category not in counts_before
    }
    commonest = sorted(new, key=lambda category: (-new[category], str(category)))
    return FeatureDrift(
        name,
        "categorical",
        distance,
        None,
        missing_before=counts_before.get(None, 0) / len(before),
        missing_after=counts_after.get(None, 0) / len(after),
        new_categories=tuple(str(category) for category in commonest[:SHOWN_CATEGORIES]),
        new_share=sum(new.values()) / len(after),
    )


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    counts = column.value_counts()
    found: dict[Any, int] = {}
    for value, count in zip(
        counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True
    ):
        missing = isinstance(value, float) and np.isnan(value)
        key = None if missing else value
        found[key] = found.get(key, 0) + count
    return found
