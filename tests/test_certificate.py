"""TLS of the service itself: real servers, certificates that are renewed under them."""

import contextlib
import http.client
import json
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from certificates import HERE, Authority
from feastrain.errors import UsageError
from feastrain.serving.certificate import Certificate
from feastrain.settings import Settings
from test_workers import Server, server

pytestmark = pytest.mark.integration


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def renewed(authority: Authority, tmp_path: Path) -> Callable[[], int]:
    """Put another certificate of 127.0.0.1 where the service reads it; return its number."""

    def renew() -> int:
        certificate, key = authority.issue("serve", HERE)
        number = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
        certificate.replace(tmp_path / "tls.crt")
        key.replace(tmp_path / "tls.key")
        return number

    return renew


def connected(served: Server, trusted: Path) -> http.client.HTTPSConnection:
    """A connection to a service that a certificate of `trusted` vouches for."""
    context = ssl.create_default_context(cafile=trusted)
    port = int(served.url.rpartition(":")[2])
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    connection.connect()
    return connection


def number_shown(connection: http.client.HTTPSConnection) -> int:
    """The number of the certificate that the server showed."""
    assert isinstance(connection.sock, ssl.SSLSocket)
    shown = connection.sock.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def status(connection: http.client.HTTPSConnection) -> int:
    connection.request("GET", "/healthz/ready")
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize("workers", [1, 2])
def test_a_certificate_is_renewed_under_open_connections(
    authority: Authority, renewed: Callable[[], int], tmp_path: Path, workers: int
) -> None:
    """New connections see the new one; an open one goes on; who trusts others is not served."""
    first = renewed()
    paths = {"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"}
    with server(tmp_path, serve_workers=workers, **paths) as served:
        served.wait_until("worker_serves" if workers > 1 else "note", workers)
        with pytest.raises(ssl.SSLCertVerificationError):
            connected(served, Authority(tmp_path, "stranger").path)
        before = connected(served, authority.path)
        assert (200, first) == (status(before), number_shown(before))
        second = renewed()
        served.wait_until("certificate_renewed", workers)
        after = connected(served, authority.path)
        assert (200, second) == (status(after), number_shown(after))
        assert 200 == status(before)
        before.close()
        after.close()


def test_a_connection_that_was_accepted_last_may_shake_hands(
    authority: Authority, renewed: Callable[[], int], tmp_path: Path
) -> None:
    """Though it begins to when no other connection can be opened any more."""
    renewed()
    paths = {"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"}
    with server(tmp_path, "--last-words", "2", drain_notice_seconds=0.5, **paths) as served:
        served.wait_until("note")
        connected(served, authority.path).close()
        where = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        with socket.create_connection(where, timeout=30) as early:
            served.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(OSError):
                while True:
                    socket.create_connection(where, timeout=0.1).close()
            time.sleep(0.8)  # within the last words
            context = ssl.create_default_context(cafile=authority.path)
            with context.wrap_socket(early, server_hostname="127.0.0.1") as agreed:
                agreed.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: a\r\n\r\n")
                assert agreed.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert (0, "returned\n") == served.end()


def test_half_a_certificate_changes_nothing(
    renewed: Callable[[], int],
    tmp_path: Path,
    authority: Authority,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A key that is not the certificate's is told of once; with its own it is a renewal."""
    renewed()
    held = Certificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(held.certificate, held.key)
    _, other_key = authority.issue("other", HERE)
    whole = held.key.read_bytes()
    held.key.write_bytes(other_key.read_bytes())
    held.renew(context)
    held.renew(context)
    held.key.write_bytes(whole)
    held.renew(context)
    told = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert ["certificate_not_read", "certificate_renewed"] == told


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    """Before the service listens, in one line."""
    (tmp_path / "tls.crt").write_text("no certificate")
    settings = Settings(tls_certificate=tmp_path / "tls.crt", tls_key=tmp_path / "absent")
    with pytest.raises(UsageError, match=r"tls\.crt .* are no certificate with its key, in PEM"):
        Certificate.of(settings)
    with pytest.raises(UsageError, match="go together: set both"):
        Certificate.of(Settings(tls_certificate=tmp_path / "tls.crt"))
