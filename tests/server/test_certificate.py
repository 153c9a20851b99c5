"""The certificate of a server: when it expires, and what happens when its files change."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certificates import make_certificate
from http_servers import GET, Running, answer_ok, running
from tenantry.server.certificate import CERTIFICATE_LOAD_FAILED, Certificate
from tenantry.server.errors import ServeSettingsError
from tenantry.server.settings import Tls

SOON, LATER, CENTURY = (
    datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC),
    datetime(2032, 2, 3, 4, 5, 6, tzinfo=UTC),
    datetime(2071, 12, 31, 23, 59, 59, tzinfo=UTC),
)


@pytest.mark.parametrize("ends_at", [SOON, CENTURY], ids=["UTCTime", "GeneralizedTime"])
def test_when_it_expires(tmp_path: Path, ends_at: datetime):
    """The expiry of the file's first certificate is read, in both forms of RFC 5280."""
    cert, key = make_certificate(tmp_path, ends_at)
    (tmp_path / "other").mkdir()
    cert.write_bytes(cert.read_bytes() + make_certificate(tmp_path / "other", LATER)[0].read_bytes())
    assert Certificate(Tls(cert, key)).expires_at_seconds == ends_at.timestamp()


async def shown(server: Running) -> bytes:
    """Return the certificate that the server shows to a new connection."""
    reader, writer = await server.connect(GET)
    await reader.readuntil(b"ok")
    encryption = writer.get_extra_info("ssl_object")
    assert isinstance(encryption, ssl.SSLObject)
    found = encryption.getpeercert(binary_form=True)
    assert found is not None
    return found


async def test_new_connections_have_the_new_one(tmp_path: Path):
    """New connections get the reloaded certificate, and open connections stay open."""
    tls = Tls(*make_certificate(tmp_path, SOON))
    certificate = Certificate(tls)
    async with running(answer_ok, tls, certificate=certificate) as server:
        reader, writer = await server.connect(GET)
        await reader.readuntil(b"ok")
        before = await shown(server)
        make_certificate(tmp_path, LATER)
        assert await shown(server) == before
        certificate.reload()
        server.trust = ssl.create_default_context(cafile=tls.cert)
        assert await shown(server) != before
        assert certificate.expires_at_seconds == LATER.timestamp()
        writer.write(GET)
        await reader.readuntil(b"ok")


@pytest.mark.parametrize("damaged", ["cert.pem", "key.pem"])
@pytest.mark.parametrize("content", [b"", b"nonsense", None], ids=["empty", "nonsense", "of another"])
async def test_files_that_cannot_be_used(tmp_path: Path, damaged: str, content: bytes | None):
    """Files that cannot be used are refused at the start; at a reload the old certificate stays, and an error is logged."""
    tls = Tls(*make_certificate(tmp_path, SOON))
    certificate = Certificate(tls)
    async with running(answer_ok, tls, certificate=certificate) as server:
        before = await shown(server)
        (tmp_path / "other").mkdir()
        make_certificate(tmp_path / "other", LATER)
        other = (tmp_path / "other" / damaged).read_bytes()
        (tmp_path / damaged).write_bytes(other if content is None else content)
        with capture_logs() as events:
            certificate.reload()
        assert [event["event"] for event in events] == [CERTIFICATE_LOAD_FAILED]
        assert events[0]["log_level"] == "error"
        assert await shown(server) == before
        assert certificate.expires_at_seconds == SOON.timestamp()
    with pytest.raises(ServeSettingsError, match="--tls-cert and --tls-key cannot be used"):
        Certificate(tls)
