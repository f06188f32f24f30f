"""What the routes of the API and of the page share: their argument's type, and their answers."""

from __future__ import annotations

import json
from datetime import UTC
from typing import TYPE_CHECKING, Any

from fastapi import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from pydantic import BaseModel


def asking(endpoint: Callable[[Any], Awaitable[Response]], model: Any) -> Any:
    """Return `endpoint` as a route whose argument is `model`, which exists only at run time."""

    async def route(asked: BaseModel) -> Response:
        return await endpoint(asked)

    route.__annotations__ = {"asked": model, "return": Response}
    route.__name__, route.__doc__ = endpoint.__name__, endpoint.__doc__
    return route


def as_json(content: object) -> bytes:
    """Return `content` as JSON without blanks; a NaN is refused."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def json_response(content: bytes) -> Response:
    """Return an answer whose body is JSON already."""
    return Response(content, media_type="application/json")


def instant(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC: `2012-08-31T23:59:59Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
