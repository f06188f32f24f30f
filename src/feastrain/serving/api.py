"""The HTTP API and the page: `create_app` makes the app, `serve` runs it until it is stopped.

A batch is answered with 200 even if the store knows none of its series: each carries its own
`status`, so a client reads one shape. Errors are one JSON line, `{"error": ...}`.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

from feastrain.errors import FeastrainError
from feastrain.serving import schemas
from feastrain.serving.access import GuardAccess, declare_tokens, tokens_of
from feastrain.serving.as_of import PastForecasts
from feastrain.serving.coalesce import Coalescing
from feastrain.serving.drain import AnnounceDrain, Drain
from feastrain.serving.failures import add_failures, failure
from feastrain.serving.freshness import Freshness
from feastrain.serving.listening import address_of, listen
from feastrain.serving.metrics import Metrics
from feastrain.serving.middleware import CapBodies, GuardAnswers, MeasureRequests
from feastrain.serving.planner import Planner, add_planner
from feastrain.serving.routes import as_json, asking, instant, json_response
from feastrain.serving.server import serve
from feastrain.serving.swap import Sources, Standing
from feastrain.serving.wording import Wording
from feastrain.serving.workers import Workers
from feastrain.telemetry import bind, event
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from numpy.typing import NDArray
    from pydantic import BaseModel

    from feastrain.serving.evidence import Evidence
    from feastrain.serving.forecaster import Forecast, Forecaster
    from feastrain.serving.history import History, Key
    from feastrain.serving.swap import BundleWatch
    from feastrain.settings import Settings

__all__ = ["address_of", "create_app", "listen", "serve"]

PAGE = Path(__file__).parent / "page"
MOST_TOGETHER = 256
"""Series of several requests that are forecast at once: more would have all of them wait."""
EVERYWHERE = (401, 408, 413, 429)
"""What any route may answer before it is asked: no token, a slow or large body, too often."""


class Service:
    """Answers the routes from one forecaster and one history."""

    def __init__(
        self,
        forecaster: Forecaster,
        history: History,
        workers: Workers,
        settings: Settings,
        evidence: Evidence | None,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self._forecaster = forecaster
        self._fresh = Freshness(settings.max_feature_age_seconds)
        self._past = PastForecasts(evidence, forecaster.recipe)
        self._usual = {one.key: one.mean for one in history.summaries() if one.mean}
        self._history = history
        self._workers = workers
        self._together = Coalescing(self._answered, workers, _size, MOST_TOGETHER)
        self._probe = Workers(threads=1, waiting=3)  # readiness does not queue behind forecasts
        self._lineage = {
            "bundle": forecaster.bundle.fingerprint,
            "snapshot": str(forecaster.bundle.lineage["snapshot"]),
        }
        name = lru_cache(maxsize=256)(forecaster.recipe.period_name)
        self._wording = Wording(tuple(history.entities), name)
        self._series_list = as_json(self._summarise())

    async def forecasts(self, asked: schemas.ForecastRequest) -> Response:
        """Forecast series: quantiles for each step, or status `unknown` for one not in the store.

        The status of the answer is 200 even if every series is unknown. A forecast from features
        older than the server's limit is `stale`. As of a past time it is that of the backtest.
        """
        return json_response(await self._together.ask(asked))

    async def history(self, asked: schemas.SeriesKey) -> Response:
        """What happened to one series."""
        key = asked.values()
        found = self._history.of(key)
        if found is None:
            named = ", ".join(f"{name}={value}" for name, value in self._named(key).items())
            raise HTTPException(404, f"no history of {named}; GET /v1/series lists every series")
        name = self._forecaster.recipe.period_name
        answer = {
            "key": self._named(key),
            "periods": [name(period) for period in found.periods],
            "labels": found.labels,
            "weights": found.weights,
            "events": found.events,
        }
        return json_response(as_json(answer))

    async def series(self) -> Response:
        """Every series, with the total and mean of its last 52 periods."""
        return json_response(self._series_list)

    async def live(self) -> Response:
        """Whether the process answers at all."""
        return JSONResponse({"status": "live"})

    async def ready(self) -> Response:
        """Whether the bundle is loaded, and what it forecasts from can be read."""
        probe = self._probe.start(
            self._forecaster.read, self._history.table(self._history.keys[:1])
        )
        await asyncio.wait([probe])
        error = probe.exception()
        if error is not None:
            reason = str(error) if isinstance(error, FeastrainError) else type(error).__name__
            event("not_ready", error=f"{type(error).__name__}: {error}")
            return failure(503, f"not ready: {reason}")
        as_of = probe.result()
        self.metrics.features_as_of(as_of)
        objection = self._fresh.objection(as_of)
        if objection is not None:
            return failure(503, f"not ready: {objection}")
        return JSONResponse({"status": "ready", "cutoff": instant(as_of), **self._lineage})

    async def prometheus(self) -> Response:
        """Metrics in Prometheus's text format."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def page(self) -> Response:
        """The planner's page."""
        return FileResponse(PAGE / "index.html")

    def close(self) -> None:
        """Finish the work begun."""
        self._workers.close()
        self._probe.close()

    def _answered(self, batch: list[schemas.ForecastRequest]) -> list[bytes]:
        first = batch[0]
        if first.as_of is not None and first.as_of < self._forecaster.source.as_of():
            keys = [key.values() for key in first.series]
            return [as_json(self._past.answer(keys, first.as_of, first.steps))]
        return self._forecasts(batch)

    def _forecasts(self, batch: list[schemas.ForecastRequest]) -> list[bytes]:
        """Answer several requests from one forecast of every series that they name."""
        wanted = [[key.values() for key in asked.series] for asked in batch]
        keys = list(dict.fromkeys(key for named in wanted for key in named))
        forecast = self._forecaster.forecast(self._history.table(keys))
        age_N = self._fresh.ages(forecast)
        stale_N = forecast.found & self._fresh.stale(age_N)
        self.metrics.forecast(forecast, age_N, int(stale_N.sum()))
        self.metrics.forecast_ratios(self._ratios(keys, forecast))
        status_N = np.where(stale_N, "stale", np.where(forecast.found, "ok", "unknown")).tolist()
        bundle, ages = self._forecaster.bundle, age_N.tolist()
        answer = {
            "cutoff": instant(forecast.as_of),
            **self._lineage,
            "backtest": None,
            "source": forecast.origin,
            "quantiles": bundle.quantiles,
        }
        begun = as_json(answer)[:-1] + b',"series":['
        told = {
            steps: dict(
                zip(keys, self._wording.series(keys, forecast, status_N, ages, steps), strict=True)
            )
            for steps in {asked.steps or bundle.columns.horizon for asked in batch}
        }
        return [
            b"%s%s]}" % (begun, ",".join(about[key] for key in named).encode())
            for asked, named in zip(batch, wanted, strict=True)
            for about in [told[asked.steps or bundle.columns.horizon]]
        ]

    def _ratios(self, keys: list[Key], forecast: Forecast) -> NDArray[np.float64]:
        """Return [N'] the mean median of each series that was forecast over its usual label."""
        bundle = self._forecaster.bundle
        middle = min(range(len(bundle.quantiles)), key=lambda q: abs(bundle.quantiles[q] - 0.5))
        median_NH = forecast.quantiles_MHQ[:, :, middle]
        known = [key for key, found in zip(keys, forecast.found.tolist(), strict=True) if found]
        usual_N = np.array([self._usual.get(key, np.nan) for key in known])
        ratios: NDArray[np.float64] = median_NH.mean(axis=1) / np.where(
            usual_N > 0, usual_N, np.nan
        )
        return ratios

    def _named(self, key: Key) -> dict[str, int | str]:
        return dict(zip(self._history.entities, key, strict=True))

    def _summarise(self) -> dict[str, Any]:
        recipe = self._forecaster.recipe
        return {
            "entities": self._history.entities,
            "label": recipe.label.column,
            "frequency": recipe.model_dump(mode="json")["frequency"],
            "horizon": recipe.horizon,
            "columns": [*self._history.entities, "total", "mean"],
            "series": [[*s.key, s.total, s.mean] for s in self._history.summaries()],
        }


def _size(asked: schemas.ForecastRequest) -> int:
    """Return how many series are asked for; a past time is answered by itself."""
    return len(asked.series) if asked.as_of is None else MOST_TOGETHER + 1


class Answers:
    """What answers from one bundle: the API's part and the page's."""

    def __init__(
        self,
        sources: Sources,
        settings: Settings,
        metrics: Metrics,
        workers: Workers | None = None,
    ) -> None:
        forecaster, history, evidence = sources.forecaster, sources.history, sources.evidence
        workers = workers or Workers()
        self.service = Service(forecaster, history, workers, settings, evidence, metrics)
        self.planner = Planner(forecaster, history, evidence)

    def close(self) -> None:
        """Finish the work begun."""
        self.service.close()
        self.planner.close()


def create_app(
    forecaster: Forecaster,
    history: History,
    settings: Settings,
    workers: Workers | None = None,
    evidence: Evidence | None = None,
    *,
    watch: BundleWatch | None = None,
) -> FastAPI:
    """Make the app.

    Args:
        forecaster: the bundle and the online store.
        history: the observed labels.
        settings: the limits on requests.
        workers: the threads that forecast; by default one, with 32 requests waiting at most.
        evidence: what the recipe's last backtest found, for the page.
        watch: puts another bundle in the place of this one; without it, this one stays.
    """
    metrics, sources = Metrics(settings.metrics_folder), Sources(forecaster, history, evidence)
    metrics.age_limit(settings.max_feature_age_seconds)
    metrics.answers_from(sources.bundle, sources.snapshot)
    bind(bundle=sources.bundle, snapshot=sources.snapshot)
    standing = Standing(Answers(sources, settings, metrics, workers), sources)
    make = partial(Answers, settings=settings, metrics=metrics)
    # The interactive documentation of FastAPI loads its scripts from elsewhere; ours must not.
    app = FastAPI(
        title="feastrain",
        version=__version__,
        lifespan=partial(_lifespan, standing, watch, make, metrics),
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": schemas.Failure} for status in EVERYWHERE},
    )
    horizon = forecaster.bundle.columns.horizon
    request = schemas.request_model(history.types, horizon, settings.max_series)
    key_type = schemas.key_model(history.types, strict=False)
    key: Any = Annotated[key_type, Query()]
    add, of = app.add_api_route, partial(standing.endpoint, attrgetter("service"))
    add(
        "/v1/forecasts",
        asking(of(Service.forecasts), request),
        methods=["POST"],
        **_answers(schemas.ForecastAnswer, 422, 503),
    )
    asked = asking(of(Service.history), key)
    add("/v1/history", asked, **_answers(schemas.HistoryAnswer, 404, 422))
    add("/v1/series", of(Service.series), **_answers(schemas.SeriesList))
    add("/healthz/live", of(Service.live), response_model=None)
    add("/healthz/ready", of(Service.ready), **_answers(schemas.Readiness, 503))
    metered = of(Service.prometheus)
    add("/metrics", metered, response_model=None, response_class=PlainTextResponse)
    add_planner(app, partial(standing.endpoint, attrgetter("planner")), history.types)
    add("/", of(Service.page), include_in_schema=False, response_model=None)
    app.mount("/static", StaticFiles(directory=PAGE))
    add_failures(app)
    _guard(app, settings, metrics)
    return app


def _guard(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add what happens around every request; the last one added is the outermost."""
    app.add_middleware(GZipMiddleware, minimum_size=8192)
    app.state.drain = Drain()
    tokens = tokens_of(settings)
    if tokens is not None:
        declare_tokens(app, settings)
    app.add_middleware(GuardAccess, tokens=tokens, settings=settings)
    app.add_middleware(CapBodies, most=settings.max_body_bytes, seconds=settings.body_seconds)
    app.add_middleware(AnnounceDrain, drain=app.state.drain)
    app.add_middleware(GuardAnswers)
    app.add_middleware(MeasureRequests, seconds=metrics.request_seconds)


@contextlib.asynccontextmanager
async def _lifespan(
    standing: Standing[Answers],
    watch: BundleWatch | None,
    make: Callable[[Sources], Answers],
    metrics: Metrics,
    _: FastAPI,
) -> AsyncIterator[None]:
    """Follow the recipe's pointer while the app serves, and finish what was begun."""
    watching = None
    if watch is not None:
        watching = asyncio.create_task(watch.run(standing, make, metrics))
    yield
    if watching is not None:
        watching.cancel()
        await asyncio.wait([watching])
    standing.answering.close()


def _answers(model: type[BaseModel], *failures: int) -> dict[str, Any]:
    return {
        "response_model": model,
        "responses": {status: {"model": schemas.Failure} for status in failures},
    }
