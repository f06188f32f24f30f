"""A port of rank 0 that answers GET from a thread of its own.

At most `CONNECTIONS` are open at once and none is waited for longer than `TIMEOUT_SECONDS`;
one too many is closed unanswered.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from feastrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http import HTTPStatus

CONNECTIONS = 8
TIMEOUT_SECONDS = 5.0


class Answer(NamedTuple):
    """What a client gets."""

    status: HTTPStatus
    body: bytes
    kind: str = "text/plain; charset=utf-8"


@contextlib.contextmanager
def answering(
    answer: Callable[[str], Answer], host: str, port: int, setting: str
) -> Iterator[None]:
    """Answer on `host` and `port` for the length of the block.

    Args:
        answer: what is told for a path.
        host: the address.
        port: on it.
        setting: what said the port, to be named where it cannot be had.

    Raises:
        UsageError: the port is taken, or the address is not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = _Server(answer, family, address)
    except OSError as error:
        message = (
            f"port {port} of {host!r} cannot be opened for this run ({error.strerror}): "
            f"mend {setting} or FEASTRAIN_METRICS_HOST"
        )
        raise UsageError(message) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(
        self, answer: Callable[[str], Answer], family: socket.AddressFamily, address: Any
    ) -> None:
        self.answer, self.address_family = answer, family
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
        answer = self.server.answer(self.path.partition("?")[0])
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Say nothing: a scrape every few seconds is no news."""
