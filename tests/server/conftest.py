"""Fixtures for the tests of the HTTP server."""

from pathlib import Path

import pytest

from tenantry.server.settings import Tls


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> Tls:
    """A certificate and its key."""
    return Tls(*certificate)
