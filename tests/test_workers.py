"""Real servers, of one process and of several: how they start, are killed, and stop."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.integration

ASK = {"series": [{"site": 1, "item": "b"}]}
TESTS = str(Path(__file__).parent)
TOKEN = "token-of-these-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}


class Server:
    """A server in a process of its own, with what it wrote."""

    def __init__(self, folder: Path, *arguments: str, **settings: object) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "stderr"
        named = {f"FEASTRAIN_{name.upper()}": str(value) for name, value in settings.items()}
        path = os.pathsep.join([TESTS, *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, f"{TESTS}/served_apps.py", str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            env={**os.environ, "PYTHONPATH": path, **named},
        )

    def wait_until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many events of a kind in the log, and return them."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            told = [one for one in self.events() if one["event"] == kind]
            if len(told) >= count:
                return told
            time.sleep(0.05)
        return pytest.fail(f"no {count} x {kind}: {self._log.read_text()}")

    def wait_until_live(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                assert httpx.get(f"{self.url}/healthz/live", timeout=5).status_code == 200
                return
            time.sleep(0.1)
        pytest.fail(f"the server did not start: {self._log.read_text()}")

    def events(self) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def end(self) -> tuple[int, str]:
        """Return the exit code and what was printed."""
        assert self.process.stdout is not None
        printed = self.process.stdout.read()
        return self.process.wait(60), printed


@contextlib.contextmanager
def server(folder: Path, *arguments: str, **settings: object) -> Iterator[Server]:
    started = Server(folder, *arguments, **settings)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_while_a_server_drains(tmp_path: Path, workers: int) -> None:
    """Readiness is 503 at once; clients that keep connections and that do not are all answered.

    What is refused is refused before it was sent: another server can have it.
    """
    settings = {"serve_workers": workers, "drain_notice_seconds": 1.5, "drain_seconds": 20}
    with server(tmp_path, "--read-seconds", "0.05", **settings) as served:
        if workers > 1:
            served.wait_until("worker_serves", workers)
        served.wait_until_live()
        outcomes, readiness, seconds = asyncio.run(_crowd(served))
        assert (0, "returned\n") == served.end()
    assert outcomes.pop(200) > 16
    assert outcomes.pop("refused") > 0
    assert not outcomes
    assert readiness == 503
    assert seconds < 20


def test_an_idle_connection_is_the_clients_to_close(tmp_path: Path) -> None:
    """Clients keep one for 5 s, proxies for 60: closed sooner, it resets who asks just then."""
    with server(tmp_path) as served:
        served.wait_until_live()
        limits = httpx.Limits(keepalive_expiry=60)
        with httpx.Client(base_url=served.url, limits=limits) as client:
            used = []
            for pause in (6.0, 0.0):
                answer = client.get("/healthz/live")
                assert 200 == answer.status_code
                stream = answer.extensions["network_stream"]
                used.append(stream.get_extra_info("client_addr"))
                time.sleep(pause)
    assert used[0] == used[1]


def test_a_connection_that_was_accepted_last_is_answered(tmp_path: Path) -> None:
    """Though its request comes when no other connection can be opened any more."""
    with server(tmp_path, drain_notice_seconds=0.5) as served:
        served.wait_until_live()
        where = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        with socket.create_connection(where, timeout=30) as early:
            served.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(OSError):
                while True:
                    socket.create_connection(where, timeout=0.1).close()
            early.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = early.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer
        assert (0, "returned\n") == served.end()


async def _crowd(served: Server) -> tuple[Counter[object], int, float]:
    """Ask by 16 clients while the server is told to stop; return what they got."""
    outcomes: Counter[object] = Counter()
    gone = asyncio.Event()

    async def ask(headers: dict[str, str]) -> None:
        async with httpx.AsyncClient(timeout=30, headers=headers) as client:
            while not gone.is_set():
                try:
                    answer = await client.post(f"{served.url}/v1/forecasts", json=ASK)
                    outcomes[answer.status_code] += 1
                except httpx.ConnectError:
                    outcomes["refused"] += 1
                    await asyncio.sleep(0.02)
                except httpx.TransportError as error:
                    outcomes[repr(error)] += 1

    kinds = [{}, {"connection": "close"}]
    clients = [asyncio.create_task(ask(kinds[number % 2])) for number in range(16)]
    await asyncio.sleep(1.0)
    served.process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    await asyncio.sleep(0.3)
    async with httpx.AsyncClient(timeout=30) as client:
        readiness = await client.get(f"{served.url}/healthz/ready")
    assert readiness.json() == {"error": "not ready: the server stops"}
    assert readiness.headers["connection"] == "close"
    while served.process.poll() is None:
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - asked
    await asyncio.sleep(0.1)
    gone.set()
    await asyncio.gather(*clients)
    return outcomes, readiness.status_code, seconds


def _asked(served: Server) -> float:
    """Return how many forecasts were answered, by all workers."""
    text = httpx.get(f"{served.url}/metrics", headers=BEARER, timeout=30).text
    name = 'feastrain_serving_request_seconds_count{route="/v1/forecasts",status="200"} '
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.removeprefix(name))


async def _ask_at_once(served: Server, count: int) -> list[int]:
    """Ask over so many connections, and return the process that each was accepted by."""
    all_are_open = asyncio.Barrier(count)

    async def ask() -> int:
        async with httpx.AsyncClient(timeout=60, headers=BEARER) as client:
            answer = await client.get(f"{served.url}/pid")
            await all_are_open.wait()
            assert (await client.post(f"{served.url}/v1/forecasts", json=ASK)).status_code == 200
            return int(answer.json()["pid"])

    return await asyncio.gather(*(ask() for _ in range(count)))


def test_workers_share_connections_and_metrics_and_are_replaced(tmp_path: Path) -> None:
    """A killed worker takes no metric along, and another takes its place.

    Workers whose parent is gone end by themselves. No token is in the log.
    """
    settings = {"serve_workers": 2, "serve_tokens": TOKEN, "drain_notice_seconds": 0}
    with server(tmp_path, **settings) as served:
        first = {one["pid"] for one in served.wait_until("worker_serves", 2)}
        shares = Counter(asyncio.run(_ask_at_once(served, 24)))
        assert set(shares) == first
        assert min(shares.values()) >= 8
        assert _asked(served) == 24
        os.kill(min(first), signal.SIGKILL)
        died = served.wait_until("worker_died")[0]
        assert (min(first), -9) == (died["pid"], died["exit_code"])
        assert 0.2 < died["again_in"] <= 0.5
        asyncio.run(_ask_at_once(served, 4))
        third = {one["pid"] for one in served.wait_until("worker_serves", 3)} - first
        shares = Counter(asyncio.run(_ask_at_once(served, 24)))
        assert set(shares) == third | {max(first)}
        assert _asked(served) == 52
        served.process.kill()
        served.wait_until("parent_died", 2)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in shares):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.05)
        assert TOKEN not in (tmp_path / "stderr").read_text()


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    """While it hangs the other answers; what it holds is lost."""
    options = {"serve_workers": 2, "drain_notice_seconds": 0}
    with server(tmp_path, "--hung-seconds", "2", **options) as served:
        hung = served.wait_until("worker_serves", 2)[0]
        os.kill(hung["pid"], signal.SIGSTOP)
        assert served.wait_until("worker_hangs")[0]["worker"] == hung["worker"]
        assert served.wait_until("worker_died")[0]["exit_code"] == -9
        assert served.wait_until("worker_serves", 3)[2]["worker"] == hung["worker"]
        served.process.send_signal(signal.SIGTERM)
        assert (0, "returned\n") == served.end()


def test_a_worker_that_cannot_start_ends_the_server(tmp_path: Path) -> None:
    """With the error and the exit code that one process alone would have."""
    with server(tmp_path, "--broken", serve_workers=2) as served:
        assert (3, "the bundle is damaged: train it again\n") == served.end()


def test_a_drain_ends_at_its_deadline(tmp_path: Path) -> None:
    """Work that goes on for longer is cut off, and the exit code says so."""
    limits = {"drain_seconds": 0.5, "drain_notice_seconds": 0}
    with server(tmp_path, "--read-seconds", "60", **limits) as served:
        served.wait_until_live()
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{served.url}/v1/forecasts", json=ASK, timeout=0.5)
        started = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert (1, "") == served.end()
        assert time.monotonic() - started < 10
        assert served.wait_until("drain_cut")


@pytest.mark.parametrize(("trusted", "expected"), [({}, 429), ({"trusted_proxies": "*"}, 200)])
def test_only_a_trusted_proxy_names_the_client(
    tmp_path: Path, trusted: dict[str, str], expected: int
) -> None:
    """Or a client would get another rate with every address it makes up."""
    with server(tmp_path, rate_limit=0.001, rate_burst=1, **trusted) as served:
        served.wait_until_live()
        clients = [{"x-forwarded-for": f"192.0.2.{number}"} for number in (1, 2)]
        answers = [httpx.get(f"{served.url}/pid", headers=client) for client in clients]
    assert [200, expected] == [answer.status_code for answer in answers]


def test_only_so_many_connections_are_held(tmp_path: Path) -> None:
    """The next one is answered with 503, until another ends."""
    with server(tmp_path, max_connections=2) as served:
        served.wait_until_live()
        with httpx.Client(base_url=served.url) as one, httpx.Client(base_url=served.url) as two:
            held = [client.get("/healthz/live").status_code for client in (one, two, one)]
            refused = httpx.get(f"{served.url}/healthz/live").status_code
        deadline = time.monotonic() + 10
        while httpx.get(f"{served.url}/healthz/live").status_code != 200:
            assert time.monotonic() < deadline
    assert [200, 200, 200, 503] == [*held, refused]


def test_a_body_that_trickles_is_refused(tmp_path: Path) -> None:
    """A client cannot hold a place for as long as it likes."""
    with server(tmp_path, body_seconds=0.3) as served:
        served.wait_until_live()
        port = int(served.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            head = b"POST /v1/forecasts HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{"
            client.sendall(head)
            answer = client.makefile("rb").read()  # until the server closes
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'{"error":"the body took longer than 0.3 s: send it faster"}' in answer
