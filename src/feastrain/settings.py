"""Settings: the place. What differs from one machine to the next, read from the environment.

Every setting is an environment variable `FEASTRAIN_NAME`. The science is in the recipe.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, ByteSize, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from feastrain.errors import UsageError
from feastrain.section import Count, Section


class Queue(Section):
    """What one node of a cluster's queue gives, how many there are, and what an hour costs."""

    memory_bytes: ByteSize | None = None
    """Also as `16GiB`."""
    cpus: Count | None = None
    gpus: int = Field(default=0, ge=0)
    nodes: Count | None = None
    walltime_s: float | None = Field(default=None, gt=0)
    cpu_hour: float = Field(default=0, ge=0)
    """Of one core; `gb_hour` of 1e9 bytes of memory, `gpu_hour` of one GPU."""
    gb_hour: float = Field(default=0, ge=0)
    gpu_hour: float = Field(default=0, ge=0)
    currency: str = "EUR"


class Settings(BaseSettings):
    """The settings of this machine; see each field for what it is for."""

    model_config = SettingsConfigDict(
        env_prefix="FEASTRAIN_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    artifacts: Path = Path("artifacts")
    """Folder of snapshots, runs, bundles and forecasts; relative to the project."""

    host: str = "127.0.0.1"
    """Address that `serve` listens on."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port that `serve` listens on."""

    max_series: int = Field(default=1000, ge=1)
    """Most series that one forecast request may name."""

    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    """Largest request body that is read."""

    memory_bytes: int | None = Field(default=None, ge=0)
    """Most memory that the encoded rows of all training processes of this machine may take; more
    is mapped from files in the run's folder. By default half of the machine's memory."""

    ray_address: str | None = None
    """Ray cluster that recipes with `engine: ray` use; without it, one is started here."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of rank 0 with Prometheus metrics and health of a training run; without it, none."""

    metrics_host: str = "127.0.0.1"
    """Address that the metrics port is opened on."""

    training_timeout_seconds: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """How long a training process waits for the others; a run is alive while a step has ended
    within as many seconds."""

    pushgateway: str | None = None
    """Pushgateway that a training run's metrics are pushed to when it ends: `http://HOST:PORT`."""

    mlflow_tracking_uri: str | None = None
    """MLflow tracking server that training runs are recorded in; needs the extra `mlflow`."""

    trainjob_status_url: str | None = Field(
        default=None, validation_alias="KUBEFLOW_TRAINER_SERVER_URL"
    )
    """Where Kubeflow wants to hear of progress; its controller sets it within a TrainJob."""

    queues: dict[str, Queue] = Field(default_factory=dict)
    """Where `plan --queue NAME` would have training run, as JSON:
    `{"small": {"memory_bytes": "16GiB", "cpus": 8, "nodes": 4, "walltime_s": 14400}}`."""

    restarts: int = Field(
        default=0,
        ge=0,
        validation_alias=AliasChoices("FEASTRAIN_RESTARTS", "TORCHELASTIC_RESTART_COUNT"),
    )
    """How often the ranks were started again; set by what starts them."""

    walmart_dir: Path | None = None
    """Folder of Kaggle's three CSV files for the reference application; else its synthetic twin."""


def without_password(url: str) -> str:
    """Return a URL as it may be shown: without the user and password that it may hold."""
    scheme, slashes, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def load_settings() -> Settings:
    """Read the settings of this machine.

    Raises:
        UsageError: an environment variable holds what its setting cannot be.
    """
    try:
        return Settings()
    except ValidationError as error:
        fault = error.errors()[0]
        name = "_".join(str(part) for part in fault["loc"]).upper()
        if name.lower() in Settings.model_fields:
            name = f"FEASTRAIN_{name}"
        message = f"environment variable {name}={fault['input']!r}: {fault['msg']}"
        raise UsageError(message) from error
