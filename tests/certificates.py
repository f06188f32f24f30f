"""Certificates for servers of this machine that tests start."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


class Authority:
    """Signs certificates; itself signed by nobody else."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        made = _certificate(self._name, self._name, self._key, ca=True)
        self.path = folder / f"{name}.crt"
        _write(self.path, made.sign(self._key, hashes.SHA256()))

    def issue(self, name: str, *places: x509.GeneralName) -> tuple[Path, Path]:
        """Write a certificate of a client, or of a server at `places`; return it and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(_named(name), self._name, key, ca=False)
        if places:
            made = made.add_extension(x509.SubjectAlternativeName(places), critical=False)
        certificate = self._folder / f"{name}.crt"
        _write(certificate, made.sign(self._key, hashes.SHA256()))
        return certificate, _write_key(self._folder / f"{name}.key", key)


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate of 127.0.0.1 that signs itself; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _certificate(_named(name), _named(name), key, ca=True)
    made = made.add_extension(x509.SubjectAlternativeName([HERE]), critical=False)
    certificate = folder / f"{name}.crt"
    _write(certificate, made.sign(key, hashes.SHA256()))
    return certificate, _write_key(folder / f"{name}.key", key)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    who: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    return path
