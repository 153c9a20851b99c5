"""A service that runs, and a browser that looks at it, for the tests of the console."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from browsers import Browser, RunningService, open_browser, serving
from tenantry import Scope, TenantRegistry
from tenantry.admin import create_admin_app
from tenants import HANG_SECONDS


@pytest.fixture
async def client(registry: TenantRegistry) -> AsyncIterator[httpx.AsyncClient]:
    """A client, with a key that may do everything, of a service in this process."""
    _, key = await registry.keys.create(scopes=(Scope.ADMIN,))
    transport = httpx.ASGITransport(create_admin_app(registry))
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as opened:
        yield opened


@pytest.fixture
def service(data_dir: Path) -> Iterator[RunningService]:
    """A service of its own for each test."""
    with serving(data_dir) as running:
        yield running


@pytest.fixture
def api(service: RunningService) -> Iterator[httpx.Client]:
    """A client of the service that may do everything."""
    headers = {"Authorization": f"Bearer {service.keys['admin']}"}
    with httpx.Client(base_url=service.url, headers=headers, trust_env=False, timeout=HANG_SECONDS) as client:
        yield client


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One process of Chromium for all tests: what it keeps belongs to an origin, and each service is one of its own."""
    with open_browser(tmp_path_factory.mktemp("profile"), is_hasty=True) as opened:
        yield opened


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A browser in which nobody has signed in yet."""
    chromium.begin_anew()
    yield chromium
    # The page would look for its service, which has ended, until the last test.
    chromium.begin_anew()
