"""Spans of a request, for OpenTelemetry where somebody asked for them; else nothing.

A span costs one look at a variable until `trace_to` is called, which only a server does that
FEASTRAIN_OTLP_ENDPOINT tells to.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from feastrain.errors import UsageError
from feastrain.telemetry import BOUND
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SERVICE = "feastrain-serve"
SEND_SECONDS = 2.0
"""How long a collector has to take spans; a server that stops waits as long for the last ones."""


class _Tracing:
    """What makes spans in this process."""

    tracer: Any = None


@contextlib.contextmanager
def span(name: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> Iterator[dict[str, Any]]:
    """Time a block as a span, which says what `bind` was told and what the block adds.

    Args:
        name: what the block does, of few words that are always the same.
        headers: those of a request, whose trace the span goes on with.
    """
    attributes: dict[str, Any] = {}
    if _Tracing.tracer is None:
        yield attributes
        return
    from opentelemetry.propagate import extract

    sent = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers}
    context = extract(sent) if "traceparent" in sent else None
    with _Tracing.tracer.start_as_current_span(name, context) as current:
        try:
            yield attributes
        finally:
            told = {f"feastrain.{key}": str(value) for key, value in BOUND.items()}
            current.set_attributes(told | attributes)


def trace_to(endpoint: str) -> Any:
    """Send the spans of this process to a collector, by OTLP over HTTP, and return what does.

    It sends from a thread of its own, and drops what the collector does not take.

    Raises:
        UsageError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = (
            "FEASTRAIN_OTLP_ENDPOINT asks for traces, and OpenTelemetry is not installed: "
            "pip install 'feastrain[otel]'"
        )
        raise UsageError(message) from error
    address = f"{endpoint.rstrip('/')}/v1/traces"
    processor = BatchSpanProcessor(OTLPSpanExporter(address, timeout=SEND_SECONDS))
    trace_by(processor)
    return processor


def trace_by(processor: Any) -> None:
    """Give the spans of this process to a processor of OpenTelemetry's SDK."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    about = {"service.name": SERVICE, "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(processor)
    _Tracing.tracer = provider.get_tracer("feastrain", __version__)


def trace_no_more() -> None:
    """Make no more spans in this process."""
    _Tracing.tracer = None
