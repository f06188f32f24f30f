import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from feastrain.evaluation.metrics import pinball, score

# Two labels, the second one weighs 5: errors are +10 and -20.
LABEL = np.array([[100.0, -50.0, np.nan]])
WEIGHT = np.array([[1.0, 5.0, np.nan]])
POINT = np.array([[110.0, -70.0, 999.0]])


def test_scores_equal_the_hand_computed_example() -> None:
    """WMAE, MAE, WAPE and bias are what a pencil gives, and the hole counts nowhere."""
    scores = score(LABEL, WEIGHT, POINT)
    assert 2 == scores.rows
    assert (1 * 10 + 5 * 20) / 6 == pytest.approx(scores.wmae)
    assert 15 == pytest.approx(scores.mae)
    assert 30 / 150 == pytest.approx(scores.wape)
    assert -10 / 150 == pytest.approx(scores.bias)
    assert (None, None) == (scores.coverage, scores.quantile_loss)


def test_quantile_scores_equal_the_hand_computed_example() -> None:
    """Coverage and weighted quantile loss are what a pencil gives."""
    spread = np.array([[[90.0, 110.0, 120.0], [-70.0, -70.0, -60.0], [0.0, 0.0, 0.0]]])
    scores = score(LABEL, WEIGHT, POINT, spread, (0.1, 0.5, 0.9))
    assert 0.5 == scores.coverage
    by_quantile = [0.1 * 10 + 0.1 * 20, 0.5 * 10 + 0.5 * 20, 0.1 * 20 + 0.9 * 10]
    assert 2 * np.mean(by_quantile) / 150 == pytest.approx(scores.quantile_loss)


def test_pinball_weighs_the_two_sides_by_the_quantile() -> None:
    """Too little costs q a unit, too much 1 - q."""
    loss = pinball(np.array([10.0, 10.0]), np.array([8.0, 12.0]), 0.9)
    np.testing.assert_allclose([1.8, 0.2], loss)


@given(arrays(float, (7,), elements=st.floats(-1e6, 1e6)), st.sampled_from([0.1, 0.5, 0.9]))
def test_pinball_is_least_at_the_quantile(labels: np.ndarray, quantile: float) -> None:
    """No constant forecast has less summed pinball loss than an empirical quantile."""
    best = np.quantile(labels, quantile, method="inverted_cdf")
    least = pinball(labels, np.full(7, best), quantile).sum()
    assert all(
        least <= pinball(labels, np.full(7, other), quantile).sum() + 1e-6 for other in labels
    )
