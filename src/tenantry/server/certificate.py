"""Loads the servers' TLS certificate at the start and on SIGHUP, and reads the certificate's expiry time."""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from tenantry.eventlog import EventLog
from tenantry.server.errors import ServeSettingsError
from tenantry.server.settings import Tls

CERTIFICATE_LOADED: Final = "tenantry.certificate.loaded"
CERTIFICATE_LOAD_FAILED: Final = "tenantry.certificate.load_failed"

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# X.690, section 8.1: an element consists of a tag, the length of the content, and the content.
_LONG_LENGTH: Final = 0x80
_VERSION_TAG: Final = 0xA0
_UTC_TIME_TAG: Final = 0x17
_CENTURY_ENDS: Final = 50


class Certificate:
    """The certificate and its key from the last successful load.

    Args:
        tls: The files of the certificate and the key.

    Attributes:
        context: The TLS context of new connections.
        expires_at_seconds: The certificate's expiry time in Unix time; None if the expiry time cannot be read.

    Raises:
        ServeSettingsError: The files cannot be used.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._log = EventLog(certificate=str(tls.cert))
        self._load()

    def reload(self) -> None:
        """Load the files again for new connections; existing connections keep their certificate.

        If the files cannot be used, the old certificate stays, and an error is logged.
        """
        try:
            self._load()
        except ServeSettingsError as error:
            self._log.error(CERTIFICATE_LOAD_FAILED, error=str(error))

    def _load(self) -> None:
        # Compute both values before assigning either. Create a new context each time, because a certificate with the wrong
        # key makes a context unusable.
        context, expires_at_seconds = _context(self._tls), _expires_at_seconds(self._tls)
        self.context, self.expires_at_seconds = context, expires_at_seconds
        until = (
            None
            if expires_at_seconds is None
            else datetime.fromtimestamp(expires_at_seconds, UTC).isoformat()
        )
        self._log.info(CERTIFICATE_LOADED, expires_at=until)


def _context(tls: Tls) -> ssl.SSLContext:
    def refuse() -> str:
        # Without this function OpenSSL asks for the password at the terminal, and the service waits forever.
        raise ServeSettingsError(
            f"--tls-key {tls.key} is encrypted: provide a key without a password, in a file that only the service's user can "
            f"read (openssl pkey -in {tls.key} -out key.pem)"
        )

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.cert, tls.key, refuse)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ServeSettingsError(
            f"--tls-cert and --tls-key cannot be used ({error}): provide a PEM certificate and its key"
        ) from error
    return context


def _expires_at_seconds(tls: Tls) -> float | None:
    """Return the expiry time of the server's own certificate, the first certificate in the file."""
    try:
        pem = _PEM.search(tls.cert.read_text("ascii", "replace"))
        return None if pem is None else _not_after_seconds(ssl.PEM_cert_to_DER_cert(pem[0]))
    except (OSError, ValueError, LookupError):  # OpenSSL accepts more formats than this parser
        return None


def _not_after_seconds(der: bytes) -> float:
    """Return a certificate's ``notAfter`` in Unix time (RFC 5280, sections 4.1 and 4.1.2.5)."""
    (_, certificate), *_ = _elements(der)
    (_, to_be_signed), *_ = _elements(certificate)
    fields = list(_elements(to_be_signed))
    # The order of the fields: version (if above 1), serialNumber, signature, issuer, validity.
    _, validity = fields[4 if fields[0][0] == _VERSION_TAG else 3]
    _, (tag, not_after) = _elements(validity)
    text = not_after.decode("ascii")
    if tag == _UTC_TIME_TAG:
        text = ("20" if int(text[:2]) < _CENTURY_ENDS else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each DER element."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & _LONG_LENGTH:
            size = length & ~_LONG_LENGTH
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        yield tag, der[at : at + length]
        at += length
