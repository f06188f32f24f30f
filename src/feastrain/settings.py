"""Settings: the place. What differs from one machine to the next, read from the environment.

Every setting is an environment variable `FEASTRAIN_NAME`. The science is in the recipe.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import AliasChoices, BeforeValidator, ByteSize, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

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


if TYPE_CHECKING:
    from collections.abc import Iterator


def _split(given: object) -> object:
    """Return the parts of a text with commas; what is no text is as it should be."""
    if not isinstance(given, str):
        return given
    return tuple(part.strip() for part in given.split(",") if part.strip())


Kind = TypeVar("Kind", bound=BaseSettings)


class Settings(BaseSettings):
    """The settings of this machine; see each field for what it is for."""

    model_config = SettingsConfigDict(
        env_prefix="FEASTRAIN_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    artifacts: Path = Path("artifacts")
    """Folder of snapshots, runs, bundles and forecasts; relative to the project."""

    host: str = "127.0.0.1"
    """Address that `serve` listens on."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port that `serve` listens on."""

    tls_certificate: Path | None = None
    """PEM file with the certificate that `serve` answers TLS with, read again when it changes."""

    tls_key: Path | None = None
    """PEM file with the certificate's key."""

    max_series: int = Field(default=1000, ge=1)
    """Most series that one forecast request may name."""

    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    """Largest request body that is read."""

    body_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """How long a client may take to send a request's body."""

    max_connections: int = Field(default=1024, ge=1)
    """Connections that one worker holds at once; one more is answered with 503."""

    max_feature_age_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Features older than this are told as stale, and a server whose cut-off is, is not ready."""

    serve_workers: int = Field(default=1, ge=1, le=256)
    """Processes that `serve` answers with, on one socket."""

    bundle_seconds: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """How often `serve` looks whether the recipe's pointer leads to another bundle."""

    bundle_keys: Path | None = None
    """PEM file with Ed25519 public keys: a bundle that none of them signed forecasts nothing."""

    serve_tokens: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)] = ()
    """Tokens that let a client in, separated by commas; without any, everybody is let in."""

    serve_tokens_file: Path | None = None
    """File with one token a line, read again when it changes."""

    serve_open_probes: bool = False
    """Whether `/healthz/ready` and `/metrics` need no token, as `/healthz/live` never does."""

    rate_limit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Requests a second that one client (its token, or else its address) may make of one worker."""

    rate_burst: int = Field(default=20, ge=1)
    """Requests that a client may make at once before the rate holds."""

    trusted_proxies: str | None = None
    """Addresses, separated by commas, whose word on the client's address is taken
    (`X-Forwarded-For`); without it nobody's is."""

    drain_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """How long after SIGTERM a server may take to answer what was begun."""

    drain_notice_seconds: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """How long after SIGTERM new connections are still taken, while readiness says 503: as long
    as a load balancer needs to notice."""

    metrics_folder: Path | None = None
    """Folder where the workers of one server keep their metrics; set by what starts them."""

    memory_bytes: int | None = Field(default=None, ge=0)
    """Most memory that the encoded rows of all training processes of this machine may take; more
    is mapped from files in the run's folder. By default half of the machine's memory."""

    ray_address: str | None = None
    """Ray cluster that recipes with `engine: ray` use; without it, one is started here."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of rank 0 with Prometheus metrics and health of a training run; without it, none."""

    progress_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of rank 0 where OpenShift AI's controller reads progress as JSON; without it, none."""

    metrics_host: str = "127.0.0.1"
    """Address that the metrics and progress ports are opened on."""

    training_timeout_seconds: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """How long a training process waits for the others; a run is alive while a step has ended
    within as many seconds."""

    pushgateway: str | None = None
    """Pushgateway that a training run's metrics are pushed to when it ends: `http://HOST:PORT`."""

    otlp_endpoint: str | None = None
    """Collector that a server's traces are sent to by OTLP, as `http://HOST:4318`; needs the extra
    `otel`."""

    mlflow_tracking_uri: str | None = None
    """MLflow tracking server that training runs are recorded in; needs the extra `mlflow`."""

    trainjob_status_url: str | None = Field(
        default=None, validation_alias="KUBEFLOW_TRAINER_SERVER_URL"
    )
    """Where Kubeflow wants to hear of progress; its controller sets it within a TrainJob."""

    node_rank: int = Field(default=0, ge=0, validation_alias="PET_NODE_RANK")
    """Which node of a training run this is; Kubeflow's controller sets it within a TrainJob."""

    nodes_here: int = Field(default=1, ge=1)
    """How many nodes of a training run share this machine; set by what starts them."""

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


class Cluster(BaseSettings):
    """The cluster that training jobs are sent to: environment variables `FEASTRAIN_CLUSTER_*`."""

    model_config = SettingsConfigDict(
        env_prefix="FEASTRAIN_CLUSTER_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    namespace: str = Field(default="default", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    """Namespace that jobs are made in."""

    context: str | None = None
    """Context of the kubeconfig that says where the cluster is; by default its current one."""

    image: str = "ghcr.io/feastrain/train-cpu:latest"
    """Image with feastrain, for nodes without a GPU."""

    gpu_image: str = "ghcr.io/feastrain/train-cuda:latest"
    """Image with feastrain and PyTorch for CUDA."""

    claim: str = "feastrain-artifacts"
    """Persistent volume claim, of the jobs' namespace, that holds the artifacts folder; of access
    mode ReadWriteMany where a run has several nodes."""

    artifacts: Path = Path("/feastrain/artifacts")
    """Where pods see this project's artifacts folder."""

    fetch: bool = False
    """Whether each node copies the snapshot to a disk of its own before it trains."""

    fetch_from: str | None = None
    """Folder or address, as s3://shop/snapshots, that snapshots are fetched from; by default that
    of the artifacts folder."""

    node_cache: Path | None = None
    """Folder of each node that keeps snapshots for all its pods and later jobs; by default, each
    pod fetches for itself. OpenShift's restricted-v2 allows no such folder."""

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
        shown = "" if "TOKENS" in name else f"={fault['input']!r}"  # a secret is never shown
        message = f"environment variable {name}{shown}: {fault['msg']}"
        raise UsageError(message) from error


@contextlib.contextmanager
def share_metrics(folder: Path) -> Iterator[None]:
    """Have the processes that this one starts meanwhile keep their metrics in `folder`.

    The client library of Prometheus, and Feast, read that from the environment alone.
    """
    environment = os.environ  # noqa: TID251 - read by libraries, not by us
    names = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")
    before = {name: environment.pop(name, None) for name in names}
    environment.update(dict.fromkeys(names, str(folder)))
    try:
        yield
    finally:
        for name, value in before.items():
            environment.pop(name)
            if value is not None:
                environment[name] = value
