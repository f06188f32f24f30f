"""Fakes of the seams that serving stands on: a bundle and a source, small and exact."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pyarrow as pa

from feastrain.recipe import FeatureColumns
from feastrain.serving.forecaster import Forecaster
from feastrain.serving.history import History
from feastrain.stores.online_rows import OnlineRows, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI
    from numpy.typing import NDArray


@dataclass
class Cache:
    """What a server that may lose everything holds, and which of its lives this is."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    up: bool = True
    run: int = 0


class FakePrimary:
    """A client of a `Cache`, as one of Redis: it keeps the later of two rows."""

    name = "redis"
    place = "a cache"
    errors = (ConnectionError,)

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.incarnation = b"-"

    def ping(self) -> None:
        if not self.cache.up:
            message = "away"
            raise ConnectionError(message)
        self.incarnation = b"%d" % self.cache.run

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.ping()
        return [self.cache.rows.get(key) for key in keys]

    def put(self, keys: Sequence[bytes], rows: Sequence[bytes], incarnation: bytes) -> None:
        self.ping()
        if incarnation != self.incarnation:
            raise ConnectionError
        for key, row in zip(keys, rows, strict=True):
            if self._order(row) > self._order(self.cache.rows.get(key)):
                self.cache.rows[key] = row

    def close(self) -> None:
        self.cache = Cache(up=False)

    @staticmethod
    def _order(row: bytes | None) -> tuple[int, tuple[int, ...]]:
        """Nothing comes before what is known to be absent, and that before any row."""
        return (
            (-1, ()) if row is None else (len(row), struct.unpack("<qq", row[:16]) if row else ())
        )


CUTOFF = datetime(2012, 10, 26, 23, 59, 59, tzinfo=UTC)
WEEK = timedelta(weeks=1)
TIMESTAMP = pa.timestamp("us", tz="UTC")
EVENTS = {
    "2010-02-12": "Super Bowl",
    "2010-09-10": "Labor Day",
    "2010-11-26": "Thanksgiving",
    "2010-12-31": "Christmas",
    "2011-02-11": "Super Bowl",
    "2011-09-09": "Labor Day",
    "2011-11-25": "Thanksgiving",
    "2011-12-30": "Christmas",
    "2012-02-10": "Super Bowl",
    "2012-09-07": "Labor Day",
    "2012-11-23": "Thanksgiving",
    "2012-12-28": "Christmas",
}


def fake_recipe(*, horizon: int = 4, event: str | None = "holiday") -> dict[str, Any]:
    """A recipe as a bundle's lineage holds it; its entities are `site` and `item`."""
    return {
        "name": "fake",
        "entities": ["site", "item"],
        "frequency": "1w",
        "season": 52,
        "horizon": horizon,
        "label": {"source": "labels.parquet", "column": "units_sold", "event": event},
        "features": {"repo": "feature_repo", "service": "fake", "roles": {}},
    }


@dataclass
class FakeBundle:
    """Forecasts the feature `level` plus the step, spread by the quantile."""

    horizon: int = 4
    known_keys: tuple[str, ...] = ()
    known_ahead: tuple[str, ...] = ("holiday",)
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    fingerprint: str = "b0b0b0b0b0b0b0b0"
    answer: float | None = None
    """What every quantile is, instead."""

    @property
    def columns(self) -> FeatureColumns:
        return FeatureColumns(
            entities=("site", "item"),
            static=(),
            observed=("level",),
            stepped=(),
            known_ahead=self.known_ahead,
            known_keys=self.known_keys,
            categorical=(),
            label_units=("level",),
            unit=("level",),
            horizon=self.horizon,
        )

    @property
    def lineage(self) -> dict[str, Any]:
        return {"snapshot": "5a5a5a5a5a5a5a5a", "recipe": fake_recipe(horizon=self.horizon)}

    looks_back = False

    def forecast(
        self,
        rows: pa.Table,
        known: pa.Table,
        past: pa.Table | None = None,  # noqa: ARG002 - the seam's
    ) -> NDArray[np.float64]:
        assert len(known) >= self.horizon
        level_N = rows["level"].to_numpy().astype(np.float64)
        assert np.isfinite(level_N).all(), "a series that the source does not know was forecast"
        step_H = np.arange(1, self.horizon + 1)
        spread_Q = np.asarray(self.quantiles) - 0.5
        shape = (len(rows), self.horizon, len(self.quantiles))
        if self.answer is not None:
            return np.full(shape, self.answer)
        points_NH = level_N[:, None] + step_H
        fan_NHQ = spread_Q * 0.08 * points_NH[:, :, None] * np.sqrt(1.0 + step_H)[:, None]
        return np.asarray(points_NH[:, :, None] + fan_NHQ)


@dataclass
class FakeEventBundle(FakeBundle):
    """Forecasts half as much again where the period is a holiday."""

    def forecast(
        self, rows: pa.Table, known: pa.Table, past: pa.Table | None = None
    ) -> NDArray[np.float64]:
        named = dict(zip(known["step"].to_pylist(), known["holiday"].to_pylist(), strict=True))
        lift_H = np.array([1.5 if named[step + 1] else 1.0 for step in range(self.horizon)])
        return np.asarray(super().forecast(rows, known, past) * lift_H[:, None])


@dataclass
class FakeSource:
    """Knows the series of `levels`; raises `error`, or waits for `gate`, where given."""

    levels: dict[tuple[Any, ...], float]
    bundle: FakeBundle = field(default_factory=FakeBundle)
    error: Exception | None = None
    gate: threading.Event | None = None
    entered: threading.Event = field(default_factory=threading.Event)
    late: dict[tuple[Any, ...], timedelta] = field(default_factory=dict)
    """How long before the cut-off the newest features of a series are."""
    origin: Origin = "store"

    def as_of(self) -> datetime:
        return CUTOFF

    def read(self, series: pa.Table) -> OnlineRows:
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        keys = list(zip(*(series[name].to_pylist() for name in series.column_names), strict=True))
        levels = [self.levels.get(key) for key in keys]
        rows = series.append_column("level", pa.array(levels, type=pa.float64()))
        stamps = pa.array([CUTOFF] * len(series), type=TIMESTAMP)
        return OnlineRows(
            rows=rows.append_column("event_timestamp", stamps),
            known=self._known(series),
            as_of=CUTOFF,
            found=np.array([level is not None for level in levels], dtype=bool),
            happened=np.array(
                [int((CUTOFF - self.late.get(key, timedelta(0))).timestamp() * 1e6) for key in keys]
            ),
            origin=self.origin,
        )

    def _known(self, series: pa.Table) -> pa.Table:
        keys = list(self.bundle.known_keys)
        groups = series.select(keys).group_by(keys).aggregate([]).to_pylist() if keys else [{}]
        return pa.Table.from_pylist(
            [
                {
                    **group,
                    "event_timestamp": CUTOFF,
                    "step": step,
                    "holiday": EVENTS.get((CUTOFF + step * WEEK).strftime("%Y-%m-%d"), ""),
                    "label_of_group": str(group),
                }
                for group in groups
                for step in range(1, self.bundle.horizon + 1)
            ]
        )


def fake_labels(levels: dict[tuple[Any, ...], float], periods: int = 143) -> pa.Table:
    """Labels of every series up to the cut-off, with a yearly season and named weeks."""
    closes = [CUTOFF - back * WEEK for back in reversed(range(periods))]
    week = np.arange(periods)
    events = [EVENTS.get(close.strftime("%Y-%m-%d"), "") for close in closes]
    lift = np.array([{"Thanksgiving": 0.55, "Christmas": 0.2}.get(name, 0.0) for name in events])
    tables = []
    for number, (key, level) in enumerate(sorted(levels.items())):
        noise = np.random.default_rng(number).normal(0, 0.05, periods)
        season = 0.12 * np.cos(2 * np.pi * (week - 45) / 52) + lift + noise
        columns = {
            name: pa.array([part] * periods)
            for name, part in zip(("site", "item"), key, strict=True)
        }
        columns["event_timestamp"] = pa.array(closes, type=TIMESTAMP)
        columns["label"] = pa.array(level * (1 + season))
        columns["weight"] = pa.array([5.0 if name else 1.0 for name in events])
        columns["event"] = pa.array(events)
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def fake_forecaster(
    levels: dict[tuple[Any, ...], float], horizon: int = 4
) -> tuple[Forecaster, FakeSource, History]:
    """A forecaster over fakes, its source to meddle with, and the history beside it."""
    bundle = FakeBundle(horizon=horizon)
    source = FakeSource(levels, bundle)
    return Forecaster(bundle, source), source, History(fake_labels(levels), ("site", "item"))


class FakeGateway:
    """Stands where a Pushgateway does, or a collector of traces.

    It keeps the method, path and body of each request.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self._server = HTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeGateway:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode(errors="replace")
                requests.append((self.command, self.path, body))
                self.send_response(200)
                self.end_headers()

            do_POST = do_PUT

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


class FakeWatcher:
    """Remembers what it saw of a training run."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def see(self, event: Any) -> None:
        self.events.append(event)


class FakeTrainJob:
    """Stands where Kubeflow's `update_trainjob_status` does: drops what comes within its pause."""

    def __init__(self, pause_seconds: float) -> None:
        self.told: list[dict[str, Any]] = []
        self._pause, self._last = pause_seconds, float("-inf")

    def __call__(self, **status: Any) -> bool:
        if time.monotonic() - self._last < self._pause:
            return False
        self.told.append(status)
        self._last = time.monotonic()
        return True


class AppClient:
    """Asks an app without a server, one request after another."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("POST", path, **options)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._ask(method, path, options))

    async def _ask(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        # As a server does, an error that the app has answered ends there, in its log.
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return await client.request(method, path, **options)
