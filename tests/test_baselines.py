import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feastrain.models.baselines import seasonal_naive, seasonal_naive_growth

SERIES = np.array([0])


def test_seasonal_naive_repeats_the_same_period_of_last_season() -> None:
    """Step h takes the label one season before the target period."""
    labels = np.arange(10.0)[None, :]
    forecast = seasonal_naive(labels, SERIES, np.array([8]), horizon=2, season=4)
    assert [[5.0, 6.0]] == forecast.tolist()


def test_seasonal_naive_beyond_one_season_goes_back_two() -> None:
    """A step longer than the season takes the newest season that had closed."""
    labels = np.arange(10.0)[None, :]
    forecast = seasonal_naive(labels, SERIES, np.array([9]), horizon=5, season=4)
    assert [[6.0, 7.0, 8.0, 9.0, 6.0]] == forecast.tolist()


def test_seasonal_naive_falls_back_on_the_last_label_then_zero() -> None:
    """A hole a season ago takes the last label; a series without any takes zero."""
    labels = np.array([[np.nan, 3.0, np.nan, np.nan], [np.nan] * 4])
    forecast = seasonal_naive(labels, np.array([0, 1]), np.array([3, 3]), horizon=1, season=4)
    assert [[3.0], [0.0]] == forecast.tolist()


def test_growth_is_the_recent_sum_over_that_of_a_season_ago() -> None:
    """A series half as high again as a season ago is forecast half as high as that season."""
    labels = np.concatenate([np.full(20, 10.0), np.full(20, 15.0)])[None, :]
    forecast = seasonal_naive_growth(labels, SERIES, np.array([36]), horizon=2, season=20)
    assert [[15.0, 15.0]] == forecast.tolist()


@given(st.integers(0, 29), st.integers(1, 8), st.integers(1, 12), st.randoms())
def test_no_baseline_reads_a_label_after_the_cutoff(cutoff, horizon, season, random) -> None:
    """Changing every label after the cut-off changes no forecast."""
    labels = np.array([[random.uniform(1, 100) for _ in range(30)]])
    changed = labels.copy()
    changed[:, cutoff + 1 :] = -1e9
    for baseline in (seasonal_naive, seasonal_naive_growth):
        before = baseline(labels, SERIES, np.array([cutoff]), horizon, season)
        after = baseline(changed, SERIES, np.array([cutoff]), horizon, season)
        np.testing.assert_array_equal(before, after)
