import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feastrain.models.baselines import (
    Events,
    History,
    group_season_product,
    seasonal_naive,
    seasonal_naive_growth,
    trend_season_ridge,
)


def history(labels, cutoffs, horizon: int, season: int, events: Events | None = None) -> History:
    """One row for each series, at the cut-off given for it."""
    label_SP = np.atleast_2d(np.asarray(labels, dtype=float))
    series_N = np.arange(len(label_SP))
    return History(label_SP, series_N, np.asarray(cutoffs), horizon, season, events)


def test_seasonal_naive_repeats_the_same_period_of_last_season() -> None:
    """Step h takes the label one season before the target period."""
    forecast = seasonal_naive(history(np.arange(10.0), [8], horizon=2, season=4))
    assert [[5.0, 6.0]] == forecast.tolist()


def test_seasonal_naive_beyond_one_season_goes_back_two() -> None:
    """A step longer than the season takes the newest season that had closed."""
    forecast = seasonal_naive(history(np.arange(10.0), [9], horizon=5, season=4))
    assert [[6.0, 7.0, 8.0, 9.0, 6.0]] == forecast.tolist()


def test_seasonal_naive_falls_back_on_the_last_label_then_zero() -> None:
    """A hole a season ago takes the last label; a series without any takes zero."""
    labels = [[np.nan, 3.0, np.nan, np.nan], [np.nan] * 4]
    forecast = seasonal_naive(history(labels, [3, 3], horizon=1, season=4))
    assert [[3.0], [0.0]] == forecast.tolist()


def test_seasonal_naive_moves_with_its_events() -> None:
    """A feast two periods later than last season takes the feast, and its neighbours theirs."""
    labels = np.arange(40.0)
    past = np.zeros((1, 40), dtype=int)
    past[0, 25] = 1
    ahead = np.zeros((1, 12), dtype=int)
    ahead[0, 7] = 1  # period 47, and a season of 20 before it lies period 27
    past_events = history(labels, [39], 12, 20, Events(past, ahead))
    plain = np.arange(20.0, 32.0)
    expected = np.where(np.abs(np.arange(12) - 7) <= 3, plain - 2, plain)
    np.testing.assert_array_equal(expected, seasonal_naive(past_events)[0])


def test_an_event_without_its_like_a_season_ago_moves_nothing() -> None:
    """Another feast there is not taken for it."""
    past, ahead = np.full((1, 40), 2), np.full((1, 4), 1)
    plain = seasonal_naive(history(np.arange(40.0), [39], 4, 20))
    moved = seasonal_naive(history(np.arange(40.0), [39], 4, 20, Events(past, ahead)))
    np.testing.assert_array_equal(plain, moved)


def test_growth_is_the_recent_sum_over_that_of_a_season_ago() -> None:
    """A series half as high again as a season ago is forecast half as high as that season."""
    labels = np.concatenate([np.full(20, 10.0), np.full(20, 15.0)])
    forecast = seasonal_naive_growth(history(labels, [36], horizon=2, season=20))
    assert [[15.0, 15.0]] == forecast.tolist()


def test_product_gives_a_series_the_season_of_its_group() -> None:
    """A series ten times as large that has no season of its own yet is forecast with theirs."""
    season = np.array([1.0, 2.0, 3.0, 2.0] * 3)
    labels = np.stack([season, season, np.where(np.arange(12) < 8, np.nan, 10 * season)])
    forecast = group_season_product(history(labels, [11] * 3, 4, 4), np.zeros(3, dtype=int))
    np.testing.assert_allclose(season[:4], forecast[0])
    np.testing.assert_allclose(10 * season[:4], forecast[2])


def test_product_keeps_groups_apart() -> None:
    """What another group sells moves nothing."""
    labels = np.random.default_rng(0).uniform(1, 9, (4, 30))
    group = np.array([0, 0, 1, 1])
    before = group_season_product(history(labels, [29] * 4, 5, 8), group)
    labels[2:] *= np.linspace(1, 50, 30)
    after = group_season_product(history(labels, [29] * 4, 5, 8), group)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (before[2:] != after[2:]).all()


def test_ridge_continues_a_line_with_a_season() -> None:
    """With many seasons seen, a growing series with a season goes on as it did."""
    position = np.arange(400)
    truth = 100 + 5 * position / 4 + np.array([0.0, 30.0, -10.0, 5.0])[position % 4]
    forecast = trend_season_ridge(history(truth[:396], [395], horizon=4, season=4))
    np.testing.assert_allclose(truth[396:], forecast[0], rtol=2e-3)


@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 6), st.randoms())
def test_ridge_is_the_solution_of_its_normal_equations(periods, season, horizon, random) -> None:
    """A line and an effect of each place in the season, as a least squares with a row a penalty."""
    label = np.array([random.choice([np.nan, random.uniform(-9, 9)]) for _ in range(periods)])

    def design(position):
        dummies = np.eye(season)[position % season]
        trend = (position - (periods - 1)) / season
        return np.column_stack([np.ones(len(position)), trend, dummies])

    seen = np.isfinite(label)
    penalties = np.diag(np.sqrt([1e-6, 20.0, *[0.1] * season]))
    penalised = np.vstack([design(np.arange(periods))[seen], penalties])
    target = np.concatenate([label[seen], np.zeros(len(penalties))])
    coefficients = np.linalg.lstsq(penalised, target)[0]
    expected = design(periods + np.arange(horizon)) @ coefficients
    forecast = trend_season_ridge(history(label, [periods - 1], horizon, season))[0]
    np.testing.assert_allclose(expected, forecast, rtol=1e-6, atol=1e-6)


def test_ridge_of_a_season_far_longer_than_the_data_is_no_larger() -> None:
    """A season of a year of minutes, of which a hundred have been seen."""
    label = np.arange(100.0)
    (forecast,) = trend_season_ridge(history(label, [99], horizon=2, season=525_600))
    assert np.isfinite(forecast).all()


@given(st.integers(0, 29), st.integers(1, 8), st.integers(1, 12), st.randoms())
def test_no_baseline_reads_a_label_after_the_cutoff(cutoff, horizon, season, random) -> None:
    """Changing every label and event after the cut-off changes no forecast."""
    labels = np.array([[random.uniform(1, 100) for _ in range(30)] for _ in range(2)])
    codes = np.array([[random.randrange(3) for _ in range(30)] for _ in range(2)])
    ahead = np.array([[random.randrange(3) for _ in range(horizon)] for _ in range(2)])
    changed, moved = labels.copy(), codes.copy()
    changed[:, cutoff + 1 :] = -1e9
    moved[:, cutoff + 1 :] = 1
    before = history(labels, [cutoff] * 2, horizon, season, Events(codes, ahead))
    after = history(changed, [cutoff] * 2, horizon, season, Events(moved, ahead))
    for baseline in (
        seasonal_naive,
        seasonal_naive_growth,
        trend_season_ridge,
        lambda past: group_season_product(past, np.zeros(2, dtype=int)),
    ):
        np.testing.assert_array_equal(baseline(before), baseline(after))
