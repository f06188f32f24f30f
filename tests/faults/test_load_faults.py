"""A real server that is asked too much, and one that is asked all day."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from nodes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from outcomes import Outcome

    from feastrain import Project

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]
CLIENTS = 8


class Served:
    """`feastrain serve` of a project, and how to ask it."""

    def __init__(self, url: str, process: psutil.Process) -> None:
        self.url, self.process = url, process
        series = httpx.get(f"{url}/v1/series", timeout=60).json()["series"][0]
        self.body = {"series": [{"store": series[0], "dept": series[1]}]}

    async def crowd(self, clients: int, seconds: float, rate: float | None = None) -> Crowd:
        """Ask by so many clients for a time, each as fast as it can or all at one rate."""
        told = Crowd()
        ends = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, limits=limits, timeout=30) as client:

            async def ask() -> None:
                while (began := time.monotonic()) < ends:
                    try:
                        answer = await client.post("/v1/forecasts", json=self.body)
                        told.statuses[answer.status_code] += 1
                        if answer.status_code == 200:
                            told.seconds.append(time.monotonic() - began)
                        else:
                            told.unexplained += "retry-after" not in answer.headers
                    except httpx.TransportError as error:
                        told.statuses[type(error).__name__] += 1
                    if rate is not None:
                        await asyncio.sleep(max(0.0, clients / rate - (time.monotonic() - began)))

            await asyncio.gather(*(ask() for _ in range(clients)))
        return told

    def held(self) -> tuple[int, int]:
        """Return the memory in bytes and the open files of the server."""
        return self.process.memory_info().rss, self.process.num_fds()


class Crowd:
    """What many clients were told."""

    def __init__(self) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.seconds: list[float] = []
        self.unexplained = 0
        """Refusals that do not say when to come back."""

    def p99(self) -> float:
        """Return how long 99 of 100 answers took at most."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


@pytest.fixture(scope="module")
def served(demand: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the small project."""
    with serving(demand, tmp_path_factory.mktemp("served") / "log") as running:
        yield running


@contextmanager
def serving(project: Project, log: Path) -> Iterator[Served]:
    """Serve a project for the length of the block."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "feastrain", "serve", "smoke", "--project", str(project.root)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=out, stderr=out, env=environment
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: ready(url), "the server is ready", 240)
        yield Served(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        assert process.wait(60) == 0


def ready(url: str) -> bool:
    """Tell whether a server answers."""
    try:
        return httpx.get(f"{url}/healthz/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_ten_times_too_much_is_shed(
    served: Served, outcome_of: Callable[[str, str], Outcome], times: int
) -> None:
    """What is too much is refused with when to come back; seconds later all is as before."""
    outcome = outcome_of("load", "10 times as many clients as it answers at once")
    for _ in range(times):
        calm = asyncio.run(served.crowd(CLIENTS, 3))
        storm = asyncio.run(served.crowd(340, 5))
        began = time.monotonic()
        usual = 3 * max(calm.p99(), 0.01)
        recovered = until(lambda usual=usual: one(served) < usual, "it is calm again", 30)
        after = asyncio.run(served.crowd(CLIENTS, 3))
        odd = sum(n for code, n in storm.statuses.items() if code not in {200, 429, 503})
        wrong: dict[str, Any] = {
            "neither answered nor refused": odd + storm.unexplained,
            "failed after": after.statuses.total() - after.statuses[200],
        }
        outcome.add(
            wrong,
            {
                "p99 before": calm.p99(),
                "p99 of those answered": storm.p99(),
                "until calm": max(recovered, time.monotonic() - began - 3),
                "p99 after": after.p99(),
            },
            survived=not any(wrong.values()),
        )
        assert storm.statuses[503] + storm.statuses[429] > 0
        assert storm.statuses[200] > 0
    assert outcome.times == outcome.survived


def one(served: Served) -> float:
    """Return how long one request takes."""
    began = time.monotonic()
    answer = httpx.post(f"{served.url}/v1/forecasts", json=served.body, timeout=30)
    return time.monotonic() - began if answer.status_code == 200 else float("inf")


def test_a_soak_leaks_nothing(
    served: Served, outcome_of: Callable[[str, str], Outcome], pytestconfig: pytest.Config
) -> None:
    """At 70 % of what it can, for as long as asked: memory and open files stay as they are."""
    lasts = float(pytestconfig.getoption("--soak-seconds", default=20.0))
    outcome = outcome_of("load", f"a soak of {lasts:.0f} s at 70 % of capacity")
    full = asyncio.run(served.crowd(CLIENTS, 5))
    rate = 0.7 * full.statuses[200] / 5
    asyncio.run(served.crowd(CLIENTS, 5, rate))
    held, told = [], Crowd()
    statuses: Counter[int | str] = Counter()
    for _ in range(9):
        told = asyncio.run(served.crowd(CLIENTS, lasts / 9, rate))
        statuses += told.statuses
        time.sleep(1)  # the server hears that its clients are gone
        held.append(served.held())
    failed = statuses.total() - statuses[200]
    first, last = held[:3], held[-3:]
    grown = median(rss for rss, _ in last) / median(rss for rss, _ in first) - 1
    opened = median(fds for _, fds in last) - median(fds for _, fds in first)
    wrong = {"failed": failed, "memory grown by %": round(grown * 100), "files": int(opened)}
    outcome.add(wrong, {"p99": told.p99()}, survived=failed == 0 and grown < 0.05 and opened <= 1)
    assert outcome.times == outcome.survived, (outcome, statuses)
