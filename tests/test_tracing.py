"""Spans of a request, as OpenTelemetry's own exporter gets them."""

import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes import AppClient, FakeGateway, FakeSource, fake_forecaster
from feastrain import tracing
from feastrain.errors import FeastrainError, UsageError
from feastrain.serving.api import create_app
from feastrain.settings import Settings

B = {"series": [{"site": 1, "item": "b"}]}


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    tracing.trace_by(SimpleSpanProcessor(kept))
    yield kept
    tracing.trace_no_more()


@pytest.fixture
def served() -> tuple[AppClient, FakeSource]:
    forecaster, source, history = fake_forecaster({(1, "b"): 1.0})
    return AppClient(create_app(forecaster, history, Settings())), source


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {one.name: one for one in exporter.get_finished_spans()}


def test_a_forecast_is_a_read_and_a_model_within_a_request(
    exporter: InMemorySpanExporter, served: tuple[AppClient, FakeSource]
) -> None:
    """All in one trace, though threads do the work, and each says which bundle it is of."""
    served[0].post("/v1/forecasts", json=B)
    spans = by_name(exporter)
    assert {"request", "store read", "model"} == set(spans)
    request = spans["request"]
    for part in ("store read", "model"):
        assert request.context == spans[part].parent
        assert "b0b0b0b0b0b0b0b0" == spans[part].attributes["feastrain.bundle"]
    assert "/v1/forecasts" == request.attributes["http.route"]
    assert 200 == request.attributes["http.response.status_code"]
    assert 1 == spans["store read"].attributes["feastrain.series"]


def test_the_trace_of_a_client_goes_on(
    exporter: InMemorySpanExporter, served: tuple[AppClient, FakeSource]
) -> None:
    """By the header of W3C's Trace Context."""
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    header = {"traceparent": f"00-{trace}-{parent}-01"}
    served[0].post("/v1/forecasts", json=B, headers=header)
    request = by_name(exporter)["request"]
    assert int(trace, 16) == request.context.trace_id
    assert int(parent, 16) == request.parent.span_id


def test_a_read_that_fails_is_told_in_its_span(
    exporter: InMemorySpanExporter, served: tuple[AppClient, FakeSource]
) -> None:
    """With the error, and the request has the status that the client was given."""
    served[1].error = FeastrainError("the store is away")
    served[0].post("/v1/forecasts", json=B)
    spans = by_name(exporter)
    assert not spans["store read"].status.is_ok
    assert "the store is away" in spans["store read"].status.description
    assert 503 == spans["request"].attributes["http.response.status_code"]


def test_spans_reach_a_collector(served: tuple[AppClient, FakeSource]) -> None:
    """By OTLP over HTTP, with the name of the service."""
    with FakeGateway() as collector:
        processor = tracing.trace_to(collector.url)
        served[0].post("/v1/forecasts", json=B)
        tracing.trace_no_more()
        processor.shutdown()
    ((method, path, body),) = collector.requests
    assert ("POST", "/v1/traces") == (method, path)
    assert all(told in body for told in ("feastrain-serve", "store read", "b0b0b0b0b0b0b0b0"))


def test_a_collector_that_is_away_costs_two_seconds_at_the_end(
    served: tuple[AppClient, FakeSource],
) -> None:
    """Requests are answered as ever, and the spans are dropped."""
    processor = tracing.trace_to("http://127.0.0.1:1")
    assert 200 == served[0].post("/v1/forecasts", json=B).status_code
    tracing.trace_no_more()
    began = time.monotonic()
    processor.shutdown()
    assert time.monotonic() - began < tracing.SEND_SECONDS + 2


def test_nothing_is_traced_that_nobody_asked_for(served: tuple[AppClient, FakeSource]) -> None:
    """Without an endpoint a server answers, and OpenTelemetry makes no span."""
    assert tracing._Tracing.tracer is None
    assert 200 == served[0].post("/v1/forecasts", json=B).status_code


def test_traces_without_opentelemetry_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(UsageError, match="feastrain\\[otel\\]"):
        tracing.trace_to("http://127.0.0.1:4318")
