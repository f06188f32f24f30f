"""The port of rank 0: `/metrics`, `/healthz/live` and `/healthz/ready`, from a thread of its own.

At most `CONNECTIONS` are open at once and none is waited for longer than `TIMEOUT_SECONDS`;
one too many is closed unanswered.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from feastrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feastrain.training.metrics import Metrics

CONNECTIONS = 8
TIMEOUT_SECONDS = 5.0
PLAIN = "text/plain; charset=utf-8"


@contextlib.contextmanager
def serving(metrics: Metrics, host: str, port: int) -> Iterator[None]:
    """Answer on `host` and `port` for the length of the block.

    Raises:
        UsageError: the port is taken, or the address is not one of this machine.
    """
    server = _listen(metrics, host, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(metrics: Metrics, host: str, port: int) -> _Server:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _Server(metrics, family, address)
    except OSError as error:
        message = (
            f"the metrics of this run cannot be served at port {port} of {host!r} "
            f"({error.strerror}): mend FEASTRAIN_METRICS_PORT or FEASTRAIN_METRICS_HOST"
        )
        raise UsageError(message) from error


class _Server(ThreadingHTTPServer):
    def __init__(self, metrics: Metrics, family: socket.AddressFamily, address: Any) -> None:
        self.metrics, self.address_family = metrics, family
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's name that its parent makes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if one of the few is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and be free for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client that went away go: it is no concern of the run."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_SECONDS

    def do_GET(self) -> None:
        """Answer one request."""
        metrics = self.server.metrics
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(HTTPStatus.OK, metrics.text(), CONTENT_TYPE_PLAIN_0_0_4)
            case "/healthz/live":
                stalled = metrics.stalled_seconds
                if stalled is None:
                    self._answer(HTTPStatus.OK, b"alive\n")
                else:
                    told = f"no step has ended for {stalled:.0f} s\n"
                    self._answer(HTTPStatus.SERVICE_UNAVAILABLE, told.encode())
            case "/healthz/ready" if metrics.stepping:
                self._answer(HTTPStatus.OK, b"training\n")
            case "/healthz/ready":
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"no step has ended yet\n")
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"/metrics /healthz/live /healthz/ready\n")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = PLAIN) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Say nothing: a scrape every few seconds is no news."""
