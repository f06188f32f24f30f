"""The HTTP API: what it answers, what it refuses, and how it starts and stops."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from fakes import CUTOFF, AppClient, FakeSource, fake_forecaster
from feastrain.errors import DataError, FeastrainError
from feastrain.serving.api import create_app, listen
from feastrain.serving.schemas import key_model
from feastrain.serving.workers import Workers
from feastrain.settings import Settings

LEVELS: dict[tuple[object, ...], float] = {(1, "b"): 100.0, (1, "c"): 200.0, (2, "a"): 300.0}
B = {"site": 1, "item": "b"}
SETTINGS = Settings(max_series=3, max_body_bytes=2048)


@pytest.fixture
def served() -> tuple[AppClient, FakeSource]:
    """A client of an app over fakes, and the source to meddle with."""
    forecaster, source, history = fake_forecaster(LEVELS)
    return AppClient(create_app(forecaster, history, SETTINGS)), source


@pytest.fixture
def client(served: tuple[AppClient, FakeSource]) -> AppClient:
    return served[0]


def test_a_forecast_says_what_it_was_made_from(client: AppClient) -> None:
    """Cut-off, fingerprints, the store and the age of the features come with every answer."""
    old = time.time() - CUTOFF.timestamp()
    answer = client.post("/v1/forecasts", json={"series": [B], "steps": 1})
    assert answer.status_code == 200
    assert answer.json() == {
        "cutoff": "2012-10-26T23:59:59Z",
        "bundle": "b0b0b0b0b0b0b0b0",
        "snapshot": "5a5a5a5a5a5a5a5a",
        "backtest": None,
        "source": "store",
        "quantiles": [0.1, 0.5, 0.9],
        "series": [
            {
                "key": B,
                "status": "ok",
                "age_seconds": pytest.approx(old, abs=60),
                "steps": [
                    {
                        "step": 1,
                        "period": "2012-11-02",
                        "quantiles": pytest.approx(
                            {"0.1": 96.430, "0.5": 101.0, "0.9": 105.570}, abs=1e-3
                        ),
                        "event": "",
                    }
                ],
            }
        ],
    }


def test_without_steps_the_whole_horizon_is_answered(client: AppClient) -> None:
    """Each step names its period and its event."""
    steps = client.post("/v1/forecasts", json={"series": [B]}).json()["series"][0]["steps"]
    assert [step["period"] for step in steps] == [
        "2012-11-02",
        "2012-11-09",
        "2012-11-16",
        "2012-11-23",
    ]
    assert [step["event"] for step in steps] == ["", "", "", "Thanksgiving"]


def test_an_unknown_series_has_a_status_of_its_own(client: AppClient) -> None:
    """The others are answered, in the order asked for."""
    unknown = {"site": 7, "item": "b"}
    asked = [{"site": 2, "item": "a"}, unknown, B]
    series = client.post("/v1/forecasts", json={"series": asked}).json()["series"]
    assert [one["key"] for one in series] == asked
    assert [one["status"] for one in series] == ["ok", "unknown", "ok"]
    assert [len(one["steps"]) for one in series] == [4, 0, 4]
    assert series[2]["steps"][0]["quantiles"]["0.5"] == 101.0


def test_only_unknown_series_are_still_answered_with_200(client: AppClient) -> None:
    """A batch has one shape, whatever is in it."""
    answer = client.post("/v1/forecasts", json={"series": [{"site": 7, "item": "b"}]})
    assert answer.status_code == 200
    assert answer.json()["series"][0]["status"] == "unknown"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('{"series": [{"site": 1, "item": "b"}], "steps": 5}', "steps: 5 is beyond the horizon"),
        ('{"series": [{"site": 1, "item": "b"}], "steps": 0}', "steps: Input should be greater"),
        ('{"series": [{"site": 1, "item": "b"}], "steps": true}', "steps: Input should be a valid"),
        ('{"series": [{"site": 1, "item": "b"}], "step": 1}', "unknown field 'step'"),
        ('{"series": [{"site": 1, "item": "b", "x": 1}]}', "unknown field 'series.0.x'"),
        ('{"series": [{"site": 1}]}', "field 'series.0.item' is missing"),
        ('{"series": [{"site": "1", "item": "b"}]}', "series.0.site: Input should be a valid int"),
        ('{"series": [{"site": 1.5, "item": "b"}]}', "series.0.site: Input should be a valid int"),
        ('{"series": [{"site": NaN, "item": "b"}]}', "series.0.site: Input should be a valid int"),
        ('{"series": [{"site": 1e999, "item": "b"}]}', "series.0.site: Input should be a valid"),
        ('{"series": [{"site": 99999999999999999999, "item": "b"}]}', "series.0.site: Input"),
        ('{"series": [{"site": 1, "item": 2}]}', "series.0.item: Input should be a valid string"),
        ('{"series": [{"site": 1, "item": "\\ud800"}]}', "series.0.item: Input should be a valid"),
        ('{"series": []}', "series: List should have at least 1 item"),
        ('{"series": [1]}', "series.0: Input should be a valid dictionary"),
        ("{}", "field 'series' is missing"),
        ("[]", "the body must be a JSON object"),
        ("{", "the body is not JSON"),
        ("", "the body must be a JSON object"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(client: AppClient, body: str, error: str) -> None:
    """The one line says which part, and the status is 422."""
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/forecasts", content=body, headers=headers)
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    assert error in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_no_more_series_than_the_settings_allow(client: AppClient) -> None:
    """The fourth of at most three is refused."""
    answer = client.post("/v1/forecasts", json={"series": [B] * 4})
    assert answer.status_code == 422
    assert "at most 3 items" in answer.json()["error"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused_before_it_is_parsed(client: AppClient, announced: bool) -> None:
    """Whether its length is announced, or counted as it comes in."""
    body = b'{"series": ' + b"[" * 4000

    async def parts() -> AsyncIterator[bytes]:
        yield body[:1500]
        yield body[1500:]

    content = body if announced else parts()
    answer = client.post("/v1/forecasts", content=content)
    assert answer.status_code == 413
    assert answer.json() == {
        "error": "the body is larger than the 2048 bytes that are read: ask for less"
    }


def test_deeply_nested_json_is_refused(client: AppClient) -> None:
    """It is the client's fault, not the server's."""
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/forecasts", content="[" * 2000, headers=headers)
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]


def test_a_store_that_does_not_answer_is_unavailable(
    served: tuple[AppClient, FakeSource],
) -> None:
    """The forecast says why in one line; the history is still there."""
    client, source = served
    source.error = FeastrainError("Redis at h:1 did not answer: start it")
    answer = client.post("/v1/forecasts", json={"series": [B]})
    assert answer.status_code == 503
    assert answer.json() == {"error": "Redis at h:1 did not answer: start it"}
    assert client.get("/v1/history", params=B).status_code == 200


def test_a_fault_of_the_server_tells_the_client_nothing_of_it(
    served: tuple[AppClient, FakeSource],
) -> None:
    """Only the log has the error."""
    client, source = served
    source.error = ValueError("password=secret")
    answer = client.post("/v1/forecasts", json={"series": [B]})
    assert answer.status_code == 500
    assert list(answer.json()) == ["error"]
    assert "secret" not in answer.text


def test_history_is_columns_of_equal_length(client: AppClient) -> None:
    """Periods, labels, weights and events of one series."""
    answer = client.get("/v1/history", params=B).json()
    assert answer["key"] == B
    assert answer["periods"][:2] == ["2010-02-05", "2010-02-12"]
    assert answer["events"][1] == "Super Bowl"
    assert {len(answer[name]) for name in ("periods", "labels", "weights", "events")} == {143}


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ("site=9&item=b", 404, "no history of site=9, item=b; GET /v1/series lists"),
        ("site=1", 422, "field 'item' is missing"),
        ("site=one&item=b", 422, "site: Input should be a valid integer"),
        ("site=1&item=b&x=1", 422, "unknown field 'x'"),
    ],
)
def test_a_history_that_cannot_be_given(
    client: AppClient, query: str, status: int, error: str
) -> None:
    """The line says what is wrong with the question."""
    answer = client.get(f"/v1/history?{query}")
    assert answer.status_code == status
    assert error in answer.json()["error"]


def test_all_series_are_listed_in_short(client: AppClient) -> None:
    """One row for each, under the names of its columns."""
    answer = client.get("/v1/series").json()
    assert answer["entities"] == ["site", "item"]
    assert answer["columns"] == ["site", "item", "total", "mean"]
    assert (answer["label"], answer["frequency"], answer["horizon"]) == ("units_sold", "1w", 4)
    assert [row[:2] for row in answer["series"]] == [[1, "b"], [1, "c"], [2, "a"]]
    assert all(row[2] == pytest.approx(52 * row[3]) for row in answer["series"])


def test_liveness_asks_nothing_of_the_store(served: tuple[AppClient, FakeSource]) -> None:
    """A restart would not mend the store."""
    client, source = served
    source.error = FeastrainError("down")
    assert client.get("/healthz/live").status_code == 200
    assert client.get("/healthz/ready").status_code == 503


def test_readiness_reads_one_series(served: tuple[AppClient, FakeSource]) -> None:
    """Ready is when the store answers."""
    client, source = served
    answer = client.get("/healthz/ready")
    assert answer.status_code == 200
    assert answer.json()["cutoff"] == "2012-10-26T23:59:59Z"
    assert source.entered.is_set()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(FeastrainError("Redis is down"), "Redis is down"), (OSError("h:1 secret"), "OSError")],
)
def test_unready_says_why(
    served: tuple[AppClient, FakeSource], error: Exception, reason: str
) -> None:
    """Our own errors in full, others by their kind alone: they may hold a password."""
    client, source = served
    source.error = error
    answer = client.get("/healthz/ready")
    assert answer.status_code == 503
    assert answer.json() == {"error": f"not ready: {reason}"}


def numbers(client: AppClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    split = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in split}


@pytest.mark.parametrize(
    "name",
    [
        'feastrain_serving_request_seconds_count{route="/v1/forecasts",status="200"}',
        'feastrain_serving_request_seconds_count{route="/v1/forecasts",status="422"}',
        'feastrain_serving_request_seconds_count{route="other",status="404"}',
        'feastrain_serving_series_total{status="ok"}',
        'feastrain_serving_series_total{status="unknown"}',
        "feastrain_serving_read_seconds_count",
    ],
)
def test_metrics_count_requests_series_and_reads(client: AppClient, name: str) -> None:
    """By route and status; one of each is one more."""
    counts = []
    for _ in range(2):
        client.post("/v1/forecasts", json={"series": [B, {"site": 7, "item": "b"}]})
        client.post("/v1/forecasts", json={})
        client.get("/no/such/path")
        counts.append(numbers(client)[name])
    assert counts[1] - counts[0] == 1.0


def test_metrics_tell_the_cutoff_of_the_features(client: AppClient) -> None:
    """As seconds since 1970, so that Prometheus can tell their age."""
    client.post("/v1/forecasts", json={"series": [B]})
    assert numbers(client)["feastrain_serving_cutoff_timestamp_seconds"] == CUTOFF.timestamp()


def test_a_path_that_no_route_claims_is_no_label(client: AppClient) -> None:
    """Or a client could fill the memory with made-up ones."""
    client.get("/no/such/path")
    assert "such" not in client.get("/metrics").text


def test_overload_is_refused_while_others_are_answered() -> None:
    """With every place taken a forecast gets 503 and Retry-After; the event loop is free."""
    forecaster, source, history = fake_forecaster(LEVELS)
    source.gate = threading.Event()
    app = create_app(forecaster, history, SETTINGS, Workers(threads=1, waiting=1))

    async def crowd() -> tuple[list[httpx.Response], httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            ask = {"series": [B]}
            first = [asyncio.create_task(client.post("/v1/forecasts", json=ask)) for _ in "12"]
            await asyncio.sleep(0.2)
            refused = await client.post("/v1/forecasts", json=ask)
            live = await client.get("/healthz/live")
            assert source.gate is not None
            source.gate.set()
            return [await task for task in first], refused, live

    answered, refused, live = asyncio.run(crowd())
    assert [answer.status_code for answer in answered] == [200, 200]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json() == {"error": "too many forecasts at once: try again"}
    assert live.status_code == 200


def test_the_api_describes_itself(client: AppClient) -> None:
    """The schema names the bundle's entities, and our own shape of an error."""
    schema = client.get("/openapi.json").json()
    parts = schema["components"]["schemas"]
    assert set(parts["SeriesKey"]["properties"]) == {"site", "item"}
    refused = schema["paths"]["/v1/forecasts"]["post"]["responses"]["422"]
    assert refused["content"]["application/json"]["schema"]["$ref"].endswith("/Failure")


def test_an_entity_may_have_any_name() -> None:
    """Even one that a pydantic model keeps for itself."""
    key = key_model({"schema": pa.int32(), "_x": pa.string()}, strict=True)
    assert key.model_validate({"schema": 1, "_x": "a"}).values() == (1, "a")


def test_an_entity_that_is_no_integer_or_text_is_refused() -> None:
    """A key is compared exactly; a double is not."""
    with pytest.raises(DataError, match="entity 'site' is double in the labels"):
        key_model({"site": pa.float64()}, strict=True)


def test_a_port_in_use_is_told_before_anything_starts() -> None:
    """The line names the port and the flag that mends it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FeastrainError) as caught:
            listen(Settings(port=port))
    assert caught.value.exit_code == 1
    expected = f"port {port} on 127.0.0.1 is in use by another program: choose another with --port"
    assert expected == str(caught.value)


def test_a_host_that_is_not_this_machine_is_refused() -> None:
    """An address of nobody (RFC 5737) cannot be listened on."""
    with pytest.raises(FeastrainError, match=r"port 8080 on 192\.0\.2\.1 cannot be listened on"):
        listen(Settings(host="192.0.2.1"))


SERVER = """
import sys, time
from fakes import fake_forecaster
from feastrain.serving.api import create_app, serve
from feastrain.settings import Settings

forecaster, source, history = fake_forecaster({(1, "b"): 100.0})
read = source.read
def slow(series):
    print("reading", flush=True)
    time.sleep(1.0)
    return read(series)
source.read = slow
serve(create_app(forecaster, history, Settings()), Settings(port=int(sys.argv[1])))
print("returned", flush=True)
"""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_sigterm_ends_the_server_after_the_requests_begun() -> None:
    """The forecast under way is answered, `serve` returns, and the exit code is 0."""
    port = _free_port()
    tests = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])},
    )
    answers: list[httpx.Response] = []

    def ask() -> None:
        url = f"http://127.0.0.1:{port}/v1/forecasts"
        answers.append(httpx.post(url, json={"series": [B]}, timeout=30))

    with process:
        _wait_until_live(process, port)
        asking = threading.Thread(target=ask)
        asking.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGTERM)
        asking.join(30)
        rest = process.stdout.read()
    assert [answer.status_code for answer in answers] == [200]
    assert rest == "returned\n"
    assert process.returncode == 0


def _wait_until_live(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer: Any = httpx.get(f"http://127.0.0.1:{port}/healthz/live", timeout=5)
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        assert json.loads(answer.content) == {"status": "live"}
        return
    pytest.fail("the server did not start")
