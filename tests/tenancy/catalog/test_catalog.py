"""What the catalog remembers: never longer than its file stays as it is, whoever changes it."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import TenantNotFoundError
from tenantry.ids import parse_tenant_id
from tenantry.lifecycle import TenantState
from tenantry.tenancy.catalog.catalog import Catalog
from tenants import query

ACME = parse_tenant_id("acme")
SUSPEND = "UPDATE tenants SET state = 'suspended' WHERE id = 'acme'"


class CountingReads:
    """Counts how often the catalog asks its database."""

    def __init__(self, catalog: Catalog) -> None:
        self._read = catalog._actor.read
        self.count = 0
        catalog._actor.read = self  # type: ignore[method-assign]

    def __call__(self, statement: object) -> object:
        """Pass it on."""
        self.count += 1
        return self._read(statement)


@pytest.fixture
async def catalog(data_dir: Path) -> AsyncIterator[Catalog]:
    """The catalog of a registry with a tenant, written a while ago."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        age(data_dir)
        yield registry._catalog


def age(data_dir: Path) -> None:
    """Make the catalog's last change one of ten seconds ago."""
    past = time.time_ns() - 10_000_000_000
    os.utime(data_dir / "catalog.db", ns=(past, past))


async def test_an_unchanged_catalog_is_read_once(catalog: Catalog):
    """A tenant that is opened again and again costs the catalog nothing while nobody changes it."""
    reads = CountingReads(catalog)
    tenant = await catalog.get(ACME)
    assert [await catalog.get(ACME) for _ in range(5)] == [tenant] * 5
    assert reads.count == 1


async def test_a_change_of_another_process_is_seen_at_once(catalog: Catalog, data_dir: Path):
    """What is remembered ends with the next commit, whoever made it; a removed tenant is gone, and not remembered."""
    for _ in range(2):
        assert (await catalog.get(ACME)).state is TenantState.ACTIVE
    query(data_dir / "catalog.db", SUSPEND)
    assert (await catalog.get(ACME)).state is TenantState.SUSPENDED
    age(data_dir)
    query(data_dir / "catalog.db", "DELETE FROM tenants")
    for _ in range(2):
        with pytest.raises(TenantNotFoundError):
            await catalog.get(ACME)


async def test_a_catalog_that_was_just_changed_is_not_remembered(catalog: Catalog, data_dir: Path):
    """Two changes within one tick of the file system's clock have one time: the second would not be noticed."""
    query(data_dir / "catalog.db", "UPDATE tenants SET reason = 'first'")
    reads = CountingReads(catalog)
    for _ in range(3):
        await catalog.get(ACME)
    assert reads.count == 3


async def test_a_change_while_it_is_read_is_not_remembered(catalog: Catalog, data_dir: Path):
    """An entry read before a change, and remembered after it, would be wrong for as long as the file stays."""
    find = catalog.find

    async def find_and_be_overtaken(tenant_id: object) -> object:
        tenant = await find(tenant_id)
        query(data_dir / "catalog.db", SUSPEND)
        return tenant

    catalog.find = find_and_be_overtaken  # type: ignore[method-assign]
    assert (await catalog.get(ACME)).state is TenantState.ACTIVE
    catalog.find = find  # type: ignore[method-assign]
    assert (await catalog.get(ACME)).state is TenantState.SUSPENDED


async def test_a_catalog_that_is_gone(catalog: Catalog, data_dir: Path):
    """Nothing is remembered of a file that is not there: each call asks SQLite, which has the open one."""
    await catalog.get(ACME)
    reads = CountingReads(catalog)
    (data_dir / "catalog.db").rename(data_dir / "elsewhere.db")
    for _ in range(2):
        assert (await catalog.get(ACME)).id == ACME
    assert reads.count == 2
    (data_dir / "elsewhere.db").rename(data_dir / "catalog.db")
