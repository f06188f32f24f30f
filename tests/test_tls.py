"""TLS with certificates on both sides, to real servers of Debian; who is not meant is refused."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from cryptography import x509
from redis.backoff import NoBackoff
from redis.retry import Retry

from certificates import HERE, Authority
from feast_repos import START
from feastrain.errors import FeastrainError
from feastrain.stores.asof import AsofOfflineStoreConfig
from feastrain.stores.asof.postgres import fetch
from feastrain.stores.fallback.config import PostgresFallback, RedisPrimary
from feastrain.stores.fallback.postgres import PostgresLedger
from feastrain.stores.fallback.primary import Primary
from feastrain.stores.feature_repo import quiet_offline_store
from online_stores import FALLBACK, FEATURES, goods, repo

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

ELSEWHERE = x509.DNSName("elsewhere.example")
SECRET = "planted-tls-password"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
REDIS = shutil.which("redis-server")
needs_postgres = pytest.mark.skipif(not POSTGRES, reason="no postgres of Debian's `postgresql`")
needs_redis = pytest.mark.skipif(REDIS is None, reason="no redis-server of Debian's `redis-server`")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that a server's own user can reach, as pytest's are not."""
    path = Path(tempfile.mkdtemp(prefix="feastrain-tls-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """Signs what servers and clients of ours show."""
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def client(authority: Authority) -> tuple[Path, Path]:
    """The certificate and key that our stores show; its name is that of a user."""
    return authority.issue("feastrain")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    """Signs for nobody we know."""
    return Authority(folder, "stranger")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, user: str | None = None) -> Iterator[None]:
    """Run a server for the length of the block, once it listens."""
    with subprocess.Popen(
        command, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            until = time.monotonic() + 30
            while True:
                assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert time.monotonic() < until, f"{command[0]} does not listen"
                time.sleep(0.05)
            yield
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL waits for no client then


def redis_at(folder: Path, port: int, certificate: tuple[Path, Path]) -> list[str]:
    """Return the command of a Redis that takes nobody without TLS and a certificate of ours."""
    shown, key = map(str, certificate)
    command = [str(REDIS), "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"]
    command += ["--tls-cert-file", shown, "--tls-key-file", key, "--save", ""]
    command += ["--tls-ca-cert-file", str(folder / "authority.crt"), "--dir", str(folder)]
    return [*command, "--tls-auth-clients", "yes", "--requirepass", SECRET]


@pytest.fixture(scope="module")
def redis_port(folder: Path, authority: Authority) -> Iterator[int]:
    """The port of such a Redis."""
    port = free_port()
    with running(redis_at(folder, port, authority.issue("redis", HERE)), port):
        yield port


def primary_at(port: int, certificate: tuple[Path, Path] | None, trusted: Path) -> RedisPrimary:
    """Return the configuration of a store that verifies the server, and shows who it is."""
    told = f"127.0.0.1:{port},password={SECRET},ssl=true,ssl_ca_certs={trusted}"
    if certificate is not None:
        told += f",ssl_certfile={certificate[0]},ssl_keyfile={certificate[1]}"
    return RedisPrimary(connection_string=told, deadline_seconds=2.0)


@contextlib.contextmanager
def postgres_at(
    folder: Path, name: str, certificate: tuple[Path, Path]
) -> Iterator[dict[str, Any]]:
    """Run a PostgreSQL that takes nobody without TLS, a certificate of ours and the password."""
    owner = "postgres" if os.geteuid() == 0 else None
    programs, data, port = POSTGRES[-1].parent, folder / name, free_port()
    data.mkdir()
    password = folder / f"{name}.password"
    password.write_text(SECRET)
    for source, target in zip(certificate, ("server.crt", "server.key"), strict=True):
        shutil.copy(source, folder / f"{name}-{target}")
    for path in (data, password, *(folder / f"{name}-server.{end}" for end in ("crt", "key"))):
        shutil.chown(path, owner or os.geteuid())
        path.chmod(0o700 if path.is_dir() else 0o600)
    initdb = [programs / "initdb", "-D", data, "-U", "feastrain", "-A", "scram-sha-256", "-N"]
    subprocess.run([*initdb, "--pwfile", password], user=owner, check=True, capture_output=True)
    rule = "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n"
    (data / "pg_hba.conf").write_text(rule)
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": folder / f"{name}-server.crt",
        "ssl_key_file": folder / f"{name}-server.key",
        "ssl_ca_file": folder / "authority.crt",
    }
    command = [str(programs / "postgres"), "-D", str(data)]
    command += [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    with running(command, port, owner):
        yield {
            "host": "127.0.0.1",
            "port": port,
            "user": "feastrain",
            "password": SECRET,
            "database": "postgres",
        }


@pytest.fixture(scope="module")
def server(folder: Path, authority: Authority) -> Iterator[dict[str, Any]]:
    """Where such a PostgreSQL is."""
    with postgres_at(folder, "postgres", authority.issue("database", HERE)) as place:
        yield place


def verified(
    place: dict[str, Any], certificate: tuple[Path, Path] | None, trusted: Path
) -> dict[str, Any]:
    """Return the configuration of a store that verifies the server, and shows who it is."""
    shown = dict(zip(("sslcert_path", "sslkey_path"), map(str, certificate or ()), strict=False))
    return {**place, "sslmode": "verify-full", "sslrootcert_path": str(trusted), **shown}


def ledger(config: dict[str, Any]) -> PostgresLedger:
    return PostgresLedger(PostgresFallback(**config, retry_seconds=0.1, pool_seconds=2.0))


def offline(config: dict[str, Any]) -> AsofOfflineStoreConfig:
    """Return the configuration of an offline store that does not ask twice."""
    given = {"db_schema": "public", "max_conn": 1, "retry_seconds": 0.1}
    return AsofOfflineStoreConfig.model_validate(given | config)


@needs_redis
@needs_postgres
def test_both_stores_are_spoken_to_in_tls_with_certificates_of_both_sides(
    tmp_path: Path,
    server: dict[str, Any],
    redis_port: int,
    authority: Authority,
    client: tuple[Path, Path],
) -> None:
    """Written and read through Feast; neither server has a port without TLS."""
    fallback = {"type": "postgres", **verified(server, client, authority.path)}
    primary = primary_at(redis_port, client, authority.path).model_dump()
    config = {"type": FALLBACK, "primary": primary, "fallback": fallback}
    store = repo(tmp_path / "repo", config, goods(50))
    with quiet_offline_store():
        store.materialize(START, START + timedelta(days=30))
    rows = [{"shop": n // 7, "item": f"ü{n}"} for n in range(50)]
    answer = store.get_online_features(FEATURES, rows).to_dict()
    assert [n * (1 << 40) - 5 for n in range(50)] == answer["units"]


@needs_postgres
def test_postgresql_is_spoken_to_in_tls(
    server: dict[str, Any], authority: Authority, client: tuple[Path, Path]
) -> None:
    """The server itself says so, and whose certificate it saw, of both our clients."""
    config = verified(server, client, authority.path)
    query = "SELECT ssl, version >= 'TLSv1.2' AS new, client_dn FROM pg_stat_ssl"
    query += " WHERE pid = pg_backend_pid()"
    assert [{"ssl": True, "new": True, "client_dn": "/CN=feastrain"}] == fetch(
        offline(config), query
    ).to_pylist()
    store = ledger(config)
    with store.reading() as connection:
        assert (True, True, "/CN=feastrain") == connection.execute(query).fetchone()
    store.close()


@needs_postgres
@pytest.mark.parametrize("wrong", ["authority", "client", "nobody", "plain"])
def test_postgresql_that_cannot_be_verified_is_not_spoken_to(
    server: dict[str, Any],
    authority: Authority,
    stranger: Authority,
    client: tuple[Path, Path],
    wrong: str,
) -> None:
    """Signed by a stranger, or we without a certificate, or without TLS: one line, no password."""
    shown = {"client": stranger.issue("feastrain-not"), "nobody": None}.get(wrong, client)
    trusted = stranger.path if wrong == "authority" else authority.path
    config = verified(server, shown, trusted)
    if wrong == "plain":
        config["sslmode"] = "disable"
    refuse_both(config)


@needs_postgres
def test_postgresql_at_another_name_is_not_spoken_to(
    folder: Path, authority: Authority, client: tuple[Path, Path]
) -> None:
    """A certificate of ours, but not of this host: somebody stands in between."""
    certificate = authority.issue("elsewhere-database", ELSEWHERE)
    with postgres_at(folder, "elsewhere", certificate) as place:
        refuse_both(verified(place, client, authority.path))
        lax = verified(place, client, authority.path) | {"sslmode": "verify-ca"}
        assert [1] == fetch(offline(lax), "SELECT 1 AS one")["one"].to_pylist()


def refuse_both(config: dict[str, Any]) -> None:
    """See that neither the online nor the offline store reads from there, nor tells a secret."""
    store = ledger(config)
    for ask in (store.layouts, lambda: fetch(offline(config), "SELECT 1")):
        with pytest.raises(FeastrainError, match=r"does not answer|cannot be reached") as caught:
            ask()
        assert SECRET not in f"{caught.value} {caught.value.__cause__}"
        assert "\n" not in str(caught.value)
    store.close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(PostgresFallback(**config).conninfo())


@needs_redis
def test_redis_is_spoken_to_in_tls(
    redis_port: int, authority: Authority, client: tuple[Path, Path]
) -> None:
    """Without TLS the same server does not answer."""
    primary = Primary(primary_at(redis_port, client, authority.path))
    primary.ping()
    primary.put([b"key"], [b"row"], primary.incarnation)
    assert [b"row"] == primary.get([b"key"])
    primary.close()
    once = Retry(NoBackoff(), 0)
    plain = redis.Redis(port=redis_port, password=SECRET, socket_timeout=1, retry=once)
    with pytest.raises(redis.ConnectionError):
        plain.ping()
    plain.close()


@needs_redis
@pytest.mark.parametrize("wrong", ["authority", "client", "nobody"])
def test_redis_that_cannot_be_verified_is_not_spoken_to(
    redis_port: int,
    authority: Authority,
    stranger: Authority,
    client: tuple[Path, Path],
    wrong: str,
) -> None:
    """Signed by a stranger, or us without our certificate."""
    shown = {"client": stranger.issue("redis-not"), "nobody": None}.get(wrong, client)
    refuse(primary_at(redis_port, shown, stranger.path if wrong == "authority" else authority.path))


@needs_redis
def test_redis_at_another_name_is_not_spoken_to(
    folder: Path, authority: Authority, client: tuple[Path, Path]
) -> None:
    """A certificate of ours, but not of this host."""
    port = free_port()
    with running(redis_at(folder, port, authority.issue("elsewhere-redis", ELSEWHERE)), port):
        refuse(primary_at(port, client, authority.path))


def refuse(config: RedisPrimary) -> None:
    """See that nothing is read from there, and no secret is told."""
    primary = Primary(config)
    with pytest.raises(primary.errors) as caught:
        primary.get([b"key"])
    assert SECRET not in f"{caught.value} {primary.place}"
    primary.close()


@needs_redis
def test_sentinels_are_asked_in_tls_too(
    folder: Path, authority: Authority, client: tuple[Path, Path]
) -> None:
    """They know which server is the master: who answers for them is verified as well."""
    server_port, port = free_port(), free_port()
    certificate = authority.issue("sentinel", HERE)
    config = folder / "sentinel.conf"
    config.write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {folder}\ntls-replication yes\n"
        f"tls-cert-file {certificate[0]}\ntls-key-file {certificate[1]}\n"
        f"tls-ca-cert-file {authority.path}\ntls-auth-clients yes\n"
        f"sentinel monitor mymaster 127.0.0.1 {server_port} 1\n"
        f"sentinel auth-pass mymaster {SECRET}\n"
    )
    with (
        running(redis_at(folder, server_port, certificate), server_port),
        running([str(REDIS), str(config), "--sentinel"], port),
    ):
        told = primary_at(port, client, authority.path)
        primary = Primary(told.model_copy(update={"redis_type": "redis_sentinel"}))
        primary.ping()
        primary.put([b"key"], [b"row"], primary.incarnation)
        assert [b"row"] == primary.get([b"key"])
        primary.close()
