"""The certificate that the service shows its clients, read again when it is renewed."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from feastrain.errors import UsageError
from feastrain.telemetry import event

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.settings import Settings


class Certificate:
    """A certificate and its key, in PEM files that somebody else renews in place."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read them once.

        Raises:
            UsageError: one is absent, or they are no certificate with its key.
        """
        self.certificate, self.key = certificate, key
        self._seen = self._changed()
        try:
            self._load(_empty())
        except OSError as error:
            message = (
                f"FEASTRAIN_TLS_CERTIFICATE={certificate} and FEASTRAIN_TLS_KEY={key} are no "
                f"certificate with its key, in PEM ({error.strerror or error.args[0]}): mend them"
            )
            raise UsageError(message) from error

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """Return the certificate of the settings, None where they name none.

        Raises:
            UsageError: they name half of one, or what cannot be read.
        """
        certificate, key = settings.tls_certificate, settings.tls_key
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            message = "FEASTRAIN_TLS_CERTIFICATE and FEASTRAIN_TLS_KEY go together: set both"
            raise UsageError(message)
        return cls(certificate, key)

    def renew(self, context: ssl.SSLContext) -> None:
        """Have new connections see what the files hold now; open ones go on as they are.

        Files that are half written, or wrong, change nothing until they are written again.
        """
        before, self._seen = self._seen, self._changed()
        if self._seen == before:
            return
        try:
            self._load(_empty())
            self._load(context)
        except OSError as error:
            event("certificate_not_read", path=str(self.certificate), error=str(error))
            return
        event("certificate_renewed", path=str(self.certificate))

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self.certificate, self.key)

    def _changed(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in (self.certificate, self.key))
        except OSError:
            return ()


def _empty() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
