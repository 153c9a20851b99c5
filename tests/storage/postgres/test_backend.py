"""The back end of one PostgreSQL database: the conformance suite, and what only a server can show."""

from pathlib import Path

import pytest

from postgres_servers import Database
from tenantry import RegistryConfig
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.eventlog import EventLog
from tenantry.postgres_config import PostgresConfig
from tenantry.storage.postgres.backend import PostgresBackend
from tenantry.testing import BACKEND_CHECKS, BackendCheck, MakeBackend, check_name


def make_deployment(database: Database, directory: Path) -> MakeBackend:
    """Return what makes back ends on one database."""
    config = RegistryConfig(data_dir=directory)
    url = PostgresConfig.model_validate(database.url)
    return lambda: PostgresBackend(
        config, [COMPANY], name="postgres", database=url, clock=SystemClock(), log=EventLog()
    )


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=check_name)
async def test_conformance(check: BackendCheck, each_postgres_database: Database, tmp_path: Path):
    """A PostgreSQL database keeps what tenancy relies on in closed databases, copies, restores and locks."""
    await check(make_deployment(each_postgres_database, tmp_path), tmp_path)
