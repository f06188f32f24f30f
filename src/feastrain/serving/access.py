"""Who may ask, and how often: tokens, the page's cookie, and a bucket of requests for each client.

A client shows `Authorization: Bearer TOKEN`. A browser shows the page's form a token once, and has
a cookie from then on, signed with that token and good for twelve hours; no script can read it
and no other site can have it sent.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from feastrain.errors import UsageError
from feastrain.serving.failures import failure
from feastrain.telemetry import event

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from feastrain.settings import Settings

COOKIE = "feastrain_session"
SESSION_SECONDS = 12 * 3600
SHORTEST_TOKEN = 16
MOST_CLIENTS = 10_000
LOOK_SECONDS = 2.0
"""How soon a file of tokens that changed is read again."""
ALWAYS_OPEN = frozenset({"/healthz/live"})
PROBES = frozenset({"/healthz/live", "/healthz/ready", "/metrics"})
REFUSED = "a valid token is needed: send it as `Authorization: Bearer TOKEN`, or sign in at /"

STYLE = "body{font:1rem system-ui,sans-serif;max-width:22rem;margin:20vh auto;padding:0 1rem}"
_FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<style>{style}</style></head>
<body><h1>Forecasts</h1>
<form method="post" action=""><p role="alert">{problem}</p>
<p><label>Access token<br><input type="password" name="token" required autofocus
autocomplete="current-password"></label></p>
<p><button>Sign in</button></p></form></body></html>
"""
_FORM_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


class Tokens:
    """The tokens that let a client in; those of a file may change while the server runs."""

    def __init__(self, given: tuple[str, ...], path: Path | None = None) -> None:
        """Read them.

        Raises:
            UsageError: a token is short, or the file cannot be read or has none.
        """
        self._given = _checked(given, "FEASTRAIN_SERVE_TOKENS")
        self._path = path
        self._look_at = 0.0
        self._stamp: tuple[int, int, int] | None = None
        self._from_file: tuple[bytes, ...] = ()
        if path is not None:
            self._read(path)

    def holder(self, shown: str) -> str | None:
        """Return a name of whoever shows a token, or None where it is not one of ours."""
        offered = _digest(shown)
        found = None
        for token in self._all():  # all of them, so that the time tells nothing
            if hmac.compare_digest(_digest_of(token), offered):
                found = _digest_of(token).hex()[:12]
        return found

    def session(self, shown: str, now: float) -> str:
        """Return the cookie of whoever showed a token."""
        until = str(int(now) + SESSION_SECONDS)
        return f"{until}.{_sign(shown.encode(), until)}"

    def holder_of_session(self, cookie: str, now: float) -> str | None:
        """Return a name of whoever has a cookie, or None where it is forged or over."""
        until, _, signature = cookie.partition(".")
        found = None
        for token in self._all():
            if hmac.compare_digest(_sign(token, until).encode(), signature.encode()):
                found = _digest_of(token).hex()[:12]
        return found if found and int(until) > now else None

    def _all(self) -> tuple[bytes, ...]:
        if self._path is not None and time.monotonic() >= self._look_at:
            try:
                self._read(self._path)
            except UsageError as error:  # those that held so far still do
                self._look_at = time.monotonic() + LOOK_SECONDS
                event("tokens_unread", error=str(error))
        return (*self._given, *self._from_file)

    def _read(self, path: Path) -> None:
        try:
            stat = path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp != self._stamp:
                lines = path.read_text().split()
                self._from_file = _checked(tuple(lines), str(path))
        except (OSError, UnicodeDecodeError) as error:
            message = f"the tokens in {path} cannot be read ({type(error).__name__}): mend the file"
            raise UsageError(message) from error
        if not self._from_file:
            message = f"{path} has no token: write one a line, or unset FEASTRAIN_SERVE_TOKENS_FILE"
            raise UsageError(message)
        self._stamp = stamp
        self._look_at = time.monotonic() + LOOK_SECONDS


class Buckets:
    """A bucket of requests for each client: `burst` at once, refilled by `rate` a second."""

    def __init__(self, rate: float, burst: int, most: int = MOST_CLIENTS) -> None:
        """Start with none; of more than `most` clients, the one unseen for longest is forgotten."""
        self._rate = rate
        self._burst = float(burst)
        self._most = most
        self._lock = threading.Lock()
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """Take one request out; return 0, or the seconds until there is one."""
        with self._lock:
            level, then = self._levels.pop(client, (self._burst, now))
            level = min(self._burst, level + (now - then) * self._rate)
            wait = 0.0 if level >= 1.0 else (1.0 - level) / self._rate
            self._levels[client] = (level if wait else level - 1.0, now)
            if len(self._levels) > self._most:
                self._levels.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._levels)


class GuardAccess:
    """Lets those in who show a token, as often as they may; probes are not counted."""

    def __init__(self, app: ASGIApp, tokens: Tokens | None, settings: Settings) -> None:
        self._app = app
        self._tokens = tokens
        self._buckets = (
            None
            if settings.rate_limit is None
            else Buckets(settings.rate_limit, settings.rate_burst)
        )
        self._open = open_paths(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        holder = self._holder(request)
        answer: ASGIApp | None = self._slow_down(request, holder)
        signing_in = (request.method, request.url.path) == ("POST", "/")
        if answer is None and self._tokens is not None and (signing_in or holder is None):
            answer = await self._sign_in(request, self._tokens)
        await (answer or self._app)(scope, receive, send)

    def _holder(self, request: Request) -> str | None:
        if self._tokens is None:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._tokens.holder(token.strip())
        return self._tokens.holder_of_session(request.cookies.get(COOKIE, ""), time.time())

    def _slow_down(self, request: Request, holder: str | None) -> Response | None:
        if self._buckets is None or request.url.path in PROBES:
            return None
        address = request.client.host if request.client else "unknown"
        wait = self._buckets.take(holder or address, time.monotonic())
        if not wait:
            return None
        seconds = str(math.ceil(wait))
        text = f"too many requests from this client: try again in {seconds} s"
        return failure(429, text, {"retry-after": seconds})

    async def _sign_in(self, request: Request, tokens: Tokens) -> Response:
        if request.url.path != "/":
            return failure(401, REFUSED, {"www-authenticate": "Bearer"})
        if request.method != "POST":
            return _form("")
        try:
            shown = parse_qs((await request.body()).decode()).get("token", [""])[0].strip()
        except UnicodeDecodeError:
            shown = ""
        if tokens.holder(shown) is None:
            return _form("This token is not valid.")
        answer = RedirectResponse("./", 303)
        answer.set_cookie(
            COOKIE,
            tokens.session(shown, time.time()),
            max_age=SESSION_SECONDS,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer


def open_paths(settings: Settings) -> frozenset[str]:
    """Return the paths that are answered without a token."""
    return PROBES if settings.serve_open_probes else ALWAYS_OPEN


def declare_tokens(app: FastAPI, settings: Settings) -> None:
    """Have the OpenAPI document say which routes need a token, and how it is shown."""
    describe, opened = app.openapi, open_paths(settings)

    def described() -> dict[str, Any]:
        document = describe()
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"token": scheme}
        document["security"] = [{"token": []}]
        for path in opened & document["paths"].keys():
            for operation in document["paths"][path].values():
                operation["security"] = []
        return document

    app.openapi = described  # type: ignore[method-assign]


def tokens_of(settings: Settings) -> Tokens | None:
    """Return the tokens that the settings name, or None where everybody is let in.

    Raises:
        UsageError: a token is short, or their file cannot be read or has none.
    """
    given = tuple(token.get_secret_value() for token in settings.serve_tokens)
    if not given and settings.serve_tokens_file is None:
        return None
    return Tokens(given, settings.serve_tokens_file)


def _form(problem: str) -> Response:
    headers = {"www-authenticate": "Bearer", "content-security-policy": _FORM_POLICY}
    return HTMLResponse(_FORM.format(style=STYLE, problem=problem), 401, headers)


def _checked(tokens: tuple[str, ...], where: str) -> tuple[bytes, ...]:
    if any(len(token) < SHORTEST_TOKEN for token in tokens):
        message = f"a token of {where} is shorter than {SHORTEST_TOKEN} characters: "
        raise UsageError(message + "make one with `openssl rand -hex 32`")
    return tuple(token.encode() for token in tokens)


def _digest(shown: str) -> bytes:
    return _digest_of(shown.encode())


def _digest_of(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _sign(token: bytes, until: str) -> str:
    return hmac.new(token, f"feastrain page until {until}".encode(), hashlib.sha256).hexdigest()
