"""The routes of the planner's page: all series at once, one series in depth, and what-if."""

from __future__ import annotations

import gzip
import math
import threading
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request, Response
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, ConfigDict, Field, create_model

from feastrain.serving import schemas
from feastrain.serving.outlook import Outlooks, summary_rows
from feastrain.serving.panel import encode, label_panel
from feastrain.serving.routes import as_json, asking, instant, json_response
from feastrain.serving.what_if import (
    Change,
    ImplausibleError,
    change,
    changeable,
    forecast_held,
    hold,
    importances,
)
from feastrain.serving.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import pyarrow as pa
    from fastapi import FastAPI
    from numpy.typing import NDArray

    from feastrain.serving.evidence import Evidence
    from feastrain.serving.forecaster import Forecaster
    from feastrain.serving.history import History, Key
    from feastrain.serving.outlook import Standing
    from feastrain.stores.online_rows import OnlineRows

MOST_CHANGES = 200


class ChangeAsked(BaseModel):
    """Another value of a known-ahead feature in one target period."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    step: int = Field(ge=1)
    feature: str = Field(max_length=schemas.LONGEST_TEXT)
    value: bool | int | float | Annotated[str, Field(max_length=schemas.LONGEST_TEXT)]


class BinaryAnswer(Response):
    """Bytes that are no text."""

    media_type = "application/octet-stream"


class Planner:
    """Answers what the page asks beyond the forecasts and the history of one series."""

    def __init__(
        self,
        forecaster: Forecaster,
        history: History,
        evidence: Evidence | None,
    ) -> None:
        self._forecaster = forecaster
        self._history = history
        self._workers = Workers()  # the page does not queue before those who ask for forecasts
        self._evidence = evidence
        self._panel = label_panel(history, forecaster.recipe)
        self._packed = encode(self._panel, history, forecaster.recipe)
        self._zipped = gzip.compress(self._packed, 6)
        self._outlooks = Outlooks(forecaster, history, self._panel)
        self._place = {key: place for place, key in enumerate(history.keys)}
        self._scores = as_json(self._summarise())
        self._drivers: tuple[datetime, bytes] | None = None
        self._driving = threading.Lock()

    async def panel(self, request: Request) -> Response:
        """The history of every series: a JSON header, float32 labels, uint8 events."""
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers = {"content-encoding": "gzip", "vary": "Accept-Encoding"}
            return BinaryAnswer(self._zipped, headers=headers)
        return BinaryAnswer(self._packed)

    async def scores(self) -> Response:
        """What the recipe's last published backtest found; `figures` is null without one."""
        return json_response(self._scores)

    async def outlook(self) -> Response:
        """The forecast of every series in short; `stale` says why the store was not asked."""
        return json_response(await self._workers.start(self._outlook))

    async def series(self, asked: schemas.SeriesKey) -> Response:
        """The forecast of one series, and those made at the cut-offs of the backtest."""
        key = self._known(asked)
        return json_response(await self._workers.start(self._one, key))

    async def drivers(self) -> Response:
        """How far the forecast moves when a feature is shuffled; worked out once a cut-off."""
        return json_response(await self._workers.start(self._importances))

    async def ahead(self, asked: schemas.SeriesKey) -> Response:
        """What is known ahead of one series and read by the bundle: what a what-if can change."""
        key = self._known(asked)
        return await self._tried(self._changeable, key)

    async def what_if(self, asked: Any) -> Response:
        """The forecast of one series with other values of what is known ahead."""
        key = self._known(asked.series)
        horizon = self._forecaster.bundle.columns.horizon
        changes = [Change(one.step, one.feature, one.value) for one in asked.changes]
        for one in changes:
            if one.step > horizon:
                message = f"step {one.step} is beyond the horizon of {horizon}"
                raise HTTPException(422, message)
        return await self._tried(self._changed, key, changes)

    async def _tried(self, work: Callable[..., bytes], *given: Any) -> Response:
        try:
            content = await self._workers.start(work, *given)
        except ImplausibleError as error:
            raise HTTPException(422, str(error)) from error
        return json_response(content)

    def close(self) -> None:
        """Finish the work begun."""
        self._workers.close()

    def _known(self, asked: schemas.SeriesKey) -> Key:
        key = asked.values()
        if key not in self._place:
            named = ", ".join(f"{name}={value}" for name, value in self._named(key).items())
            raise HTTPException(404, f"no series {named}; GET /v1/series lists every series")
        return key

    def _named(self, key: Key) -> dict[str, int | str]:
        return dict(zip(self._history.entities, key, strict=True))

    def _summarise(self) -> dict[str, Any]:
        recipe = self._forecaster.recipe
        evidence = self._evidence
        return {
            "recipe": recipe.name,
            "figures": evidence and evidence.figures(),
            "by_step": evidence.by_step() if evidence else [],
        }

    def _outlook(self) -> bytes:
        standing = self._outlooks.now()
        entities = self._history.entities
        return as_json(
            {
                **self._standing(standing),
                "columns": [*entities, "at_risk", "forecast", "last_year", "recent"],
                "series": summary_rows(self._history, standing),
            }
        )

    def _one(self, key: Key) -> bytes:
        standing = self._outlooks.now()
        outlook, place = standing.outlook, self._place[key]
        steps = []
        if outlook.known(place):
            steps = self._steps(outlook.quantile_SHQ[place], outlook.ends)
            before_H = outlook.before_SH[place].tolist()
            for number, step in enumerate(steps):
                step["last_year"] = None if math.isnan(before_H[number]) else before_H[number]
                step["event"] = "" if outlook.event_SH is None else outlook.event_SH[place, number]
        origins = self._evidence.of(key) if self._evidence else []
        return as_json(
            {
                "key": self._named(key),
                **self._standing(standing),
                "quantiles": self._forecaster.bundle.quantiles,
                "steps": steps,
                "origins": origins,
            }
        )

    def _standing(self, standing: Standing) -> dict[str, Any]:
        bundle = self._forecaster.bundle
        return {
            "cutoff": instant(standing.outlook.as_of),
            "stale": standing.stale,
            "bundle": bundle.fingerprint,
            "snapshot": str(bundle.lineage["snapshot"]),
        }

    def _importances(self) -> bytes:
        with self._driving:
            as_of = self._outlooks.now().outlook.as_of
            if self._drivers is None or self._drivers[0] != as_of:
                series = self._history.table(self._history.keys)
                self._drivers = as_of, as_json(importances(self._forecaster, series))
            return self._drivers[1]

    def _changeable(self, key: Key) -> bytes:
        held = self._hold(key)
        name = self._forecaster.recipe.period_name
        ends = self._outlooks.now().outlook.ends
        told = changeable(self._forecaster, held, self._panel.events)
        return as_json({"periods": [name(end) for end in ends], "features": told})

    def _changed(self, key: Key, changes: list[Change]) -> bytes:
        held = self._hold(key)
        ends = self._outlooks.now().outlook.ends
        before = forecast_held(self._forecaster, held)[0]
        after = forecast_held(self._forecaster, change(self._forecaster, held, changes))[0]
        told = {"before": self._steps(before, ends), "after": self._steps(after, ends)}
        return as_json({"key": self._named(key), "cutoff": instant(held.as_of), **told})

    def _hold(self, key: Key) -> OnlineRows:
        held = hold(self._forecaster, self._history.table([key]))
        if not len(held.rows):
            message = "the online store does not know this series: nothing can be tried on it"
            raise ImplausibleError(message)
        return held

    def _steps(self, quantile_HQ: NDArray[Any], ends: tuple[datetime, ...]) -> list[dict[str, Any]]:
        levels = [str(level) for level in self._forecaster.bundle.quantiles]
        name = self._forecaster.recipe.period_name
        return [
            {
                "step": number + 1,
                "period": name(end),
                "quantiles": dict(zip(levels, quantile_HQ[number].tolist(), strict=True)),
            }
            for number, end in enumerate(ends)
        ]


def add_planner(
    app: FastAPI, of: Callable[[Callable[..., Any]], Any], types: Mapping[str, pa.DataType]
) -> None:
    """Add the routes of the page to `app`.

    Args:
        app: answers the others already.
        of: makes a route of a planner's method.
        types: of the entities.
    """
    loose: Any = Annotated[schemas.key_model(types, strict=False), Query()]
    strict: Any = schemas.key_model(types, strict=True)
    fields: dict[str, Any] = {
        "series": (strict, ...),
        "changes": (list[ChangeAsked], Field(min_length=1, max_length=MOST_CHANGES)),
    }
    shape = ConfigDict(frozen=True, extra="forbid")
    request: Any = create_model("WhatIfRequest", __config__=shape, **fields)
    failed: dict[int | str, dict[str, Any]] = {
        status: {"model": schemas.Failure} for status in (404, 422, 503)
    }

    add = app.add_api_route
    add("/v1/panel", of(Planner.panel), response_model=None, response_class=BinaryAnswer)
    add("/v1/scores", of(Planner.scores), response_model=None)
    add("/v1/outlook", of(Planner.outlook), response_model=None, responses={503: failed[503]})
    add(
        "/v1/outlook/series",
        asking(of(Planner.series), loose),
        response_model=None,
        responses=failed,
    )
    add("/v1/drivers", of(Planner.drivers), response_model=None, responses={503: failed[503]})
    add("/v1/what-if", asking(of(Planner.ahead), loose), response_model=None, responses=failed)
    changed = asking(of(Planner.what_if), request)
    add("/v1/what-if", changed, methods=["POST"], response_model=None, responses=failed)
