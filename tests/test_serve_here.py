"""`serve` and `supervise` within the process of the test: signals, threads, and what is told."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import ill_workers
from fakes import fake_forecaster
from feastrain import tracing
from feastrain.artifacts import point
from feastrain.errors import FeastrainError
from feastrain.serving import supervisor
from feastrain.serving.api import create_app, serve
from feastrain.serving.listening import address_of
from feastrain.serving.server import tell
from feastrain.serving.supervisor import supervise
from feastrain.serving.swap import BundleWatch, Sources, deaf_to_hangup
from feastrain.settings import Settings

pytestmark = pytest.mark.integration

LEVELS: dict[tuple[object, ...], float] = {(1, "b"): 100.0}
LONG = Settings(drain_notice_seconds=3600, drain_seconds=7200)
"""A server that announces its end, and drains, for longer than a test may take."""


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A server is deaf to SIGHUP from its start; the process of the tests is not."""
    hangup = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, hangup)


def app_of(settings: Settings, watch: BundleWatch | None = None) -> FastAPI:
    forecaster, _, history = fake_forecaster(LEVELS)
    return create_app(forecaster, history, settings, watch=watch)


def free_listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    "pressed", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
)
def test_ctrl_c_and_a_second_signal_are_not_announced(pressed: list[signal.Signals]) -> None:
    """Who sends them waits for no load balancer; and the handlers of the caller stay."""
    app, handlers = app_of(LONG), [signal.getsignal(number) for number in pressed]

    def press() -> None:
        for number in pressed:
            signal.raise_signal(number)

    serve(app, LONG, free_listener(), press)
    assert app.state.drain.begun
    assert handlers == [signal.getsignal(number) for number in pressed]


def test_a_server_in_a_thread_traces_and_leaves_signals_alone(tmp_path: Path) -> None:
    """Only the main thread hears signals; its handlers are those from before."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    point(tmp_path / "recipe", tmp_path / "b0b0b0b0b0b0b0b0")
    forecaster, _, history = fake_forecaster(LEVELS)
    watch = BundleWatch(tmp_path / "recipe", lambda: Sources(forecaster, history), 3600)
    ready, listener = threading.Event(), free_listener()
    settings = Settings(otlp_endpoint="http://127.0.0.1:1", drain_notice_seconds=0)
    app = app_of(settings, watch)

    def work() -> None:
        deaf_to_hangup()
        serve(app, settings, listener, ready.set)

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(60)
    assert tracing._Tracing.tracer is not None
    tracing.trace_no_more()  # before there is a span to send
    answer = httpx.get(f"{address_of(listener)}healthz/live")
    during = [signal.getsignal(number) for number in numbers]
    app.state.drain.begin()
    thread.join(60)
    assert (200, False) == (answer.status_code, thread.is_alive())
    assert handlers == during


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_port_that_others_reach_is_told_of(
    host: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its address is one that a browser opens; without tokens a line says who reads forecasts."""
    with socket.create_server((host, 0)) as listener:
        shown = {"0.0.0.0": "localhost"}.get(host, host)
        assert f"http://{shown}:{listener.getsockname()[1]}/" == address_of(listener)
        tell(listener, Settings())
        told = capsys.readouterr().err
        assert f"serving on {address_of(listener)} " in told
        assert warned == ("whoever reaches this port reads every forecast" in told)
        tell(listener, Settings(serve_tokens="token-of-these-tests"))
        assert "whoever" not in capsys.readouterr().err


def test_a_worker_that_dies_before_it_serves_ends_the_server() -> None:
    """The line says which one and with which code; it cannot know more."""
    told = r"worker 1 ended with exit code 7 before it served; what it wrote above says why"
    with pytest.raises(FeastrainError, match=told):
        supervise(ill_workers.die, Settings(serve_workers=1), free_listener())


def test_a_worker_that_does_not_drain_is_killed_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is deaf to SIGTERM does not keep the server from its end."""
    monkeypatch.setattr(supervisor, "FORCE_SECONDS", 0.1)
    settings = Settings(serve_workers=2, drain_seconds=0.3)
    told = r"worker 1 \(exit code -9\) did not drain within 0\.3 s: its log says what it was at"
    with pytest.raises(FeastrainError, match=told):
        supervise(ill_workers.stay, settings, free_listener())


def test_a_worker_that_cannot_start_again_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again; one that held long enough is waited for as after its first death."""
    monkeypatch.setattr(supervisor, "STEADY_SECONDS", 0.0)
    work = partial(ill_workers.fail_beside_another, tmp_path)
    supervise(work, Settings(serve_workers=2), free_listener())
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    failed = [(one["worker"], one["error"]) for one in events if "cannot" in one["event"]]
    assert [(2, "the bundle is damaged: train it again")] * 2 == failed
    died = [(one["worker"], one["exit_code"]) for one in events if "died" in one["event"]]
    waits = [one["again_in"] for one in events if "died" in one["event"]]
    assert [(2, 3)] * 2 == died
    assert all(wait <= supervisor.FIRST_WAIT_SECONDS for wait in waits)
