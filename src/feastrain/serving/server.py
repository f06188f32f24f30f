"""A socket, a server on it, and a quiet end when it is asked to stop."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from feastrain.errors import FeastrainError
from feastrain.telemetry import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

    from feastrain.settings import Settings

DRAIN_SECONDS = 30


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens at the host and port of `settings`.

    Raises:
        FeastrainError: the port is taken, or the address is not one of this machine.
    """
    where = f"port {settings.port} on {settings.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        message = f"{where} is not an address of this machine ({error.strerror}): mend --host"
        raise FeastrainError(message) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"{where} is in use by another program: choose another with --port"
        else:
            message = f"{where} cannot be listened on ({error.strerror}): mend --host or --port"
        raise FeastrainError(message) from error
    return listener


def serve(app: FastAPI, settings: Settings, listener: socket.socket | None = None) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish the requests begun and return.

    Args:
        app: what `create_app` made.
        settings: where to listen.
        listener: a socket that `listen` made earlier, for a caller with much to load first.

    Raises:
        FeastrainError: the port is taken, or the address is not one of this machine.
    """
    listener = listener or listen(settings)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    say(f"serving on {address_of(listener)} (Ctrl+C stops)")
    with listener, _signals_end_quietly():
        uvicorn.Server(config).run(sockets=[listener])


def address_of(listener: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Let uvicorn's repeat of the signal that stopped it end in nothing: the drain went well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
