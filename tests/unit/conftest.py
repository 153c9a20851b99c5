"""What the tests of the HTTP server and of migrations are given."""

from pathlib import Path

import pytest

from http_servers import Patience
from stores import MakePack
from tenantry.schema import Schema
from tenantry.server import http_connection
from tenantry.server.settings import Tls
from tenants import write_pack


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


@pytest.fixture
def make_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> MakePack:
    """Return what makes a schema pack of these migrations."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(*migrations: str, name: str = "pack") -> Schema:
        package = f"pack_{abs(hash(request.node.nodeid))}_{len(made)}"
        made.append(write_pack(tmp_path, package, *migrations))
        return Schema(name=name, package=package)

    return make
