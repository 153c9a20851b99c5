"""The suite of `Store` on every PostgreSQL server, and through a pooler in transaction mode."""

from collections.abc import Iterator

import pytest

from postgres_servers import Database, PostgresServer
from postgres_stores import open_stores
from tenantry.testing import STORE_CHECKS, StoreCheck, check_name


@pytest.fixture(scope="module")
def database(each_postgres_server: PostgresServer) -> Iterator[Database]:
    """A database for all checks; each check has its own tenant."""
    with each_postgres_server.database() as database:
        yield database


@pytest.mark.parametrize("check", STORE_CHECKS, ids=check_name)
async def test_store(check: StoreCheck, database: Database):
    """PostgreSQL keeps the promise that the check is named after."""
    async with open_stores(database) as stores:
        await check(stores.make)
