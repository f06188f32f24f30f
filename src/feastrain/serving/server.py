"""A server on a socket, and a quiet end when it is asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING

import uvicorn

from feastrain.serving.certificate import Certificate
from feastrain.serving.listening import (
    BACKLOG,
    SharedListener,
    Shares,
    address_of,
    listen,
    turn_away,
)
from feastrain.telemetry import event, log_as_lines, say
from feastrain.tracing import trace_to

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fastapi import FastAPI

    from feastrain.serving.drain import Drain
    from feastrain.settings import Settings

RENEWAL_TICKS = 10
"""Tenths of a second between two looks at the certificate's files."""
IDLE_SECONDS = 75
"""How long a connection may be idle before it is closed.

Longer than clients (httpx: 5 s) and proxies (nginx and load balancers of clouds: 60 s) keep one:
a request that is sent just when the server closes is reset.
"""
LAST_WORDS_SECONDS = 0.5
"""How long a connection that was accepted at the very end has to send its request."""
HANDSHAKE_SECONDS = 0.1
"""How long a connection may take that had begun when others were turned away."""
FORCE_SECONDS = 2.0
"""How long after the drain's deadline a process that still works is ended by force."""


def serve(
    app: FastAPI,
    settings: Settings,
    listener: socket.socket | None = None,
    started: Callable[[], None] | None = None,
) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish the requests begun and return.

    Args:
        app: what `create_app` made.
        settings: where to listen, and how long to drain.
        listener: a socket that `listen` made earlier, for a caller with much to load first.
        started: called when the first request can come; by default the address is told.

    Raises:
        FeastrainError: the port is taken, or the address is not one of this machine.
        UsageError: the certificate cannot be read.
    """
    log_as_lines()
    if settings.otlp_endpoint is not None:
        trace_to(settings.otlp_endpoint)
    certificate = Certificate.of(settings)
    listener = listener or listen(settings)
    shared = isinstance(listener, SharedListener)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        log_config=None,
        server_header=False,
        # Of several processes each takes one connection at a time; uvloop would take all that wait.
        loop="asyncio" if shared else "auto",
        backlog=1 if shared else BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        limit_concurrency=settings.max_connections + 1,  # uvicorn counts the one it refuses
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=settings.trusted_proxies,
        ssl_certfile=None if certificate is None else certificate.certificate,
        ssl_keyfile=None if certificate is None else certificate.key,
    )
    if started is None:
        tell(listener, settings)
    shares = listener.shares if isinstance(listener, SharedListener) else Shares([0.0, 0.0], 0)
    server = _Server(
        config, settings, app.state.drain, shares, started or (lambda: None), certificate
    )
    with listener, _signals_end_quietly():
        try:
            server.run(sockets=[listener])
        finally:
            server.force.cancel()


class _Server(uvicorn.Server):
    """A server that announces its end, and closes no connection that a request may be on."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        drain: Drain,
        shares: Shares,
        started: Callable[[], None],
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._limits = settings
        self._when_started = started
        self._notice = settings.drain_notice_seconds
        self._shares = shares
        self._certificate = certificate
        self.force = threading.Timer(settings.drain_seconds + FORCE_SECONDS, _end_by_force)
        self.force.daemon = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        if self.started:
            self._shares.hold(0)
            self._when_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Announce the end; somebody who presses Ctrl+C has no load balancer to wait for."""
        if self._drain.begun:
            super().handle_exit(sig, frame)
            return
        if sig == signal.SIGINT:
            self._notice = 0.0
        self._captured_signals.append(sig)
        self._drain.begin()
        self.force.start()

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to stop accepting: whether the announced end has come."""
        self._shares.hold(len(self.server_state.connections))
        if self._certificate is not None and counter % RENEWAL_TICKS == 0:
            assert self.config.ssl is not None
            self._certificate.renew(self.config.ssl)
        if self._drain.begun and self._drain.seconds >= self._notice:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted, then close."""
        for listener in sockets or []:
            turn_away(listener)
            await asyncio.sleep(HANDSHAKE_SECONDS)
            # What waits in the queue of a listener is reset when the last process closes it.
            while select.select([listener], [], [], 0)[0]:
                await asyncio.sleep(0)
        self._shares.leave()
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        last_words = time.monotonic() + LAST_WORDS_SECONDS
        shaking_hands = self._certificate is not None  # such connections are not counted yet
        while (shaking_hands or self.server_state.connections) and time.monotonic() < last_words:
            await asyncio.sleep(0.01)
        left = self._limits.drain_seconds - self._drain.seconds
        self.config.timeout_graceful_shutdown = max(left, 0.1)  # type: ignore[assignment] # a wait
        await super().shutdown(sockets)


def _end_by_force() -> None:
    event("drain_cut", error="work went on after the drain's deadline; the process ends by force")
    os._exit(1)


def tell(listener: socket.socket, settings: Settings) -> None:
    """Say where the page is, and whether anybody may read it."""
    address = address_of(listener)
    if settings.tls_certificate is not None:
        address = address.replace("http:", "https:", 1)
    say(f"serving on {address} (Ctrl+C stops)")
    guarded = settings.serve_tokens or settings.serve_tokens_file
    if not guarded and not listener.getsockname()[0].startswith(("127.", "::1")):
        say(
            "whoever reaches this port reads every forecast: set FEASTRAIN_SERVE_TOKENS_FILE, or "
            "listen on 127.0.0.1"
        )


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
