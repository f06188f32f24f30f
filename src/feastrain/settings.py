"""Settings: the place. What differs from one machine to the next, read from the environment.

Every setting is an environment variable `FEASTRAIN_NAME`. The science is in the recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from feastrain.errors import UsageError

Kind = TypeVar("Kind", bound=BaseSettings)


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

    node_rank: int = Field(default=0, ge=0, validation_alias="PET_NODE_RANK")
    """Which node of a training run this is; Kubeflow's controller sets it within a TrainJob."""

    restarts: int = Field(
        default=0,
        ge=0,
        validation_alias=AliasChoices("FEASTRAIN_RESTARTS", "TORCHELASTIC_RESTART_COUNT"),
    )
    """How often the ranks were started again; set by what starts them."""

    walmart_dir: Path | None = None
    """Folder of Kaggle's three CSV files for the reference application; else its synthetic twin."""


class Cluster(BaseSettings):
    """The cluster that training jobs are sent to: environment variables `FEASTRAIN_CLUSTER_*`."""

    model_config = SettingsConfigDict(
        env_prefix="FEASTRAIN_CLUSTER_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    namespace: str = Field(default="default", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    """Namespace that jobs are made in."""

    image: str = "ghcr.io/feastrain/train-cpu:latest"
    """Image with feastrain, for nodes without a GPU."""

    gpu_image: str = "ghcr.io/feastrain/train-cuda:latest"
    """Image with feastrain and PyTorch for CUDA."""

    claim: str = "feastrain-artifacts"
    """Persistent volume claim, of the jobs' namespace, that holds the artifacts folder; of access
    mode ReadWriteMany where a run has several nodes."""

    artifacts: Path = Path("/feastrain/artifacts")
    """Where pods see this project's artifacts folder."""

    queue: str | None = None
    """Kueue's local queue that jobs wait in; without it, they start at once."""

    gang: Literal["none", "coscheduling", "volcano"] = "none"
    """What places all nodes of a job or none; Kueue's queues do so by themselves."""

    openshift: bool = False
    """Whether the platform gives pods their user and group, as OpenShift's restricted-v2 does."""


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
    return _read(Settings)


def load_cluster() -> Cluster:
    """Read the settings of the cluster.

    Raises:
        UsageError: an environment variable holds what its setting cannot be.
    """
    return _read(Cluster)


def _read(kind: type[Kind]) -> Kind:
    try:
        return kind()
    except ValidationError as error:
        fault = error.errors()[0]
        name = "_".join(str(part) for part in fault["loc"]).upper()
        if name.lower() in kind.model_fields:
            name = f"{kind.model_config['env_prefix']}{name}"
        message = f"environment variable {name}={fault['input']!r}: {fault['msg']}"
        raise UsageError(message) from error
