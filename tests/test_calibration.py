import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feastrain.models.calibration import LEAST_LABELS, Calibration, calibrate

LEVELS = (0.1, 0.3, 0.5, 0.9)


def drawn(seed: int, rows: int, horizon: int, spread: float) -> tuple[np.ndarray, ...]:
    """Labels, quantiles that are too near or too far by `spread`, units, and special periods."""
    rng = np.random.default_rng(seed)
    unit = np.exp(rng.normal(3, 2, rows))
    label = rng.normal(5, 1, (rows, horizon)) * unit[:, None]
    label[rng.random((rows, horizon)) < 0.1] = np.nan
    normal = np.array([-1.2816, -0.5244, 0.0, 1.2816])
    wobble = rng.normal(0, 0.3, (rows, horizon, 1))
    forecast = (5 + wobble + spread * normal) * unit[:, None, None]
    return label, forecast, unit, rng.random((rows, horizon)) < 0.2


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(LEAST_LABELS, 400),
    horizon=st.integers(1, 12),
    spread=st.floats(0, 4),
)
def test_calibrated_quantiles_are_reached_as_often_as_they_say(
    seed: int, rows: int, horizon: int, spread: float
) -> None:
    """On the rows it was made from, each group's shares are at least the conformal bound."""
    label, forecast, unit, special = drawn(seed, rows, horizon, spread)
    made = calibrate(label, forecast, unit, special, LEVELS)
    moved = made.apply(forecast, unit, special)
    rounding = 1e-9 * unit[:, None]
    for band, (first, last) in enumerate(((1, 1), (2, 4), (5, 8), (9, 99))):
        for kind, of_kind in (("ordinary", ~special), ("special", special)):
            chosen = of_kind & np.isfinite(label)
            chosen[:, : first - 1] = chosen[:, last:] = False
            count = int(chosen.sum())
            assert (count >= LEAST_LABELS) == (f"{band} {kind}" in made.offsets)
            if count < LEAST_LABELS:
                continue
            above = [moved[:, :, place] - rounding <= label for place in range(4)]
            below = label <= moved[:, :, 3] + rounding
            for inside, said in ((above[0] & below, 0.8), (above[1], 0.7)):
                bound = math.ceil((count + 1) * said - 1e-9) / count
                assert inside[chosen].mean() >= min(bound, 1) - 1e-12


@given(st.integers(0, 10_000), st.floats(0, 4))
def test_calibrated_quantiles_do_not_cross_and_keep_the_median(seed: int, spread: float) -> None:
    """However the offsets turn out, also on other rows."""
    made = calibrate(*drawn(seed, 120, 9, spread), LEVELS)
    _, forecast, unit, special = drawn(seed + 1, 50, 9, spread / 3)
    moved = made.apply(forecast, unit, special)
    assert (np.diff(moved, axis=2) >= 0).all()
    np.testing.assert_array_equal(forecast[:, :, 2], moved[:, :, 2])


def test_offsets_equal_the_hand_computed_example() -> None:
    """Of 100 labels the 81st from the inside moves two quantiles apart; units scale it."""
    label = np.arange(1.0, 101)[:, None] * 2  # twice the rank, in units of two
    forecast = np.tile([20.0, 100.0, 150.0], (100, 1, 1))
    unit, ordinary = np.full(100, 2.0), np.zeros((100, 1), dtype=bool)
    made = calibrate(label, forecast, unit, ordinary, (0.1, 0.5, 0.9))
    # Of the label at rank k, max(10 - k, k - 75) units lie outside; 19 have more than 8.
    expected = dict.fromkeys(("0 ordinary", "0", "all"), (-8.0, 0.0, 8.0))
    assert expected == made.offsets
    moved = made.apply(forecast, unit, ordinary)
    assert [4.0, 100.0, 166.0] == moved[0, 0].tolist()
    assert 0.82 == ((moved[..., 0] <= label) & (label <= moved[..., 2])).mean()


def test_a_small_group_takes_the_offsets_of_its_band() -> None:
    """Too few special labels say nothing of their own; too few at all move nothing."""
    label, forecast, unit, special = drawn(0, 300, 2, 0.5)
    few = special & (np.arange(300) < 20)[:, None]
    made = calibrate(label, forecast, unit, few, LEVELS)
    assert "0 special" not in made.offsets
    assert made.offsets["0"] == made.offset(["0 special", "0", "all"])
    few_rows = (label[:40], forecast[:40], unit[:40], special[:40])
    nothing = calibrate(*few_rows, LEVELS)
    assert {} == nothing.offsets
    np.testing.assert_array_equal(forecast, nothing.apply(forecast, unit, special))


def test_calibration_survives_json() -> None:
    """What is written is read as it was."""
    made = calibrate(*drawn(1, 200, 5, 1.0), LEVELS)
    assert made == Calibration.from_json(json.loads(json.dumps(made.to_json())))


def test_unseen_rows_are_covered_about_as_often_as_said() -> None:
    """Bands that were half as wide as the truth cover 80% of other rows from the same source."""
    made = calibrate(*drawn(0, 4000, 4, 0.5), LEVELS)
    label, forecast, unit, special = drawn(1, 4000, 4, 0.5)

    def covered(quantile: np.ndarray) -> float:
        seen = np.isfinite(label)
        return float(((quantile[..., 0] <= label) & (label <= quantile[..., -1]))[seen].mean())

    assert covered(forecast) < 0.55
    assert 0.8 == pytest.approx(covered(made.apply(forecast, unit, special)), abs=0.015)
