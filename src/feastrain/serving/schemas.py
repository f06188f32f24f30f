"""The shapes of requests and answers; those that hold a series' key are made for a bundle."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
)

from feastrain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feastrain.serving.history import Key

LONGEST_TEXT = 256


class SeriesKey(BaseModel):
    """The entities of one series."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def values(self) -> Key:
        """Return the value of each entity, in the bundle's order."""
        return tuple(self.model_dump().values())


class ForecastRequest(BaseModel):
    """Which series to forecast, how far, and as of when."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    series: list[Any]
    steps: int | None = None
    as_of: datetime | None = None


class StepAnswer(BaseModel):
    """One target period of one series."""

    step: int
    period: str
    quantiles: dict[str, float]
    event: str | None = None


class SeriesAnswer(BaseModel):
    """One series: its steps, or that the store does not know it.

    It is `stale` if its features are older than the server allows; the steps are there all the
    same. `age_seconds` is how long ago the oldest of its features that change with time happened.
    """

    key: dict[str, int | str]
    status: Literal["ok", "unknown", "stale"]
    age_seconds: float | None
    steps: list[StepAnswer]


class ForecastAnswer(BaseModel):
    """Forecasts in the order asked for, and what they were made from.

    `source` is the store that the features came from: `primary`, `fallback` or both (`mixed`) of
    one with a fallback, else `store`; or `backtest` for a past time, whose models are not the
    bundle that is served.
    """

    cutoff: str
    bundle: str | None
    snapshot: str | None
    backtest: str | None
    source: Literal["primary", "fallback", "mixed", "store", "backtest"]
    quantiles: list[float]
    series: list[SeriesAnswer]


class SeriesList(BaseModel):
    """Every series with observed labels: one row each, under `columns`."""

    entities: list[str]
    label: str
    frequency: str
    horizon: int
    columns: list[str]
    series: list[list[int | str | float | None]]


class HistoryAnswer(BaseModel):
    """What happened to one series, oldest period first; the four lists are of equal length."""

    key: dict[str, int | str]
    periods: list[str]
    labels: list[float | None]
    weights: list[float | None]
    events: list[str]


class Readiness(BaseModel):
    """What is ready to be served."""

    status: Literal["ready"]
    cutoff: str
    bundle: str
    snapshot: str


class Failure(BaseModel):
    """Why there is no answer, in one line."""

    error: str


def key_model(types: Mapping[str, pa.DataType], *, strict: bool) -> type[SeriesKey]:
    """Make the model of a series' key.

    Args:
        types: the type of each entity, in the bundle's order.
        strict: refuse `"1"` where a number is meant; a query string has only text.

    Raises:
        DataError: an entity is neither an integer nor text.
    """
    fields: dict[str, Any] = {
        # An alias takes any name; a field may not be called `schema` or begin with `_`.
        f"entity_{index}": (_key_type(name, kind, strict=strict), Field(alias=name))
        for index, (name, kind) in enumerate(types.items())
    }
    return create_model("SeriesKey", __base__=SeriesKey, **fields)


def request_model(
    types: Mapping[str, pa.DataType], horizon: int, most: int
) -> type[ForecastRequest]:
    """Make the model of a forecast request of at most `most` series and `horizon` steps."""

    def within_horizon(steps: int) -> int:
        if steps > horizon:
            message = f"{steps} is beyond the horizon of {horizon} that this bundle forecasts"
            raise ValueError(message)
        return steps

    steps_type = Annotated[
        int,
        Field(strict=True, ge=1, json_schema_extra={"maximum": horizon}),
        AfterValidator(within_horizon),
    ]
    key = key_model(types, strict=True)
    fields: dict[str, Any] = {
        "series": (list[key], Field(min_length=1, max_length=most)),  # type: ignore[valid-type]
        "steps": (steps_type | None, None),
        "as_of": (Annotated[AwareDatetime, BeforeValidator(_as_text)] | None, None),
    }
    return create_model("ForecastRequest", __base__=ForecastRequest, **fields)


def _as_text(given: object) -> object:
    """Refuse a time that is a number: of seconds, or of what?"""
    if isinstance(given, str) and not given.strip().lstrip("+-").replace(".", "", 1).isdecimal():
        return given
    message = 'a time is text with a zone: "2012-08-31T23:59:59Z"'
    raise ValueError(message)


def _key_type(name: str, kind: pa.DataType, *, strict: bool) -> Any:
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        # The description has doubles, of which the next to 2^63 is beyond the largest integer.
        inner = int(np.nextafter(2.0**63, 0))
        least, most = max(int(limits.min), -inner), min(int(limits.max), inner)
        return Annotated[int, Field(strict=strict, ge=least, le=most)]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Annotated[str, Field(strict=strict, max_length=LONGEST_TEXT)]
    message = f"entity {name!r} is {kind} in the labels; the API takes integers and text"
    raise DataError(message)
