"""What the process's lines say besides their own facts."""

import json
import logging
import re
from datetime import UTC, datetime

import pytest

from fakes import AppClient, fake_forecaster
from feastrain import telemetry
from feastrain.serving.api import create_app
from feastrain.settings import Settings
from feastrain.telemetry import bind, event, log_as_lines, say, stage


@pytest.fixture(autouse=True)
def _nothing_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(telemetry.BOUND):
        monkeypatch.delitem(telemetry.BOUND, name)


def test_every_line_says_when_and_what_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    """The line's own facts go before those that are bound."""
    bind(run="feedface", snapshot="5a5a")
    event("saved", snapshot="b0b0")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert datetime.fromisoformat(told.pop("at")).tzinfo == UTC
    assert {"event": "saved", "run": "feedface", "snapshot": "b0b0"} == told


def test_a_server_names_its_bundle_in_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    """And the snapshot that it was trained on."""
    forecaster, source, history = fake_forecaster({(1, "b"): 1.0})
    source.error = OSError("away")
    assert (
        500
        == AppClient(create_app(forecaster, history, Settings()))
        .post("/v1/forecasts", json={"series": [{"site": 1, "item": "b"}]})
        .status_code
    )
    told = json.loads(capsys.readouterr().err.splitlines()[0])
    assert ("request_broken", "b0b0b0b0b0b0b0b0", "5a5a5a5a5a5a5a5a") == (
        told["event"],
        told["bundle"],
        told["snapshot"],
    )


def test_what_libraries_log_is_such_a_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From warnings on, with the traceback of an error, and once however often it is asked for."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_as_lines()
    log_as_lines()
    bind(bundle="b0b0")
    logging.getLogger("some.library").info("nothing")
    try:
        int("broken")
    except ValueError:
        logging.getLogger("some.library").exception("it %s", "failed")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert ("log", "error", "some.library", "it failed", "b0b0") == tuple(
        told[name] for name in ("event", "level", "logger", "text", "bundle")
    )
    assert "ValueError: invalid literal" in told["traceback"]


def test_who_said_how_to_log_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that uses the library keeps its own handlers."""
    given: list[logging.Handler] = [logging.NullHandler()]
    monkeypatch.setattr(logging.getLogger(), "handlers", given)
    log_as_lines()
    assert 1 == len(given)


def test_a_terminal_shows_how_far_a_stage_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar with what is told of it, then a line with what it made; no line is JSON."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    say("Running.")
    with stage("fit") as current:
        current.advance(1, 2, rows_per_s=1234)
        current.tell("epoch", loss=0.5)
        current.made(rows=5678)
    with stage("build", live=False) as current:
        current.made(cached=True)
    told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "Running.\n" == told.splitlines(keepends=True)[0]
    assert re.search(r"fit +.*rows_per_s 1,234 +0:00:00", told)
    assert "epoch        loss 0.5" in told
    assert re.search(r"✓ fit +0\.0 s  rows 5,678", told)
    assert re.search("= build +cached", told)
    assert "{" not in told
