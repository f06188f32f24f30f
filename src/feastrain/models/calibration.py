"""Quantiles that cover what they say: conformalized quantile regression.

Two quantiles q and 1 - q are moved apart, or together, by one offset in units of the row, so
large that on rows which the model was not fitted on the labels between them were as many as they
say (Romano, Patterson & Candès 2019, theorem 1). One offset for both: moving each side by itself
(theorem 2) also carries the bias of those rows on, which the next ones do not have. Offsets
differ by band of steps and for special periods, where there are enough labels. The median, which
is the point forecast, stays.

Shapes: N rows, H steps, Q quantiles, M labels.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

LEAST_LABELS = 100
"""A group with fewer labels takes the offsets of the group that holds it."""
BANDS = (1, 4, 8)
"""Last step of every band of steps but the last."""
EVERYTHING = "all"
KINDS = "ordinary", "special"


@dataclass(frozen=True)
class Calibration:
    """Offsets in units of a row, added to its quantiles."""

    quantiles: tuple[float, ...]
    offsets: dict[str, tuple[float, ...]]
    """[Q] by group: `0 special` or `0 ordinary` of a band of steps, the band `0`, or `all`."""

    def apply(self, forecast_NHQ: Floats, unit_N: Floats, special_NH: Flags) -> Floats:
        """Return the quantiles moved; those that would cross their neighbour stop at it."""
        horizon = special_NH.shape[1]
        offset_KHQ = self._by_step(horizon)
        offset_NHQ = offset_KHQ[special_NH.astype(np.intp), np.arange(horizon)]
        moved_NHQ = forecast_NHQ + offset_NHQ * unit_N[:, None, None]
        middle = self.quantiles.index(0.5)
        above = np.maximum.accumulate(moved_NHQ[:, :, middle:], axis=2)
        below = np.minimum.accumulate(moved_NHQ[:, :, middle::-1], axis=2)[:, :, ::-1]
        return np.concatenate([below, above[:, :, 1:]], axis=2)

    def offset(self, names: Sequence[str]) -> tuple[float, ...]:
        """Return [Q] the offsets of the first of several groups that has any."""
        none = (0.0,) * len(self.quantiles)
        return next((self.offsets[name] for name in names if name in self.offsets), none)

    @cached_property
    def _by_step(self) -> Callable[[int], Floats]:
        @cache
        def offsets(horizon: int) -> Floats:
            """Return [K, H, Q] the offsets of each kind and step."""
            return np.array(
                [[self.offset(_names(band, kind)) for band in _bands(horizon)] for kind in KINDS]
            )

        return offsets

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as plain JSON values."""
        offsets = {name: list(values) for name, values in self.offsets.items()}
        return {"quantiles": list(self.quantiles), "offsets": offsets}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Calibration:
        """Read what `to_json` wrote."""
        offsets = {name: tuple(values) for name, values in content["offsets"].items()}
        return cls(tuple(content["quantiles"]), offsets)


def calibrate(
    label_NH: Floats,
    forecast_NHQ: Floats,
    unit_N: Floats,
    special_NH: Flags,
    quantiles: Sequence[float],
) -> Calibration:
    """Find the offsets from rows that the model was not fitted on.

    Args:
        label_NH: labels, NaN where not observed.
        forecast_NHQ: quantiles in the label's unit, increasing.
        unit_N: the unit of each row, positive.
        special_NH: whether each target period is special.
        quantiles: [Q] levels, increasing, with 0.5 among them.
    """
    shortfall_NHQ = (label_NH[:, :, None] - forecast_NHQ) / unit_N[:, None, None]
    seen_NH = np.isfinite(label_NH)
    groups: dict[str, Flags] = {}
    for names, group_NH in _groups(special_NH):
        for name in names:
            groups[name] = groups.get(name, False) | group_NH & seen_NH
    offsets = {
        name: tuple(_conformal(shortfall_NHQ[group_NH], quantiles))
        for name, group_NH in groups.items()
        if group_NH.sum() >= LEAST_LABELS
    }
    return Calibration(tuple(quantiles), offsets)


def _conformal(shortfall_MQ: Floats, quantiles: Sequence[float]) -> list[float]:
    """Return [Q]: how far each quantile must rise for labels to lie on its inner side.

    Of M labels the one at rank ceil((M + 1) c) counts, from the one that lies furthest inside
    on: c is the share between a quantile and its mirror image, or, of one that has none, the
    share on its inner side.
    """
    outwards_Q = np.where(np.asarray(quantiles) < 0.5, -1.0, 1.0)
    outside_MQ, offsets = shortfall_MQ * outwards_Q, []
    for place, level in enumerate(quantiles):
        mirrored = np.flatnonzero(np.isclose(quantiles, 1 - level))
        inner = max(level, 1 - level)
        share = 2 * inner - 1 if len(mirrored) else inner
        sorted_M = np.sort(outside_MQ[:, [place, *mirrored]].max(axis=1))
        rank = min(_rank(len(sorted_M), share), len(sorted_M))
        offsets.append(0.0 if level == 0.5 else float(outwards_Q[place] * sorted_M[rank - 1]))
    return offsets


def _rank(count: int, share: float) -> int:
    # A share like 0.9 - 0.1 is not exact; what it is short of must not cost a rank.
    return max(1, math.ceil((count + 1) * share - 1e-9))


def _groups(special_NH: Flags) -> list[tuple[tuple[str, ...], Flags]]:
    """Return which of [N, H] share offsets, with the names of their groups, smallest first."""
    band_H = np.array(_bands(special_NH.shape[1]))
    return [
        (_names(band, kind), (band_H == band)[None, :] & kind_NH)
        for band in sorted({*band_H.tolist()})
        for kind, kind_NH in zip(KINDS, (~special_NH, special_NH), strict=True)
    ]


def _bands(horizon: int) -> list[int]:
    """Return [H] the band of each step."""
    return [bisect_left(BANDS, step) for step in range(1, horizon + 1)]


def _names(band: int, kind: str) -> tuple[str, ...]:
    """Return the names of the groups that hold a band's steps of a kind, smallest first."""
    return f"{band} {kind}", str(band), EVERYTHING
