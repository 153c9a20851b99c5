"""One company on a PostgreSQL database without a registry: the suite of the repositories, and connecting again."""

from contextlib import AbstractAsyncContextManager

import pytest
from pydantic import ValidationError

from postgres_servers import Database
from samples import a_task
from stores import MakePack, migrated
from tenantry import Repository
from tenantry.errors import MigrationError, PersistenceConnectionError
from tenantry.schemas.schema import Schema
from tenantry.storage import (
    PersistenceBackend,
    PersistenceConfig,
    PostgresConfig,
    PostgresPersistenceBackend,
    create_backend,
)
from tenantry.testing import REPOSITORY_CHECKS, RepositoryCheck, check_name


def make_backend(
    database: Database, *, name: str = "company", schemas: tuple[Schema, ...] = ()
) -> PersistenceBackend:
    """Return a disconnected back end."""
    config = PersistenceConfig(
        backend="postgres", postgres=PostgresConfig.model_validate(database.url), postgres_schema=name
    )
    return create_backend(config, schemas=schemas) if schemas else create_backend(config)


def opened(database: Database) -> AbstractAsyncContextManager[PersistenceBackend]:
    """Open a back end, migrated."""
    return migrated(make_backend(database))


@pytest.mark.parametrize("check", REPOSITORY_CHECKS, ids=check_name)
async def test_repositories(check: RepositoryCheck, each_postgres_database: Database):
    """The built-in pack's repositories keep on every server what they keep in a file."""
    async with opened(each_postgres_database) as backend:
        await check(backend)


async def test_connects_again(postgres_database: Database):
    """Nothing is made before `connect`; both are repeatable, and what was written is there after a disconnect."""
    backend = make_backend(postgres_database)
    assert isinstance(backend, PostgresPersistenceBackend)
    assert (backend.is_connected, backend.backend_name) == (False, "postgres")
    assert not await backend.health_check()
    with pytest.raises(PersistenceConnectionError, match="not connected"):
        backend.tasks  # noqa: B018
    for _ in range(2):
        await backend.connect()
        await backend.connect()
        await backend.migrate()
        assert await backend.health_check()
        await backend.tasks.save(a_task())
        assert await backend.tasks.get(a_task().id) == a_task()
        assert await backend.repository(Repository).fetch_value("SELECT current_schema()") == "company"
        await backend.disconnect()
        await backend.disconnect()
    assert not backend.is_connected


async def test_two_companies_in_one_database(postgres_database: Database):
    """Each schema has its own rows."""
    one, other = (make_backend(postgres_database, name=name) for name in ("one", "other"))
    for backend in (one, other):
        await backend.connect()
        await backend.migrate()
    await one.tasks.save(a_task())
    assert await other.tasks.get(a_task().id) is None
    for backend in (one, other):
        await backend.disconnect()


async def test_packs_that_do_not_fit(postgres_database: Database, make_pack: MakePack):
    """Two packs with one name for two functions are refused before the database is changed."""
    function = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    packs = tuple(make_pack("SELECT 1", postgres=[function], name=name) for name in ("first", "second"))
    backend = make_backend(postgres_database, schemas=packs)
    await backend.connect()
    with pytest.raises(MigrationError, match="both create the function f"):
        await backend.migrate()
    await backend.disconnect()


async def test_a_server_that_is_not_there(postgres_database: Database):
    """The error names the server and not the password, and nothing is left open."""
    config = PersistenceConfig(
        backend="postgres",
        postgres="postgresql://app:secret@127.0.0.1:1/none?sslmode=disable&tenantry_connect_timeout_seconds=5",  # type: ignore[arg-type]
    )
    backend = create_backend(config)
    with pytest.raises(PersistenceConnectionError, match=r"127\.0\.0\.1") as caught:
        await backend.connect()
    assert "secret" not in f"{caught.value} {config!r}"
    assert not backend.is_connected


@pytest.mark.parametrize("name", ["", "Company", "tenant_acme", "tenantry", "pg_x", "a" * 64, "a;b", "a\n"])
def test_names_of_schemas(name: str):
    """A name that a registry or the server uses, or that needs quotes, is refused."""
    with pytest.raises(ValidationError, match="postgres_schema"):
        PersistenceConfig(backend="postgres", postgres_schema=name)


def test_settings_that_are_missing():
    """The error says what to pass."""
    with pytest.raises(PersistenceConnectionError, match=r"pass postgres=PostgresConfig\(url=…\)"):
        create_backend(PersistenceConfig(backend="postgres"))
