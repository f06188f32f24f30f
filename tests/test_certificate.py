"""TLS of the service itself: real servers, certificates that are renewed under them."""

import http.client
import ssl
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


def test_half_a_certificate_changes_nothing(
    renewed: Callable[[], int], tmp_path: Path, authority: Authority
) -> None:
    """A key that is not the certificate's is not taken, and is looked at again."""
    renewed()
    held = Certificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(held.certificate, held.key)
    _, other_key = authority.issue("other", HERE)
    whole = held.key.read_bytes()
    held.key.write_bytes(other_key.read_bytes())
    held.renew(context)
    assert held._seen != held._changed()
    held.key.write_bytes(whole)
    held.renew(context)
    assert held._seen == held._changed()


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    """Before the service listens, in one line."""
    (tmp_path / "tls.crt").write_text("no certificate")
    settings = Settings(tls_certificate=tmp_path / "tls.crt", tls_key=tmp_path / "absent")
    with pytest.raises(UsageError, match=r"tls\.crt .* are no certificate with its key, in PEM"):
        Certificate.of(settings)
    with pytest.raises(UsageError, match="go together: set both"):
        Certificate.of(Settings(tls_certificate=tmp_path / "tls.crt"))
