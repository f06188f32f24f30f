"""The scripts that start Redis and Sentinel in a cluster, on real servers with TLS and password."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from certificates import make_certificate
from feastrain.stores.fallback.config import RedisPrimary
from feastrain.stores.fallback.primary import Primary
from gangs import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(which("redis-sentinel") is None, reason="redis-server is not installed"),
]
INFRASTRUCTURE = Path(__file__).parents[1] / "deploy" / "infrastructure"
SCRIPTS = INFRASTRUCTURE / "redis"
HERE, PASSWORD = "127.0.0.1", "not-so-secret"


class Group:
    """Pods of the two StatefulSets as processes of this machine, a port each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: _free_port() for name in ("redis-0", "redis-1", "sentinel-0")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "certs").mkdir()
        certificate, key = make_certificate(folder, "redis")
        for source, name in ((certificate, "tls.crt"), (key, "tls.key"), (certificate, "ca.crt")):
            (folder / "certs" / name).write_bytes(source.read_bytes())

    def start(self, pod: str) -> None:
        """Start a pod on the volume that it had before."""
        data = self.folder / pod
        data.mkdir(exist_ok=True)
        environment = {
            **{"PATH": os.environ["PATH"], "NAME": HERE, "DOMAIN": "", "SENTINEL": HERE},
            **{"CERTS": str(self.folder / "certs"), "DATA": str(data), "QUORUM": "1"},
            **{"REDIS_PASSWORD": PASSWORD, "PORT": str(self.ports[pod]), "FIRST": HERE},
            "FIRST_PORT": str(self.ports["redis-0"]),
            "SENTINEL_PORT": str(self.ports["sentinel-0"]),
        }
        script = SCRIPTS / f"{pod.split('-', maxsplit=1)[0]}.sh"
        with (data / "log").open("ab") as log:
            self._running[pod] = subprocess.Popen(
                ["sh", str(script)], env=environment, stdout=log, stderr=log, cwd=data
            )

    def kill(self, pod: str) -> None:
        """End a pod as a node that dies does."""
        process = self._running.pop(pod)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for pod in list(self._running):
            self.kill(pod)

    @property
    def tls(self) -> dict[str, Any]:
        """How a client that may connect does."""
        certs = self.folder / "certs"
        return {
            "ssl": True,
            "ssl_ca_certs": str(certs / "ca.crt"),
            "ssl_certfile": str(certs / "tls.crt"),
            "ssl_keyfile": str(certs / "tls.key"),
            "socket_timeout": 2.0,
            "retry": Retry(NoBackoff(), 0),
        }

    def client(self, pod: str, **changed: Any) -> "redis.Redis":
        options = {"host": HERE, "port": self.ports[pod], "password": PASSWORD, **self.tls}
        return redis.Redis(**{**options, **changed})

    def role(self, pod: str) -> str:
        """Return master or slave; nothing while it does not answer."""
        try:
            told: Any = self.client(pod).info("replication")
        except redis.RedisError:
            return ""
        follows = told["role"] == "slave" and told["master_link_status"] != "up"
        return "" if follows else str(told["role"])

    def master(self) -> int:
        """Return the port of the master that the Sentinel knows; 0 while it knows none."""
        try:
            return int(self._sentinel().discover_master("feast")[1])
        except MasterNotFoundError:
            return 0

    def knows_replica(self) -> bool:
        return bool(self.master()) and bool(self._sentinel().discover_slaves("feast"))

    def _sentinel(self) -> Sentinel:
        return Sentinel([(HERE, self.ports["sentinel-0"])], sentinel_kwargs=self.tls)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """A master, a replica and a Sentinel, started as their pods are."""
    made = Group(tmp_path_factory.mktemp("redis"))
    try:
        made.start("redis-0")
        until(lambda: made.role("redis-0") == "master", "the first is master")
        made.start("redis-1")
        until(lambda: made.role("redis-1") == "slave", "the second follows")
        made.start("sentinel-0")
        until(made.knows_replica, "the Sentinel knows both")
        yield made
    finally:
        made.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HERE, 0))
        return int(listener.getsockname()[1])


def _on_disk(group: Group) -> bool:
    """Tell whether both have written what they hold: one that followed anew rewrites its file."""
    busy = ("aof_pending_bio_fsync", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
    told: list[Any] = [group.client(pod).info("persistence") for pod in ("redis-0", "redis-1")]
    return not any(one[name] for one in told for name in (*busy, "rdb_bgsave_in_progress"))


def test_nobody_is_let_in_without_certificate_and_password(group: Group) -> None:
    """Plain connections, and those without our certificate or password, get no answer."""
    bare = {"ssl_certfile": None, "ssl_keyfile": None}
    for pod, changed in (
        ("redis-0", {"ssl": False}),
        ("redis-0", bare),
        ("redis-0", {"password": None}),
        ("redis-0", {"password": "another"}),
        ("sentinel-0", {"ssl": False, "password": None}),
        ("sentinel-0", {**bare, "password": None}),
    ):
        with pytest.raises(redis.RedisError):
            group.client(pod, **changed).ping()


def test_the_online_store_reads_as_the_configuration_of_the_cluster_says(group: Group) -> None:
    """By the connection string of deploy/, with addresses and files of this machine."""
    config = yaml.safe_load((INFRASTRUCTURE / "feast" / "feature_store.yaml").read_text())
    told = config["online_store"]["primary"]
    address = re.sub(
        r"sentinel-\d[^:]*:26379",
        f"{HERE}:{group.ports['sentinel-0']}",
        told.pop("connection_string"),
    )
    address = address.replace("${REDIS_PASSWORD}", PASSWORD)
    address = address.replace("/run/tls/store", str(group.folder / "certs"))
    primary = Primary(RedisPrimary(**told, connection_string=address, deadline_seconds=2))
    try:
        group.client("redis-0").set("key", "row")
        assert [b"row", None] == primary.get([b"key", b"other"])
    finally:
        primary.close()


def test_the_password_is_in_no_command_line(group: Group) -> None:
    """Neither server was started with it; the files that hold it are the pod's own."""
    for process in group._running.values():
        assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    for conf in group.folder.glob("*/*.conf"):
        assert 0o600 == conf.stat().st_mode & 0o777


def test_a_master_that_died_comes_back_as_replica_of_the_one_that_took_over(group: Group) -> None:
    """The old master asks the Sentinel whom to follow; so do all once all died, and rows stay."""
    group.client("redis-0").set("row", "1")
    until(lambda: group.client("redis-1").get("row") == b"1", "the row is on both")
    group.kill("redis-0")
    until(lambda: group.master() == group.ports["redis-1"], "the second is master")
    until(lambda: group.role("redis-1") == "master", "the second knows it")
    group.client("redis-1").set("row", "2")
    group.start("redis-0")
    until(lambda: group.role("redis-0") == "slave", "the first follows the second")
    assert b"2" == group.client("redis-0").get("row")

    until(lambda: _on_disk(group), "the row is on both disks")
    group.close()
    for pod in ("sentinel-0", "redis-0", "redis-1"):
        group.start(pod)
    pods = ("redis-0", "redis-1")
    until(lambda: sorted(map(group.role, pods)) == ["master", "slave"], "one follows the other")
    assert [b"2", b"2"] == [group.client(pod).get("row") for pod in pods]
