"""A training run in MLflow's store and in Kubeflow's TrainJob status."""

import importlib.util
import json
import os
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from certificates import make_certificate
from fakes import FakeTrainJob
from feastrain.artifacts import write_json
from feastrain.errors import InterruptedRun, UsageError
from feastrain.recipe import load_recipe
from feastrain.settings import Settings, without_password
from feastrain.telemetry import Stage
from feastrain.training.observer import About, End, Epoch, Step
from feastrain.training.tracking import MlflowRun
from feastrain.training.trainjob import TrainJobProgress, trainjob_progress
from feastrain.training.watching import watching
from tiny_snapshot import tiny_recipe, tiny_snapshot

PAUSE = 0.2


@pytest.fixture
def about(tmp_path: Path) -> About:
    """A run whose bundle is published already."""
    folder, bundle = tmp_path / "runs" / "feedface", tmp_path / "bundles" / "feedface"
    for path in (folder, bundle):
        path.mkdir(parents=True)
    write_json(bundle / "metrics.json", {"validation_wmae": 12.5})
    recipe, snapshot = load_recipe(tiny_recipe(tmp_path)), tiny_snapshot(tmp_path)
    return About(recipe, snapshot, folder, bundle, world_size=2, fresh=False)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a real file store."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "store").as_uri()


def _epoch(number: int) -> Epoch:
    return Epoch(number, 1 / number, 2 / number, 3 / number, 0.1, 3000.0, 8.0)


def test_finished_run_is_in_mlflow(about: About, store: str) -> None:
    """Parameters, a point an epoch, the bundle with its scores, and lineage as tags."""
    run = MlflowRun(about, store)
    for number in (1, 2, 3):
        run.see(_epoch(number))
    run.see(End("finished"))
    (found,) = _runs(store)
    client, run_id = MlflowClient(store), found.info.run_id
    assert ("FINISHED", "feedface") == (found.info.status, found.info.run_name)
    assert ("[16, 8]", "32") == tuple(
        found.data.params[name] for name in ("model.hidden", "training.batch_rows")
    )
    losses = client.get_metric_history(run_id, "validation_loss")
    assert [(1, 2.0), (2, 1.0), (3, 2 / 3)] == [(point.step, point.value) for point in losses]
    assert 12.5 == found.data.metrics["best_validation_wmae"]
    assert ["bundle/metrics.json"] == [f.path for f in client.list_artifacts(run_id, "bundle")]
    expected = {"run": "feedface", "snapshot": about.snapshot.fingerprint, "world_size": "2"}
    assert expected == {name: found.data.tags[f"feastrain.{name}"] for name in expected}


def test_resumed_run_goes_on_in_its_mlflow_run(about: About, store: str) -> None:
    """Interrupted and resumed is one MLflow run; a fresh start is another."""
    for epochs, outcome, status in (((1, 2), "interrupted", "KILLED"), ((3,), "failed", "FAILED")):
        run = MlflowRun(about, store)
        for number in epochs:
            run.see(_epoch(number))
        run.see(End(outcome))
        (found,) = _runs(store)
        assert status == found.info.status
    history = MlflowClient(store).get_metric_history(found.info.run_id, "loss")
    assert [1, 2, 3] == [point.step for point in history]
    MlflowRun(replace(about, fresh=True), store).see(End("finished"))
    assert {"FAILED", "FINISHED"} == {run.info.status for run in _runs(store)}


def test_request_to_stop_is_an_interrupted_run(about: About, store: str) -> None:
    """A run that was asked to stop is no failure to those who watch it."""
    settings = Settings(mlflow_tracking_uri=store)
    with (
        suppress(InterruptedRun),
        watching(about, settings, Stage("fit"), leads=True),
    ):
        raise InterruptedRun
    assert ["KILLED"] == [run.info.status for run in _runs(store)]


def test_mlflow_run_that_was_deleted_is_begun_anew(about: About, store: str) -> None:
    """A run whose record was thrown away meanwhile gets another."""
    MlflowRun(about, store).see(End("interrupted"))
    (first,) = _runs(store)
    MlflowClient(store).delete_run(first.info.run_id)
    MlflowRun(about, store).see(End("finished"))
    (second,) = _runs(store)
    assert first.info.run_id != second.info.run_id


def test_mlflow_run_that_is_gone_is_begun_anew(about: About, store: str) -> None:
    """A store that was emptied meanwhile, not only a run that can be restored."""
    MlflowRun(about, store).see(End("interrupted"))
    (first,) = _runs(store)
    shutil.rmtree(Path(first.info.artifact_uri.removeprefix("file://")).parent)
    MlflowRun(about, store).see(End("finished"))
    (second,) = _runs(store)
    assert "FINISHED" == second.info.status
    assert first.info.run_id != second.info.run_id


def test_another_server_is_told_of_a_run_of_its_own(about: About, store: str) -> None:
    """A number that the earlier one gave says nothing there."""
    MlflowRun(about, store).see(End("interrupted"))
    (first,) = _runs(store)
    elsewhere = {"uri": "http://elsewhere", "run_id": first.info.run_id}
    write_json(about.folder / "mlflow.json", elsewhere)
    MlflowRun(about, store).see(End("finished"))
    assert ["FINISHED", "KILLED"] == sorted(run.info.status for run in _runs(store))


def test_an_mlflow_run_that_cannot_be_asked_for_is_not_replaced(
    about: About, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever else MLflow says of it is one warning, and no second record is begun."""
    write_json(about.folder / "mlflow.json", {"uri": store, "run_id": "no/run"})
    MlflowRun(about, store).see(End("interrupted"))
    assert "'run_id' supplied.); its record there is incomplete" in capsys.readouterr().err
    assert MlflowClient(store).get_experiment_by_name("tiny") is None


def test_what_is_not_installed_is_said(
    about: About, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow was asked for by a setting, so there is no run without; Kubeflow's is told of."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"MLflow is not installed: pip install 'feastrain\[mlf"):
        MlflowRun(about, "http://127.0.0.1:1")
    assert [] == list(trainjob_progress())
    assert "Kubeflow is not told of the progress: pip install" in capsys.readouterr().err


def test_dead_server_costs_two_warnings(
    about: About, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A server that does not answer is said once while training and once at the end."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = MlflowRun(about, "http://user:secret@127.0.0.1:1")
    for number in range(1, 20):
        run.see(_epoch(number))
    run.see(End("failed"))
    texts = [json.loads(line)["text"] for line in capsys.readouterr().err.splitlines()]
    assert ["it is tried again when the run ends", "its record there is incomplete"] == [
        text.rpartition("; ")[2].removeprefix("training goes on, and ") for text in texts
    ]
    assert [] == [text for text in texts if "secret" in text]


def test_server_that_comes_back_is_told_everything(
    about: About, store: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """What could not be recorded while training is recorded when the run ends."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    run = MlflowRun(about, store)
    for number in (1, 2):
        run.see(_epoch(number))
    told = ""
    deadline = time.monotonic() + 20
    while "tried again" not in told and time.monotonic() < deadline:
        told += capsys.readouterr().err
        time.sleep(0.01)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run.see(End("finished"))
    (found,) = _runs(store)
    history = MlflowClient(store).get_metric_history(found.info.run_id, "loss")
    assert [1, 2] == [point.step for point in history]
    assert "incomplete" not in capsys.readouterr().err


def _runs(store: str) -> list:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:secret@host:5000/a@b", "http://host:5000/a@b"),
        ("http://host:9091", "http://host:9091"),
        ("user:secret@host", "host"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ],
)
def test_password_of_a_url_is_not_shown(url: str, shown: str) -> None:
    """What a warning shows of an address is without who uses it."""
    assert shown == without_password(url)


def _steps(send, pause: float, outcome: str) -> None:
    job = TrainJobProgress(send, pause)
    for step in range(1, 41):
        job.see(Step(1, 4, step, 40, 64, 0.5, 1.0, 0.1, 3200.0, 12.4))
        time.sleep(pause / 20)
    job.see(_epoch(1))
    job.see(End(outcome))


def test_trainjob_is_told_the_last_state_within_its_pause() -> None:
    """Few updates reach Kubeflow, none is dropped, and the last one is the end of the run."""
    job = FakeTrainJob(PAUSE)
    started = time.monotonic()
    _steps(job, PAUSE * 1.1, "finished")
    *during, last = job.told
    percents = [status["progress_percent"] for status in during]
    assert 1 <= len(during) <= (time.monotonic() - started) / PAUSE
    assert sorted(percents) == percents
    assert max(percents) <= 25
    assert (100, 0) == (last["progress_percent"], last["estimated_remaining_seconds"])
    assert 3.0 == last["metrics"]["validation_wmae"]


def test_interrupted_trainjob_is_not_at_100_percent() -> None:
    """A run that was asked to stop leaves its share of the steps behind."""
    job = FakeTrainJob(PAUSE)
    _steps(job, PAUSE * 1.1, "interrupted")
    assert (25, 12) == tuple(
        job.told[-1][name] for name in ("progress_percent", "estimated_remaining_seconds")
    )


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """Statuses sent to a server that stands where Kubeflow's controller does: TLS and a token."""
    told: list = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.headers["Authorization"] == "Bearer a-token"
            if known:
                told.append(body["trainerStatus"])
            self.send_response(200 if known else 401)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    (tmp_path / "token").write_text("a-token\n")
    certificate, key = make_certificate(tmp_path, "controller")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", url)
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_CA_CERT", str(certificate))
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", os.fspath(tmp_path / "token"))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@pytest.mark.integration
def test_kubeflows_own_client_sends_the_last_state(controller: list) -> None:
    """Over TLS, with the token, throttled as it is: the controller hears how the run ended."""
    trainer = pytest.importorskip("kubeflow.trainer")
    from feastrain.training.trainjob import PAUSE_SECONDS

    _steps(trainer.update_trainjob_status, PAUSE_SECONDS, "finished")
    assert 2 <= len(controller)
    assert 100 == controller[-1]["progressPercentage"]
    assert 0 == controller[-1]["estimatedRemainingSeconds"]
    assert {"name": "validation_wmae", "value": "3.0"} in controller[-1]["metrics"]


@pytest.mark.integration
def test_a_server_that_is_not_the_controller_is_told_nothing(
    controller: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A certificate that another signed ends the call before the token is sent; the run goes on."""
    trainer = pytest.importorskip("kubeflow.trainer")
    other, _ = make_certificate(tmp_path, "other")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_CA_CERT", str(other))
    # What the test before sent is no reason to send nothing now.
    monkeypatch.setattr("kubeflow.trainer.backends.kubernetes.utils._last_update_time", -60.0)
    _steps(trainer.update_trainjob_status, PAUSE, "finished")
    assert [] == controller
    assert "certificate verify failed" in caplog.text
