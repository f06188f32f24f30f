"""What the metrics port of rank 0 answers: `/metrics`, `/healthz/live` and `/healthz/ready`."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from feastrain.training.port import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from feastrain.training.metrics import Metrics


def probes_of(metrics: Metrics) -> Callable[[str], Answer]:
    """Return what is answered about a run, by path."""

    def answer(path: str) -> Answer:
        match path:
            case "/metrics":
                return Answer(HTTPStatus.OK, metrics.text(), CONTENT_TYPE_PLAIN_0_0_4)
            case "/healthz/live":
                stalled = metrics.stalled_seconds
                if stalled is None:
                    return Answer(HTTPStatus.OK, b"alive\n")
                told = f"no step has ended for {stalled:.0f} s\n"
                return Answer(HTTPStatus.SERVICE_UNAVAILABLE, told.encode())
            case "/healthz/ready" if metrics.stepping:
                return Answer(HTTPStatus.OK, b"training\n")
            case "/healthz/ready":
                return Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"no step has ended yet\n")
        return Answer(HTTPStatus.NOT_FOUND, b"/metrics /healthz/live /healthz/ready\n")

    return answer
