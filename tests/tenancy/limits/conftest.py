"""A registry with two tenants and one place, whose clock moves by hand."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tenantry import RegistryConfig, TenantRegistry
from tenants import (
    HandClock,
    Recorder,
)


@pytest.fixture
def clock() -> HandClock:
    """The registry's clock: calls per second are counted on it."""
    return HandClock(1000.0)


@pytest.fixture
def hook() -> Recorder:
    """What the registry reports."""
    return Recorder()


@pytest.fixture
async def registry(data_dir: Path, clock: HandClock, hook: Recorder) -> AsyncIterator[TenantRegistry]:
    """A registry with two tenants, and a place for one of them only."""
    config = RegistryConfig(data_dir=data_dir, open_tenants_max=1)
    async with TenantRegistry(config, clock=clock, hooks=[hook]) as opened:
        for tenant_id in ("acme", "globex"):
            await opened.create(tenant_id)
        yield opened
