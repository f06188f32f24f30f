"""What an answer says of its features: their age, where they came from, as of when they are."""

import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from fakes import CUTOFF, AppClient, FakeSource
from feastrain.serving.api import create_app
from feastrain.settings import Settings
from planner_facts import LEVELS, ORIGINS, evidence, served

B, C = {"site": 1, "item": "b"}, {"site": 1, "item": "c"}
UNKNOWN = {"site": 7, "item": "b"}


def client_of(most_seconds: float | None = None) -> tuple[AppClient, FakeSource]:
    """A client of an app with a limit to the age of features, and its source to meddle with."""
    forecaster, source, history = served(LEVELS)
    settings = Settings(max_feature_age_seconds=most_seconds)
    app = create_app(forecaster, history, settings, evidence=evidence(forecaster, history))
    return AppClient(app), source


def old() -> float:
    return time.time() - CUTOFF.timestamp()


def ask(client: AppClient, *series: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/forecasts", json={"series": series, **more})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def test_each_series_tells_how_old_its_features_are() -> None:
    """By when they happened, not by the cut-off; one that is unknown has no age."""
    client, source = client_of()
    source.late[1, "c"] = timedelta(weeks=3)
    ages = [one["age_seconds"] for one in ask(client, B, C, UNKNOWN)["series"]]
    assert ages[0] == pytest.approx(old(), abs=60)
    assert ages[1] == pytest.approx(old() + 3 * 7 * 86400, abs=60)
    assert ages[2] is None


def test_features_of_unknown_age_are_as_old_as_the_cutoff() -> None:
    """A source that does not tell when a row happened knows that it was not later."""
    client, source = client_of()
    source.late[1, "c"] = timedelta(weeks=3)
    read = source.read
    source.read = lambda series: replace(read(series), happened=None)  # type: ignore[method-assign]
    ages = [one["age_seconds"] for one in ask(client, B, C)["series"]]
    assert [pytest.approx(old(), abs=60)] * 2 == ages


def test_features_beyond_the_limit_are_stale() -> None:
    """The forecast is there all the same: the client decides."""
    client, source = client_of(old() + 86400)
    source.late[1, "c"] = timedelta(weeks=3)
    series = ask(client, B, C, UNKNOWN)["series"]
    assert ["ok", "stale", "unknown"] == [one["status"] for one in series]
    assert [4, 4, 0] == [len(one["steps"]) for one in series]


def test_a_server_whose_cutoff_is_too_old_is_not_ready() -> None:
    """With a limit; without one any age will do."""
    answer = client_of(3600.0)[0].get("/healthz/ready")
    assert answer.status_code == 503
    assert "s old, more than the 3600 s of FEASTRAIN_MAX_FEATURE_AGE_SECONDS" in answer.text
    assert client_of(old() + 60)[0].get("/healthz/ready").status_code == 200
    assert client_of()[0].get("/healthz/ready").status_code == 200


@pytest.mark.parametrize("origin", ["primary", "fallback", "mixed", "store"])
def test_an_answer_says_which_store_it_came_from(origin: Any) -> None:
    """As the source tells; a metric counts them."""
    client, source = client_of()
    source.origin = origin
    assert ask(client, B)["source"] == origin
    counted = f'feastrain_serving_reads_total{{source="{origin}"}}'
    assert counted in client.get("/metrics").text


@pytest.mark.parametrize("late", [timedelta(0), timedelta(days=6)])
def test_the_past_is_answered_by_the_backtest(late: timedelta) -> None:
    """By the models of that cut-off, which did not know what came after; the bundle did."""
    client, source = client_of()
    source.error = AssertionError("the online store was read")
    answer = ask(client, B, UNKNOWN, as_of=(ORIGINS[0] + late).isoformat(), steps=2)
    assert answer["cutoff"] == "2012-08-17T23:59:59Z"
    named = ("bundle", "snapshot", "backtest", "source")
    assert [None, None, "b7b7b7b7b7b7b7b7", "backtest"] == [answer[name] for name in named]
    known, unknown = answer["series"]
    assert [("ok", 2), ("unknown", 0)] == [
        (one["status"], len(one["steps"])) for one in (known, unknown)
    ]
    assert ["2012-08-24", "2012-08-31"] == [step["period"] for step in known["steps"]]
    quantiles = known["steps"][0]["quantiles"]
    assert quantiles["0.9"] == pytest.approx(quantiles["0.1"] + 20)


def test_as_of_now_is_as_of_the_online_store() -> None:
    """From its cut-off on, however late."""
    answer = ask(client_of()[0], B, as_of="2031-01-01T00:00:00+01:00")
    assert ("2012-10-26T23:59:59Z", "store") == (answer["cutoff"], answer["source"])


@pytest.mark.parametrize(
    ("as_of", "error"),
    [
        ("2012-08-25T00:00:00Z", "nothing is known as of 2012-08-25T00:00:00Z; the last backtest"),
        ("1999-01-01T00:00:00Z", "has 2 cut-offs from 2012-08-17T23:59:59Z to 2012-09-14T23"),
        ("2012-08-17T23:59:59", "as_of: Input should have timezone info"),
        ("1345248000.5", 'as_of: a time is text with a zone: "2012-08-31T23:59:59Z"'),
        (1345248000, 'as_of: a time is text with a zone: "2012-08-31T23:59:59Z"'),
        ("yesterday", "as_of: Input should be a valid datetime"),
    ],
)
def test_a_past_that_nobody_forecast_is_refused(as_of: object, error: str) -> None:
    """The line says what can be asked for."""
    client, _ = client_of()
    answer = client.post("/v1/forecasts", json={"series": [B], "as_of": as_of})
    assert answer.status_code == 422
    assert error in answer.json()["error"]


def test_without_a_backtest_there_is_no_past() -> None:
    """The line says which command makes one."""
    forecaster, _, history = served(LEVELS)
    client = AppClient(create_app(forecaster, history, Settings()))
    asked = {"series": [B], "as_of": "2012-08-17T23:59:59Z"}
    answer = client.post("/v1/forecasts", json=asked)
    assert answer.status_code == 422
    assert "publish a backtest (`feastrain backtest`)" in answer.json()["error"]


def test_metrics_tell_age_and_size_of_forecasts() -> None:
    """The oldest features of a request; and what is forecast over what was usual."""
    client, source = client_of(old() + 86400)
    source.late[1, "c"] = timedelta(weeks=3)
    names = (
        'feastrain_serving_feature_age_seconds_bucket{le="+Inf"}',
        'feastrain_serving_feature_age_seconds_bucket{le="7.9488e+06"}',
        'feastrain_serving_forecast_ratio_bucket{le="2.0"}',
        'feastrain_serving_forecast_ratio_bucket{le="0.5"}',
        'feastrain_serving_series_total{status="stale"}',
    )
    counts = []
    for _ in range(2):
        ask(client, B, C, UNKNOWN)
        lines = client.get("/metrics").text.splitlines()
        numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        counts.append([float(numbers[name]) for name in names])
    assert [1.0, 0.0, 2.0, 0.0, 1.0] == [b - a for a, b in zip(*counts, strict=True)]
