"""A run in MLflow: parameters, a point of every metric an epoch, the bundle, and lineage as tags.

Everything is sent from a thread of its own, so training never waits; a server that does not
answer costs one warning, and what was not sent is tried once more when the run ends. A resumed
run goes on in the MLflow run that its folder names.
"""

from __future__ import annotations

import importlib.util
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from feastrain.artifacts import write_json
from feastrain.errors import UsageError
from feastrain.settings import without_password
from feastrain.telemetry import say
from feastrain.training.observer import End, Epoch
from feastrain.version import __version__

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from feastrain.training.observer import About, Event, Outcome

RUN_FILE = "mlflow.json"
"""Within the run's folder: which MLflow run it is."""
LAST_SECONDS = {"finished": 60.0, "interrupted": 10.0, "failed": 10.0}
"""How long the end of a run waits for what was not sent yet, the bundle included."""
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowRun:
    """Records one run at the tracking server `uri`.

    Raises:
        UsageError: MLflow is not installed.
    """

    def __init__(self, about: About, uri: str) -> None:
        if importlib.util.find_spec("mlflow") is None:
            message = (
                "FEASTRAIN_MLFLOW_TRACKING_URI is set, but MLflow is not installed: "
                "pip install 'feastrain[mlflow]', or unset it"
            )
            raise UsageError(message)
        self._about, self._uri, self._shown = about, uri, without_password(uri)
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._unsent: list[tuple[str, float, int, int]] = []
        self._warned = False
        self._thread = ThreadPoolExecutor(1)
        self._later(self._thread.submit(self._send))

    def see(self, event: Event) -> None:
        """Record an epoch, or the end and its bundle."""
        match event:
            case Epoch():
                now = round(time.time() * 1000)
                values = {
                    "loss": event.loss,
                    "validation_loss": event.validation_loss,
                    "validation_wmae": event.validation_wmae,
                    "epoch_seconds": event.seconds,
                    "rows_per_s": event.rows_per_s,
                }
                self._unsent += [(name, value, now, event.epoch) for name, value in values.items()]
                if not self._warned:
                    self._later(self._thread.submit(self._send))
            case End(outcome):
                self._end(outcome)
            case _:
                pass

    def _end(self, outcome: Outcome) -> None:
        last = self._thread.submit(self._finish, outcome)
        try:
            error = last.exception(LAST_SECONDS[outcome])
        except TimeoutError as too_long:
            error = too_long
        if error is not None:
            self._warn(error, "its record there is incomplete")
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _later(self, sent: Future[None]) -> None:
        sent.add_done_callback(self._sent)

    def _sent(self, sent: Future[None]) -> None:
        """Say once that MLflow could not be told; whatever its client raised, the run goes on."""
        error = None if sent.cancelled() else sent.exception()
        if error is not None and not self._warned:
            self._warned = True
            self._warn(error, "training goes on, and it is tried again when the run ends")

    def _warn(self, error: BaseException, consequence: str) -> None:
        told = " ".join(str(error).split()).replace(self._uri, self._shown) or type(error).__name__
        say(f"MLflow at {self._shown} was not told of this run ({told}); {consequence}")

    def _send(self) -> None:
        from mlflow.entities import Metric

        client = self._open()
        points = self._unsent[:1000]  # the most that MLflow takes at once
        client.log_batch(self._run_id, metrics=[Metric(*point) for point in points])
        del self._unsent[: len(points)]

    def _finish(self, outcome: Outcome) -> None:
        client = self._open()
        while self._unsent:
            self._send()
        if outcome == "finished":
            bundle = self._about.bundle
            for name, value in json.loads((bundle / "metrics.json").read_text()).items():
                client.log_metric(self._run_id, f"best_{name}", value)
            client.set_tag(self._run_id, "feastrain.bundle", bundle.name)
            client.log_artifacts(self._run_id, str(bundle), "bundle")
        client.set_terminated(self._run_id, STATUS[outcome])

    def _open(self) -> MlflowClient:
        """Return the client, with the run created or found again."""
        if self._client is None:
            client = _client(self._uri)
            self._run_id = self._again(client) or self._anew(client)
            self._client = client
        return self._client

    def _again(self, client: MlflowClient) -> str | None:
        """Return the MLflow run that an earlier process of this run began, set to running."""
        from mlflow.exceptions import MlflowException

        kept = self._about.folder / RUN_FILE
        if self._about.fresh or not kept.is_file():
            return None
        earlier = json.loads(kept.read_text())
        if earlier["uri"] != self._shown:
            return None
        run_id = str(earlier["run_id"])
        try:
            if client.get_run(run_id).info.lifecycle_stage == "deleted":
                return None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        client.update_run(run_id, status="RUNNING")
        return run_id

    def _anew(self, client: MlflowClient) -> str:
        from mlflow.entities import Param

        about = self._about
        found = client.get_experiment_by_name(about.recipe.name)
        experiment = found.experiment_id if found else client.create_experiment(about.recipe.name)
        run = client.create_run(experiment, tags=_lineage(about), run_name=about.name)
        run_id = str(run.info.run_id)
        parameters = _flat(about.recipe.training_section())
        client.log_batch(run_id, params=[Param(name, value) for name, value in parameters.items()])
        beside = about.folder / f".{RUN_FILE}"
        write_json(beside, {"uri": self._shown, "run_id": run_id})
        beside.replace(about.folder / RUN_FILE)
        return run_id


def _client(uri: str) -> MlflowClient:
    """Return a client that gives a dead server up within seconds, not minutes."""
    from mlflow import environment_variables as given
    from mlflow.tracking import MlflowClient

    limits = {given.MLFLOW_HTTP_REQUEST_MAX_RETRIES: 1, given.MLFLOW_HTTP_REQUEST_TIMEOUT: 10}
    for variable, value in limits.items():
        if not variable.is_set():
            variable.set(value)
    return MlflowClient(uri)


def _lineage(about: About) -> dict[str, str]:
    manifest = about.snapshot.manifest
    facts = {
        "run": about.name,
        "recipe": about.recipe.name,
        "snapshot": about.snapshot.fingerprint,
        "service": manifest["service"],
        "features": len(manifest["row_features"]) + len(manifest["known_features"]),
        "world_size": about.world_size,
        "version": __version__,
    }
    return {f"feastrain.{name}": str(value) for name, value in facts.items()}


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested keys joined by dots, with their values as text."""
    flat: dict[str, str] = {}
    for name, value in section.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value)
    return flat
