"""Every error that a client can meet, as one JSON line and the right status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from feastrain.errors import FeastrainError
from feastrain.serving.workers import Overloaded
from feastrain.telemetry import event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request, Response


UNPARSED = (400, "There was an error parsing the body")
"""What FastAPI says of a body that its parser breaks on."""


def failure(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the answer that says why there is no other."""
    return JSONResponse({"error": text}, status, headers)


def add_failures(app: FastAPI) -> None:
    """Answer every error with one JSON line, `{"error": ...}`."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return failure(422, _first_fault(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if (error.status_code, error.detail) == UNPARSED:
            return failure(422, "the body is not JSON in UTF-8: it cannot be parsed")
        unrouted = error.status_code == 404 and error.detail == "Not Found"
        text = f"nothing is at {request.url.path}" if unrouted else error.detail
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["allow"] = ", ".join(_methods_at(app, request.url.path))
        return failure(error.status_code, text, headers)

    @app.exception_handler(Overloaded)
    async def overloaded(_: Request, __: Overloaded) -> Response:
        return failure(503, "too many forecasts at once: try again", {"retry-after": "1"})

    @app.exception_handler(FeastrainError)
    async def unavailable(request: Request, error: FeastrainError) -> Response:
        event("request_failed", path=request.url.path, error=str(error))
        return failure(503, str(error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        event("request_broken", path=request.url.path, error=f"{type(error).__name__}: {error}")
        return failure(500, "the server failed at this request; its log says how")


def _methods_at(app: FastAPI, path: str) -> list[str]:
    """Return the methods that all routes of a path take together."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    taken = [route.methods or set() for route in routes if route.path_regex.match(path)]
    return sorted(set[str]().union(*taken))


def _first_fault(error: RequestValidationError) -> str:
    faults = error.errors()
    fault = faults[0]
    where = ".".join(str(part) for part in fault["loc"][1:])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if fault["type"] == "json_invalid":
        return f"the body is not JSON: {fault['ctx']['error']} at character {where}"
    if not where:
        return "the body must be a JSON object, sent with Content-Type: application/json"
    if fault["type"] == "extra_forbidden":
        return f"unknown field {where!r}: remove it or correct its spelling{more}"
    if fault["type"] == "missing":
        return f"field {where!r} is missing{more}"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}{more}"
