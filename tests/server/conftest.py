"""What the tests of the HTTP server are given."""

from pathlib import Path

import pytest

from http_servers import Patience
from tenantry.server import http_connection
from tenantry.server.settings import Tls


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> Tls:
    """A certificate and its key."""
    return Tls(*certificate)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    """Shortens what a server waits for its clients."""

    def shorten(**seconds: float) -> None:
        for name, value in seconds.items():
            monkeypatch.setattr(http_connection, name, value)

    return shorten
