"""Another bundle takes over while requests come in, or stays out."""

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes import FakeBundle, FakeSource, fake_labels
from feastrain import Project
from feastrain.artifacts import point, publishing
from feastrain.errors import ArtifactError
from feastrain.serving.api import create_app
from feastrain.serving.forecaster import Forecaster
from feastrain.serving.history import History
from feastrain.serving.swap import BundleWatch, Sources
from feastrain.settings import Settings
from feastrain.telemetry import BOUND

LEVELS: dict[tuple[Any, ...], float] = {(1, "b"): 100.0, (1, "c"): 200.0}
ASK = {"series": [{"site": 1, "item": "b"}]}
SWAPPED = 'feastrain_serving_bundle_swaps_total{outcome="swapped"}'
REFUSED = 'feastrain_serving_bundle_swaps_total{outcome="refused"}'


def fakes(bundle: FakeBundle, known: dict[tuple[Any, ...], float] = LEVELS) -> Sources:
    """A server's sources over a fake bundle, and a store that knows so many series."""
    forecaster = Forecaster(bundle, FakeSource(known, bundle))
    return Sources(forecaster, History(fake_labels(LEVELS), ("site", "item")))


@contextlib.asynccontextmanager
async def serving(
    folder: Path, load: Callable[[str], Sources]
) -> AsyncIterator[tuple[httpx.AsyncClient, Path]]:
    """Serve what `load` makes of the folder's name that the pointer leads to; begin with `one`."""
    pointer = folder / "recipe"
    point(pointer, folder / "one")
    watch = BundleWatch(pointer, lambda: load(pointer.resolve().name), seconds=0.01)
    made = load("one")
    app = create_app(made.forecaster, made.history, Settings(), watch=watch)
    del made
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client, pointer


async def _served(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v1/forecasts", json=ASK)
    assert answer.status_code == 200
    return str(answer.json()["bundle"])


async def _count(client: httpx.AsyncClient, metric: str) -> float:
    """Return a count; apps of one process may add to the same numbers."""
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))


async def _until(client: httpx.AsyncClient, metric: str, count: float) -> None:
    deadline = time.monotonic() + 60
    while await _count(client, metric) != count:
        assert time.monotonic() < deadline, f"{metric} did not become {count}"
        await asyncio.sleep(0.01)


def test_the_pointer_is_followed_and_what_it_left_is_let_go(tmp_path: Path) -> None:
    """There and back; the first bundle is held no longer than it answers."""
    held = []

    def load(name: str) -> Sources:
        sources = fakes(FakeBundle(fingerprint=name))
        held.append(weakref.ref(sources.forecaster))
        return sources

    async def follow() -> list[str]:
        async with serving(tmp_path, load) as (client, pointer):
            seen, before = [await _served(client)], await _count(client, SWAPPED)
            for swaps, name in enumerate(("two", "one"), start=1):
                point(pointer, tmp_path / name)
                await _until(client, SWAPPED, before + swaps)
                seen.append(await _served(client))
            gc.collect()
            assert [True, True, False] == [one() is None for one in held]
        return seen

    assert ["one", "two", "one"] == asyncio.run(follow())


def test_metrics_and_log_name_the_bundle_that_answers(tmp_path: Path) -> None:
    """The one before it is told with 0."""

    async def follow() -> str:
        async with serving(tmp_path, lambda name: fakes(FakeBundle(fingerprint=name))) as (
            client,
            pointer,
        ):
            before = await _count(client, SWAPPED)
            point(pointer, tmp_path / "two")
            await _until(client, SWAPPED, before + 1)
            return (await client.get("/metrics")).text

    told = asyncio.run(follow())
    assert 'feastrain_serving_bundle{bundle="one",snapshot="5a5a5a5a5a5a5a5a"} 0.0' in told
    assert 'feastrain_serving_bundle{bundle="two",snapshot="5a5a5a5a5a5a5a5a"} 1.0' in told
    assert "two" == BOUND["bundle"]


def _damaged() -> Sources:
    message = "model.onnx is damaged"
    raise ArtifactError(message)


@pytest.mark.parametrize(
    ("worse", "told"),
    [
        (_damaged, "model.onnx is damaged"),
        (lambda: fakes(FakeBundle(horizon=9, fingerprint="two")), "forecasts steps ahead: 9, the"),
        (
            lambda: fakes(FakeBundle(quantiles=(0.5,), fingerprint="two")),
            "forecasts quantiles (0.5,), the one that is served (0.1, 0.5, 0.9)",
        ),
        (
            lambda: fakes(FakeBundle(answer=float("nan"), fingerprint="two")),
            "gives no number for 2 series",
        ),
        (
            lambda: fakes(FakeBundle(fingerprint="two"), {}),
            "the online store knows none of 2 series of bundle two",
        ),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
    ids=["damaged", "horizon", "quantiles", "nan", "unknown", "broken"],
)
def test_a_bundle_that_is_not_well_stays_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], worse: Callable[[], Sources], told: str
) -> None:
    """It is refused once, with the reason; the one before goes on."""

    async def follow() -> str:
        async with serving(
            tmp_path, lambda name: fakes(FakeBundle(fingerprint=name)) if name == "one" else worse()
        ) as (client, pointer):
            before = await _count(client, REFUSED)
            point(pointer, tmp_path / "two")
            await _until(client, REFUSED, before + 1)
            await asyncio.sleep(0.05)
            assert before + 1 == await _count(client, REFUSED)
            return await _served(client)

    assert "one" == asyncio.run(follow())
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "bundle_refused" in line]
    assert told in line


# A real server, on real bundles ----------------------------------------------------------------


def _other_bundle(path: Path, name: str) -> Path:
    """Publish a bundle that forecasts 1 unit more than the one at `path`."""
    final = path.with_name(name)
    with publishing(final, {}) as scratch:
        shutil.copytree(path, scratch, dirs_exist_ok=True)
        (scratch / "manifest.json").unlink()
        content = json.loads((scratch / "calibration.json").read_text())
        content["offsets"] = {"all": [1.0] * len(content["quantiles"])}
        (scratch / "calibration.json").write_text(json.dumps(content))
    return final


def _damaged_bundle(path: Path, name: str) -> Path:
    final = path.with_name(name)
    shutil.copytree(path, final)
    graph = final / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    return final


@contextlib.contextmanager
def _server(root: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """Run `feastrain serve` with two workers where there is no torch."""
    absent = folder / "absent" / "torch"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    log = folder / "log"
    environment = {
        **os.environ,
        "FEASTRAIN_BUNDLE_SECONDS": "3600",
        "PYTHONPATH": os.pathsep.join([str(absent.parent), *sys.path]),
    }
    command = [sys.executable, "-m", "feastrain", "serve", "smoke", "--port", port]
    with subprocess.Popen(
        [*command, "--workers", "2"], cwd=root, env=environment, stderr=log.open("w")
    ) as process:
        try:
            yield process, f"http://127.0.0.1:{port}", log
        finally:
            process.send_signal(signal.SIGTERM)


async def _events(log: Path, kind: str, count: int) -> None:
    deadline = time.monotonic() + 120
    while log.read_text().count(f'"{kind}"') < count:
        assert time.monotonic() < deadline, log.read_text()
        await asyncio.sleep(0.05)


@pytest.mark.integration
def test_no_request_fails_while_bundles_are_swapped(demand: Project, tmp_path: Path) -> None:
    """Two workers without torch, asked all the time: there, a damaged one, and back.

    Every answer is a forecast of one bundle or of the other.
    """
    root = tmp_path / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    project = Project(root, demand.settings)
    project.materialize("smoke")
    pointer = project.bundle_pointer("smoke")
    first = pointer.resolve()
    second = _other_bundle(first, "0" * 16)
    key = project.snapshot("smoke").labels().select(["store", "dept"]).slice(0, 1).to_pylist()
    asked = {"series": key, "steps": 1}

    async def crowd() -> Counter[Any]:
        outcomes: Counter[Any] = Counter()
        ended = asyncio.Event()

        async def ask(client: httpx.AsyncClient) -> None:
            while not ended.is_set():
                answer = await client.post("/v1/forecasts", json=asked)
                told = answer.json()
                median = told["series"][0]["steps"][0]["quantiles"]["0.5"]
                outcomes[answer.status_code, told["bundle"], median] += 1

        with _server(root, tmp_path) as (process, url, log):
            await _events(log, "worker_serves", 2)
            async with (
                httpx.AsyncClient(base_url=url, timeout=60) as client,
                asyncio.TaskGroup() as clients,
            ):
                for _ in range(8):
                    clients.create_task(ask(client))
                steps = [
                    (second, "bundle_swapped", 2),
                    (_damaged_bundle(first, "1" * 16), "bundle_refused", 2),
                    (first, "bundle_swapped", 2),
                ]
                for target, kind, count in steps:
                    await asyncio.sleep(0.5)
                    point(pointer, target)
                    process.send_signal(signal.SIGHUP)
                    await _events(log, kind, count)
                ended.set()
        return outcomes

    outcomes = asyncio.run(crowd())
    assert {200} == {status for status, _, _ in outcomes}
    assert {first.name, second.name} == {bundle for _, bundle, _ in outcomes}
    medians = {bundle: median for _, bundle, median in outcomes}
    assert len(outcomes) == 2
    assert medians[second.name] > medians[first.name]
