"""Forecasts from online features, and the history beside them."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from fakes import CUTOFF, TIMESTAMP, WEEK, FakeBundle, FakeSource, fake_forecaster, fake_labels
from feastrain.errors import DataError
from feastrain.serving.forecaster import Forecaster
from feastrain.serving.history import History

LEVELS: dict[tuple[object, ...], float] = {(1, "b"): 100.0, (1, "c"): 200.0, (2, "a"): 300.0}


def series(*keys: tuple[int, str]) -> pa.Table:
    return pa.table({"site": [key[0] for key in keys], "item": [key[1] for key in keys]})


def test_rows_follow_the_series_asked_for_then_the_step() -> None:
    """The first series asked for comes first, whatever its key, nearest step first."""
    forecaster, _, _ = fake_forecaster(LEVELS)
    table = forecaster.forecast(series((2, "a"), (1, "b"))).table()
    assert table["site"].to_pylist() == [2] * 4 + [1] * 4
    assert table["step"].to_pylist() == [1, 2, 3, 4] * 2
    assert table["q0.5"].to_pylist() == [301.0, 302.0, 303.0, 304.0, 101.0, 102.0, 103.0, 104.0]


def test_the_table_has_the_documented_columns() -> None:
    """Entities, cut-off, step, period and one double for each quantile."""
    forecaster, _, _ = fake_forecaster(LEVELS)
    schema = forecaster.forecast(series((1, "b"))).table().schema
    quantiles = ["q0.1", "q0.5", "q0.9"]
    assert schema.names == ["site", "item", "event_timestamp", "step", "period", *quantiles]
    assert [schema.field(name).type for name in quantiles] == [pa.float64()] * 3
    assert schema.field("period").type == TIMESTAMP
    assert schema.field("event_timestamp").type == TIMESTAMP


def test_a_period_closes_its_step_after_the_cutoff() -> None:
    """Step 1 is the period after the cut-off."""
    forecaster, _, _ = fake_forecaster(LEVELS)
    forecast = forecaster.forecast(series((1, "b")))
    assert forecast.as_of == CUTOFF
    assert forecast.table()["event_timestamp"].to_pylist() == [CUTOFF] * 4
    expected = [CUTOFF + step * WEEK for step in (1, 2, 3, 4)]
    assert expected == forecast.table()["period"].to_pylist()


def test_a_series_that_the_store_does_not_know_is_not_forecast() -> None:
    """It is told by `found`, and the bundle never sees its empty row."""
    forecaster, _, _ = fake_forecaster(LEVELS)
    forecast = forecaster.forecast(series((9, "z"), (1, "b")))
    assert forecast.found.tolist() == [False, True]
    assert forecast.table()["site"].to_pylist() == [1, 1, 1, 1]


def test_only_unknown_series_give_an_empty_table() -> None:
    """The columns are those of any forecast."""
    forecaster, _, _ = fake_forecaster(LEVELS)
    known = forecaster.forecast(series((1, "b"))).table()
    unknown = forecaster.forecast(series((9, "z"))).table()
    assert len(unknown) == 0
    assert unknown.schema == known.schema


def test_events_of_the_target_periods_are_told() -> None:
    """The known-ahead feature with the name of the label's event names them."""
    forecaster, _, _ = fake_forecaster(LEVELS)
    forecast = forecaster.forecast(series((1, "b"), (2, "a")))
    assert forecast.event_MH is not None
    assert forecast.event_MH.tolist() == [["", "", "", "Thanksgiving"]] * 2


def test_events_follow_the_keys_of_what_is_known_ahead() -> None:
    """Where they are keyed by an entity, each series gets its own."""
    bundle = FakeBundle(known_keys=("site",))
    forecast = Forecaster(bundle, FakeSource(LEVELS, bundle)).forecast(series((2, "a"), (1, "b")))
    assert forecast.event_MH is not None
    assert forecast.event_MH.tolist() == [["", "", "", "Thanksgiving"]] * 2


def test_there_are_no_events_where_no_feature_tells_them() -> None:
    """None differs from a period that is known to be plain."""
    bundle = FakeBundle(known_ahead=())
    assert (
        Forecaster(bundle, FakeSource(LEVELS, bundle)).forecast(series((1, "b"))).event_MH is None
    )


def test_what_is_not_a_number_is_refused_by_series() -> None:
    """A model's NaN never reaches a planner; the series is named."""
    bundle = FakeBundle(answer=float("nan"))
    forecaster = Forecaster(bundle, FakeSource(LEVELS, bundle))
    with pytest.raises(DataError, match=r"no number for 1 series, \{'site': 1, 'item': 'b'\}"):
        forecaster.forecast(series((1, "b")))


def test_history_is_found_by_key_oldest_period_first() -> None:
    """However the labels were ordered."""
    labels = fake_labels(LEVELS)
    shuffled = labels.take(np.random.default_rng(0).permutation(len(labels)))
    found = History(shuffled, ("site", "item")).of((1, "c"))
    assert found is not None
    assert found.periods[0] == datetime(2010, 2, 5, 23, 59, 59, tzinfo=UTC)
    assert found.periods[-1] == CUTOFF
    assert found.events[1] == "Super Bowl"
    assert found.weights[:2] == (1.0, 5.0)
    assert list(found.labels) == labels.slice(143, 143)["label"].to_pylist()


def test_a_key_without_labels_has_no_history() -> None:
    """None says so."""
    assert History(fake_labels(LEVELS), ("site", "item")).of((1, "z")) is None


def test_a_summary_counts_the_last_52_periods_of_the_calendar() -> None:
    """A series that stopped half a year ago is summed over the half year that it was there."""
    labels = fake_labels({(1, "a"): 10.0, (1, "b"): 10.0}, periods=60)
    flat = labels.set_column(3, "label", pa.array([10.0] * len(labels)))
    stopped = flat.filter(pa.array([True] * 60 + [True] * 34 + [False] * 26))
    first, second = History(stopped, ("site", "item")).summaries()
    assert (first.key, first.total, first.mean) == ((1, "a"), 520.0, 10.0)
    assert (second.key, second.total, second.mean) == ((1, "b"), 260.0, 10.0)


def test_no_labels_make_no_series() -> None:
    """An empty table is no error here."""
    history = History(fake_labels(LEVELS).slice(0, 0), ("site", "item"))
    assert history.keys == []
    assert history.summaries() == []
