"""A training run seen from outside: Prometheus, health, Pushgateway, JSON lines."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from itertools import count
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from fakes import FakeGateway, FakeWatcher
from feastrain import telemetry
from feastrain.dataset.latest import Effort, record_effort
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import InterruptedRun, UsageError
from feastrain.jobs.probe import probe
from feastrain.recipe import load_recipe
from feastrain.settings import Settings, load_settings
from feastrain.telemetry import Stage, stage
from feastrain.training.loop import Validation
from feastrain.training.metrics import BOUNDS, LastWord, Metrics, Seconds
from feastrain.training.observer import (
    REFRESH_SECONDS,
    About,
    Boosted,
    End,
    Epoch,
    Observer,
    Progress,
    Saved,
    Step,
)
from feastrain.training.port import CONNECTIONS, Answer, answering
from feastrain.training.probes import probes_of
from feastrain.training.progression import Progression
from feastrain.training.watching import watching
from gangs import until
from test_training import LAUNCH
from tiny_snapshot import tiny_recipe, tiny_snapshot

EPOCHS = 40


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture
def about(snapshot: Snapshot, tmp_path: Path) -> About:
    recipe = load_recipe(tiny_recipe(tmp_path))
    folder = tmp_path / "runs" / "feedfacefeedface"
    folder.mkdir(parents=True)
    bundle = tmp_path / "bundles" / folder.name
    return About(recipe, snapshot, folder, bundle, world_size=2, fresh=False)


def _step(step: int = 1, **given: float) -> Step:
    facts = {"loss": 0.5, "gradient_norm": 2.0, "seconds": 0.02, "rows_per_s": 3200.0}
    facts |= {"remaining_seconds": 9.0} | given
    return Step(epoch=1, epochs=3, step=step, steps=5, rows=64, **facts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _answering(metrics: Metrics, port: int) -> AbstractContextManager[None]:
    return answering(probes_of(metrics), "127.0.0.1", port, "FEASTRAIN_METRICS_PORT")


def _samples(text: str) -> dict[str, float]:
    """Every sample without labels, by name, and the histograms' buckets by name and bound."""
    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Clock:
    """Shows the time that it was set to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_openshift_reads_progress_as_json() -> None:
    """At `/metrics` of a port of its own; a run that did not finish never says 100."""
    progression, port = Progression(), _free_port()
    told = []
    with answering(progression.answer, "127.0.0.1", port, "FEASTRAIN_PROGRESS_PORT"):
        told.append(json.loads(_get(port, "/metrics")[1]))
        progression.see(_step(5))
        progression.see(Epoch(1, 0.4, 0.3, 12.5, 0.1, 3000.0, 8.0))
        told.append(json.loads(_get(port, "/metrics")[1]))
        progression.see(End("interrupted"))
        told.append(json.loads(_get(port, "/metrics")[1]))
        progression.see(End("finished"))
        told.append(json.loads(_get(port, "/metrics")[1]))
        assert (404, "/metrics\n") == _get(port, "/")
    begun = {
        "progressPercentage": 33,
        "estimatedRemainingSeconds": 9,
        "currentStep": 5,
        "totalSteps": 15,
        "currentEpoch": 1,
        "totalEpochs": 3,
        "trainMetrics": {"loss": 0.5, "rows_per_s": 3200.0},
        "evalMetrics": {"loss": 0.3, "wmae": 12.5},
    }
    none = {"progressPercentage": 0, "trainMetrics": {}, "evalMetrics": {}}
    over = begun | {"progressPercentage": 100, "estimatedRemainingSeconds": 0}
    assert [none, begun, begun, over] == told


def test_port_answers_with_what_the_run_did(about: About) -> None:
    """Prometheus reads losses, norms, rates, histograms and restarts of the steps so far."""
    clock, port = Clock(), _free_port()
    metrics = Metrics(about, restarts=2, clock=clock)
    with _answering(metrics, port):
        for step in (1, 2):
            metrics.see(_step(step))
        metrics.see(Epoch(1, 0.4, 0.3, 12.5, 0.1, 3000.0, 8.0))
        metrics.see(Saved(0.004))
        clock.now += 7
        status, text = _get(port, "/metrics")
    assert 200 == status
    found = _samples(text)
    expected = {
        "feastrain_training_loss": 0.4,
        "feastrain_training_validation_loss": 0.3,
        "feastrain_training_validation_wmae": 12.5,
        "feastrain_training_gradient_norm": 2.0,
        "feastrain_training_rows_per_second": 3200.0,
        "feastrain_training_epoch": 1.0,
        "feastrain_training_progress_ratio": pytest.approx(2 / 15),
        "feastrain_training_finished": 0.0,
        "feastrain_training_steps_total": 2.0,
        "feastrain_training_rows_total": 128.0,
        "feastrain_training_restarts_total": 2.0,
        "feastrain_training_step_seconds_count": 2.0,
        "feastrain_training_step_seconds_sum": pytest.approx(0.04),
        "feastrain_training_step_seconds_bucket0.01": 0.0,
        "feastrain_training_step_seconds_bucket0.025": 2.0,
        "feastrain_training_epoch_seconds_count": 1.0,
        "feastrain_training_checkpoint_seconds_sum": 0.004,
        "feastrain_training_checkpoint_age_seconds": 7.0,
    }
    assert expected == {name: found[name] for name in expected}
    assert 'run="feedfacefeedface"' in text


@given(st.lists(st.floats(0, 1e5)))
def test_buckets_count_what_is_at_most_their_bound(observed: list[float]) -> None:
    """Every bucket of a histogram counts the durations up to its bound, the last one all."""
    seconds = Seconds()
    for duration in observed:
        seconds.observe(duration)
    samples = HistogramMetricFamily("x", "x", **seconds.value()).samples
    buckets = [sample.value for sample in samples if sample.name == "x_bucket"]
    assert [*(sum(d <= b for d in observed) for b in BOUNDS), len(observed)] == buckets


def test_ready_after_a_step_and_alive_while_steps_end(about: About) -> None:
    """Ready is 503 until a step ended; live is 503 when none ended within the time-out."""
    clock, port = Clock(), _free_port()
    metrics = Metrics(about, heartbeat_seconds=30.0, clock=clock)

    def health() -> tuple[int, int]:
        return _get(port, "/healthz/live")[0], _get(port, "/healthz/ready")[0]

    with _answering(metrics, port):
        assert (200, 503) == health()
        metrics.see(_step())
        clock.now += 30
        assert (200, 200) == health()
        clock.now += 1
        metrics.see(Saved(0.1))
        assert (503, 200) == health()
        assert "no step has ended for 31 s\n" == _get(port, "/healthz/live")[1]
        metrics.see(_step(2))
        assert (200, 200) == health()
        assert 404 == _get(port, "/secrets")[0]


def test_rounds_of_a_booster_are_as_good_as_steps(about: About) -> None:
    """A run that fits trees is ready after the first of them, and alive while they come."""
    clock = Clock()
    metrics = Metrics(about, heartbeat_seconds=30.0, clock=clock)
    clock.now += 31
    assert (False, 31.0) == (metrics.stepping, metrics.stalled_seconds)
    metrics.see(Boosted(1, 9, 10, 60))
    assert (True, None) == (metrics.stepping, metrics.stalled_seconds)


def test_the_kubelet_hears_what_rank_0_says(
    about: About, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probe fails as rank 0 does, and says why; other nodes, and runs without a port, pass."""
    port = _free_port()
    monkeypatch.setenv("FEASTRAIN_METRICS_PORT", str(port))
    with _answering(Metrics(about, heartbeat_seconds=30.0, clock=Clock()), port):
        assert (True, False) == (probe("live"), probe("ready"))
    assert "no step has ended yet" in capsys.readouterr().err
    assert not probe("live")
    assert "rank 0 does not answer: [Errno 111] Connection refused" in capsys.readouterr().err
    monkeypatch.setenv("PET_NODE_RANK", "1")
    assert probe("live")
    monkeypatch.delenv("PET_NODE_RANK")
    monkeypatch.delenv("FEASTRAIN_METRICS_PORT")
    assert probe("ready")


def test_idle_connections_are_bounded_and_the_port_is_given_back(about: About) -> None:
    """One connection more than are allowed is closed; after the block the port is free again."""
    port = _free_port()
    for _ in range(2):
        with _answering(Metrics(about), port):
            idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
            with pytest.raises((URLError, ConnectionError)):
                _get(port, "/metrics")
            for connection in idle:
                connection.close()
    with pytest.raises(URLError):
        _get(port, "/metrics")


def _idle() -> bool:
    """Whether no thread of a port is at an answer."""
    return not any("process_request_thread" in thread.name for thread in threading.enumerate())


def test_a_client_that_goes_away_is_no_concern_of_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its connection is reset while it is answered; nothing is said, and the next is answered."""
    asked, gone, port = threading.Event(), threading.Event(), _free_port()

    def answer(_: str) -> Answer:
        asked.set()
        assert gone.wait(20)
        return Answer(HTTPStatus.OK, bytes(1 << 20))

    with answering(answer, "127.0.0.1", port, "FEASTRAIN_METRICS_PORT"):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert asked.wait(20)
        gone.set()
        until(_idle, "the end of the answer", 20)
        assert "" == capsys.readouterr().err
        assert 1 << 20 == len(_get(port, "/")[1])


def test_an_answer_that_breaks_is_shown_with_its_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is an error of ours; the client hears nothing, and the run goes on."""
    port = _free_port()
    with answering(lambda path: 1 // len(path[1:]), "127.0.0.1", port, "FEASTRAIN_METRICS_PORT"):
        with pytest.raises((URLError, ConnectionError)):
            _get(port, "/")
        until(_idle, "the end of the answer", 20)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_each_port_is_opened_for_itself(about: About) -> None:
    """Prometheus's and OpenShift's, with no gateway to push to."""
    ports = _free_port(), _free_port()
    settings = Settings(metrics_port=ports[0], progress_port=ports[1])
    with watching(about, settings, Stage("fit"), leads=True) as observer:
        observer.on_epoch_start(1, 64)
        observer.on_step(1, 1, 0.5, 1.0)
        assert 64.0 == _samples(_get(ports[0], "/metrics")[1])["feastrain_training_rows_total"]
        assert 0.5 == json.loads(_get(ports[1], "/metrics")[1])["trainMetrics"]["loss"]


def test_taken_port_is_one_line(about: About) -> None:
    """A port that another program holds is refused with the settings to mend."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = Settings(metrics_port=other.getsockname()[1])
        with (
            pytest.raises(UsageError, match=r"in use\): mend FEASTRAIN_METRICS_PORT"),
            watching(about, settings, Stage("fit"), leads=True),
        ):
            pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEASTRAIN_METRICS_PORT", "70000"),
        ("FEASTRAIN_TRAINING_TIMEOUT_SECONDS", "inf"),
        ("FEASTRAIN_RESTARTS", "-1"),
    ],
)
def test_bad_setting_names_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that cannot be is one line with the variable and what it holds."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"environment variable {name}='{value}'"):
        load_settings()


def test_restarts_are_those_of_whoever_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our launcher's count goes before torchrun's, which is always 0 under it."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert 3 == load_settings().restarts
    monkeypatch.setenv("FEASTRAIN_RESTARTS", "1")
    assert 1 == load_settings().restarts


def test_retrieval_seconds_are_told_of_the_snapshot_they_are_of(about: About) -> None:
    """The join's time is a metric where the last build made this snapshot, else it is absent."""
    name = "feastrain_training_retrieval_seconds"
    directory = about.snapshot.path.parent
    assert name not in _samples(Metrics(about).text().decode())
    record_effort(directory, "tiny", Effort(9.0, 10, about.snapshot.fingerprint, 4.25))
    assert 4.25 == _samples(Metrics(about).text().decode())[name]
    record_effort(directory, "tiny", Effort(9.0, 10, "another", 4.25))
    assert name not in _samples(Metrics(about).text().decode())


def test_long_epoch_is_told_of_now_and_then(
    about: About, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Off a terminal, a stage says how far it is once its last line is old enough."""
    with stage("fit") as shown:
        progress = Progress(shown)
        progress.see(_step(1))
        monkeypatch.setattr(telemetry, "PROGRESS_SECONDS", 0.0)
        progress.see(_step(1))
        time.sleep(REFRESH_SECONDS)
        progress.see(_step(2, remaining_seconds=75.0))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ["progress", "stage"] == [line["event"] for line in lines]
    expected = {"done": 2, "total": 15, "epoch": "1/3", "loss": 0.5, "rows_per_s": 3200}
    assert expected | {"eta": 75.0} == {key: lines[0][key] for key in (*expected, "eta")}


def test_observer_tells_rates_and_the_time_left() -> None:
    """Two epochs of four steps, a second each: rows, rates and what is left follow."""
    watcher, seconds = FakeWatcher(), count(start=0)
    observer = Observer(2, [watcher], clock=lambda: float(next(seconds)))
    observer.on_epoch_start(1, rows=10)
    for step in range(1, 5):
        observer.on_step(step, 4, loss=1.0 / step, gradient_norm=1.0)
    observer.on_epoch(0.5, Validation(wmae=3.0, pinball=2.0))
    *steps, epoch = watcher.events
    assert [2, 3, 2, 3] == [step.rows for step in steps]
    assert [7.0, 6.0, 5.0, 4.0] == [step.remaining_seconds for step in steps]
    assert [2.0, 2.5, 7 / 3, 2.5] == [step.rows_per_s for step in steps]
    assert Epoch(1, 0.5, 2.0, 3.0, 4.0, 2.5, 4.0) == epoch


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "finished"), (InterruptedRun("asked to stop"), "interrupted"), (OSError(), "failed")],
)
def test_last_word_is_pushed_whatever_the_end(
    about: About, error: Exception | None, outcome: str
) -> None:
    """The gateway gets the metrics under job and run, and whether the run is finished."""
    with FakeGateway() as gateway:
        settings = Settings(pushgateway=gateway.url)
        with (
            suppress(InterruptedRun, OSError),
            watching(about, settings, Stage("fit"), leads=True) as observer,
        ):
            observer.on_epoch_start(1, 64)
            observer.on_step(1, 1, 0.5, 1.0)
            if error is not None:
                raise error
    ((method, path, body),) = gateway.requests
    assert ("PUT", "/metrics/job/feastrain/run/feedfacefeedface") == (method, path)
    assert (outcome == "finished") == _samples(body)["feastrain_training_finished"]
    assert 64.0 == _samples(body)["feastrain_training_rows_total"]


@pytest.mark.parametrize("gateway", ["http://127.0.0.1:1", "http://[", "http://127.0.0.1:x"])
def test_gateway_that_does_not_answer_is_one_warning(about: About, gateway: str, capsys) -> None:
    """The run ends well, with one line that names the setting."""
    LastWord(Metrics(about), gateway, about.name).see(End("finished"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "mend FEASTRAIN_PUSHGATEWAY" in json.loads(line)["text"]


def test_other_ranks_are_not_watched(about: About) -> None:
    """Only rank 0 opens the port and pushes."""
    port = _free_port()
    settings = Settings(metrics_port=port, pushgateway="http://127.0.0.1:1")
    with watching(about, settings, Stage("fit"), leads=False) as observer:
        observer.on_step(1, 1, 0.5, 1.0)
        with pytest.raises(URLError):
            _get(port, "/metrics")


@pytest.mark.distributed
def test_run_is_scraped_while_it_trains(snapshot: Snapshot, tmp_path: Path) -> None:
    """Two ranks under our launcher: not ready, then stepping, and the last word at the end."""
    port, recipe, store = _free_port(), tiny_recipe(tmp_path, EPOCHS), tmp_path / "store"
    command = [sys.executable, "-c", LAUNCH, str(recipe), str(snapshot.path)]
    with FakeGateway() as gateway:
        given = {
            "FEASTRAIN_METRICS_PORT": str(port),
            "FEASTRAIN_PUSHGATEWAY": gateway.url,
            "FEASTRAIN_MLFLOW_TRACKING_URI": store.as_uri(),
            "MLFLOW_ALLOW_FILE_STORE": "true",
        }
        with subprocess.Popen(
            [*command, str(tmp_path / "artifacts")],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | given,
        ) as process:
            scraped = _scrape(port, process)
            _, told = process.communicate(timeout=60)
    assert 0 == process.returncode, told
    assert scraped["feastrain_training_steps_total"] > 0
    assert scraped["feastrain_training_loss"] > 0
    assert scraped["feastrain_training_gradient_norm"] > 0
    assert scraped["feastrain_training_rows_per_second"] > 0
    ((_, path, body),) = gateway.requests
    (bundle,) = (p for p in (tmp_path / "artifacts" / "bundles").iterdir() if not p.is_symlink())
    assert f"/metrics/job/feastrain/run/{bundle.name}" == path
    last = _samples(body)
    assert 1.0 == last["feastrain_training_finished"]
    assert EPOCHS == last["feastrain_training_epoch_seconds_count"]
    assert EPOCHS == last["feastrain_training_checkpoint_seconds_count"]
    wmae = json.loads((bundle / "metrics.json").read_text())["validation_wmae"]
    assert wmae <= last["feastrain_training_validation_wmae"]
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert EPOCHS == len(epochs)
    bound = {(line["run"], line["snapshot"]) for line in epochs}
    assert {(bundle.name, snapshot.fingerprint)} == bound
    assert [True] * EPOCHS == [line["eta"] >= 0 for line in epochs]
    with pytest.raises(URLError):
        _get(port, "/metrics")
    (weights,) = store.glob("*/*/artifacts/bundle/model.safetensors")
    assert (bundle / "model.safetensors").read_bytes() == weights.read_bytes()


def _scrape(port: int, process: subprocess.Popen[str]) -> dict[str, float]:
    """Return what the port shows once the run is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if _get(port, "/healthz/ready")[0] == 200:
                assert 200 == _get(port, "/healthz/live")[0]
                return _samples(_get(port, "/metrics")[1])
        except (URLError, ConnectionError):
            pass
        time.sleep(0.02)
    pytest.fail("the run was never ready")


def test_reference_names_every_metric(about: About) -> None:
    """docs/metrics.md lists the metrics of training that a run exposes, and no other."""
    metrics = Metrics(about)
    for event in (_step(), Epoch(1, 0.4, 0.3, 12.5, 0.1, 3000.0, 8.0), Saved(0.1)):
        metrics.see(event)
    record_effort(
        about.snapshot.path.parent, "tiny", Effort(9.0, 10, about.snapshot.fingerprint, 4.25)
    )
    exposed = set(re.findall(r"^# HELP (\w+)", metrics.text().decode(), re.MULTILINE))
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    listed = set(re.findall(r"^\| `(feastrain_training_\w+)", page, re.MULTILINE))
    assert exposed == listed
