"""How a server leaves: it says so first, answers whoever still comes, and only then closes.

A connection that is closed while a request is on its way is a failed request, and nobody can tell
a busy connection from an idle one at the other end. So for a while after the signal readiness is
503, which takes the server out of its load balancer, and every answer carries `Connection: close`,
which has clients leave by themselves. What is left after that is idle.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

from feastrain.serving.failures import failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Drain:
    """Whether the server was asked to stop, and since when."""

    def __init__(self) -> None:
        self._began: float | None = None

    @property
    def begun(self) -> bool:
        """Whether it was asked to stop."""
        return self._began is not None

    @property
    def seconds(self) -> float:
        """How long ago that was."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def begin(self) -> None:
        """Stop from now on; a second call changes nothing."""
        self._began = self._began or time.monotonic()


class AnnounceDrain:
    """Tells clients and the load balancer of a server that stops."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def announce(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.begun:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        app = self._app
        if self._drain.begun and scope["path"] == "/healthz/ready":
            app = failure(503, "not ready: the server stops")
        await app(scope, receive, announce)
