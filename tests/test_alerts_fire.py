"""Alerts on a real Prometheus that scrapes what is really ill, and none while all is well.

The windows of the rules are 300 times shorter than in production; nothing else is changed. What no
process of ours can show here (a cluster's database, a week gone by) is tested by promtool.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from feastrain.dataset.drift import Drift, FeatureDrift
from feastrain.dataset.drift_metrics import DriftMetrics
from feastrain.dataset.skew.report import Finding, SkewMetrics, SkewReport
from feastrain.recipe import load_recipe
from feastrain.stage_metrics import push_stages
from feastrain.telemetry import Ended
from feastrain.training.metrics import Metrics, push
from feastrain.training.observer import About, Step
from feastrain.training.port import answering
from feastrain.training.probes import probes_of
from online_stores import Redis
from prometheus_server import Prometheus, free_port, pushgateway, require
from served_ill import BUNDLE, ILL
from tiny_snapshot import tiny_recipe, tiny_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

TESTS = str(Path(__file__).parent)
TIMES = 300.0
SERVED = {
    "FeaturesStale": "serve-1",
    "ForecastErrorsBurnFast": "",
    "ForecastLatencyBurnFast": "",
    "OnlineBreakerOpen": "serve-1",
}
"""What a server fires soon, and of which pod."""
ALL = SERVED | {
    "BundleRefused": "",
    "CheckpointTooOld": "train-0",
    "FeatureDrift": "price",
    "ForecastErrorsBurnSlow": "",
    "ForecastErrorsBurnTicking": "",
    "ForecastLatencyBurnSlow": "",
    "ForecastLatencyBurnTicking": "",
    "ForecastsFromStaleFeatures": "",
    "NoServerAnswers": "",
    "OnlinePoolExhausted": "",
    "SkewBetweenStores": "mlp",
    "StageFailed": "mlp",
    "TrainingKeepsRestarting": "train-0",
    "TrainingStalled": "train-0",
}


class Clock:
    """Goes on by itself, and by what is added."""

    added = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added


@contextlib.contextmanager
def server(folder: Path, redis: Redis) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve from a process of its own that can be told to be ill."""
    port = free_port()
    given = {
        "PYTHONPATH": os.pathsep.join([TESTS, *sys.path]),
        "FEASTRAIN_MAX_FEATURE_AGE_SECONDS": "3600",
    }
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, f"{TESTS}/served_ill.py", str(port), str(folder), redis.address],
            stderr=log,
            env={**os.environ, **given},
        )
        try:
            wait_until_live(f"http://127.0.0.1:{port}", process)
            yield f"127.0.0.1:{port}", process
        finally:
            process.kill()
            process.wait()


def wait_until_live(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            assert httpx.get(f"{url}/healthz/live", timeout=5).is_success
            return
        time.sleep(0.1)
    pytest.fail("the server does not answer")


@contextlib.contextmanager
def asking(address: str) -> Iterator[None]:
    """Ask for forecasts of either site, again and again, from four clients."""
    over = threading.Event()

    def ask(site: int, item: str) -> None:
        body = {"series": [{"site": site, "item": item}]}
        with httpx.Client(base_url=f"http://{address}", timeout=10) as client:
            while not over.wait(0.02):
                with contextlib.suppress(httpx.TransportError):
                    client.post("/v1/forecasts", json=body)

    clients = [threading.Thread(target=ask, args=key) for key in [(1, "b"), (2, "c")] * 2]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        over.set()
        for client in clients:
            client.join()


def tell_of_batches(gateway: str, *, ill: bool) -> None:
    """Push what nightly jobs do: a comparison of the stores, one of training sets, a stage."""
    found = (Finding("goods", "price", "stale", 5 * ill, ()),)
    report = SkewReport("mlp", "demand", "2012-10-26", "x", 9, {"goods": 1000}, found)
    push(gateway, SkewMetrics(report, 0.0).registry, {"skew": "mlp"})
    moved = FeatureDrift("price", "numeric", 0.05 + ill, 0.1, 0.0, 0.0)
    push(gateway, DriftMetrics(Drift((moved,), (), (), 9, 9), "demand").registry, {"drift": "x"})
    push_stages(gateway, "materialize", [Ended("materialize", 2.0, failed=ill, cached=False)])


def target(job: str, address: str, pod: str | None = None) -> dict[str, Any]:
    """Return how Prometheus finds a process, under the labels that it has in a cluster."""
    labels = {"namespace": "shop"} | ({"pod": pod} if pod else {})
    static = [{"targets": [address], "labels": labels}]
    return {"job_name": job, "static_configs": static, "honor_labels": pod is None}


@contextlib.contextmanager
def prometheus(folder: Path, *jobs: dict[str, Any]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes these, once it has."""
    running = Prometheus(folder, list(jobs), TIMES)
    try:
        running.wait_until_scraped(len(jobs))
        yield running
    finally:
        running.close()


@contextlib.contextmanager
def redis_of(folder: Path) -> Iterator[Redis]:
    """Run a Redis, and end it if the test has not."""
    running = Redis(folder / "redis", save="")
    try:
        yield running
    finally:
        running.kill()


def test_a_server_that_falls_ill_is_told_and_not_before(tmp_path: Path) -> None:
    """Its Redis dies, its features are old, it fails and is slow: each fires, of whom it is."""
    require("prometheus")
    with (
        redis_of(tmp_path) as redis,
        server(tmp_path, redis) as (address, _),
        prometheus(tmp_path, target("feastrain-serve", address, "serve-1")) as watching,
        asking(address),
    ):
        time.sleep(2)
        assert set() == watching.firing()
        (tmp_path / ILL).touch()
        redis.kill()
        fired = watching.wait_for(set(SERVED), 60)
    assert SERVED == {name: "".join(fired[name]) for name in SERVED}


@pytest.mark.faults
def test_all_that_can_be_ill_here_is_told_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server, a training run, and what nightly jobs push; then the server is gone."""
    require("prometheus")
    monkeypatch.setattr("feastrain.stage_metrics.BOUND", {"recipe": "mlp"})
    recipe, snapshot = load_recipe(tiny_recipe(tmp_path)), tiny_snapshot(tmp_path)
    clock, port = Clock(), free_port()
    about = About(recipe, snapshot, tmp_path, tmp_path, world_size=1, fresh=False)
    metrics = Metrics(about, heartbeat_seconds=300.0, clock=clock)
    metrics.see(Step(1, 3, 1, 5, 64, 0.5, 2.0, 0.02, 3200.0, 9.0))
    with (
        redis_of(tmp_path) as redis,
        pushgateway(tmp_path) as gateway,
        server(tmp_path, redis) as (address, process),
        answering(probes_of(metrics), "127.0.0.1", port, "FEASTRAIN_METRICS_PORT"),
        prometheus(
            tmp_path,
            target("feastrain-serve", address, "serve-1"),
            target("feastrain-train", f"127.0.0.1:{port}", "train-0"),
            target("pushgateway", gateway.removeprefix("http://")),
        ) as watching,
    ):
        tell_of_batches(gateway, ill=False)
        with asking(address):
            time.sleep(3)
            assert set() == watching.firing()
            (tmp_path / ILL).touch()
            (tmp_path / BUNDLE).symlink_to(tmp_path / "another")
            redis.kill()
            clock.added = 1000.0
            metrics._restarts = 3
            tell_of_batches(gateway, ill=True)
            watching.wait_for(ALL.keys() - {"NoServerAnswers"}, 90)
        assert "NoServerAnswers" not in watching.firing()
        process.kill()
        watching.wait_until_firing("NoServerAnswers", 30)
        fired = watching.fired()
    assert ALL == {name: "".join(found) for name, found in fired.items()}
