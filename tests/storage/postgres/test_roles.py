"""The option ``roles``: a tenant's statements run as a role that has no rights on other tenants' schemas."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest

from postgres_servers import Database, PostgresServer, private_server, url_of
from postgres_stores import open_stores
from tenantry import PostgresConfig, QueryError, RegistryConfig, TenantRegistry
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.postgres.backend import PostgresBackend
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.store import PostgresStore
from tenantry.storage.postgres.tenant_schemas.roles import drop_statement, role_of
from tenantry.testing import BACKEND_CHECKS, BackendCheck, check_name
from tenants import history, make_message

PASSWORD = "horse-battery"


@contextmanager
def connected_as(database: Database, *, options: str) -> Iterator[Database]:
    """Give the database for a role of its own, which may create schemas, and drop all roles of the test after the block."""
    parts = psycopg.conninfo.conninfo_to_dict(database.direct_url)
    name, role = parts["dbname"], f"app_{parts['dbname']}"
    with psycopg.connect(database.direct_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN {options} PASSWORD '{PASSWORD}'".encode())
        admin.execute(f"GRANT CREATE ON DATABASE {name} TO {role}".encode())
        try:
            yield Database(database.url.replace("postgres@", f"{role}:{PASSWORD}@"), database.direct_url)
        finally:
            admin.execute(f"DROP OWNED BY {role} CASCADE".encode())
            admin.execute(f"DROP ROLE {role}".encode())


@asynccontextmanager
async def tenants(database: Database, *names: str) -> AsyncIterator[list[PostgresStore]]:
    """Give the connected stores of new tenants, each with a role; the roles are dropped after the block."""
    name = psycopg.conninfo.conninfo_to_dict(database.direct_url)["dbname"]
    uids = [f"{name}_{tenant}" for tenant in names]
    async with open_stores(database) as opener:
        stores = [
            opener.make(owner=Owner(f"tenant_{tenant}", uid, tenant), role=role_of(uid))
            for tenant, uid in zip(names, uids, strict=True)
        ]
        try:
            for store in stores:
                await store.connect()
                await store.migrate()
            yield stores
        finally:
            for store in stores:
                await store.disconnect()
            drop(database, *uids)


def drop(database: Database, *uids: str) -> None:
    """Drop the schemas and the roles of tenants."""
    with psycopg.connect(database.direct_url, autocommit=True) as admin:
        for uid in uids:
            schema = f"tenant_{uid.rpartition('_')[2]}"
            admin.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())
            admin.execute(drop_statement(uid).encode())
        assert (
            admin.execute(
                "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", ([*map(role_of, uids)],)
            ).fetchall()
            == []
        )


async def outcome(store: PostgresStore, sql: str, *, is_write: bool) -> object:
    """Return the outcome of a statement."""
    statement = Statement("tests.run", sql, (), Fetch.ROWCOUNT if is_write else Fetch.ALL)
    if not is_write:
        return (await store.read([statement]))[0]
    return (await store.write([(statement,)]))[0]


OTHER = "tenant_other.messages"


@pytest.mark.parametrize(
    ("sql", "is_write"),
    [
        (f"SELECT * FROM {OTHER}", False),
        (f"DELETE FROM {OTHER}", True),
        (f"UPDATE {OTHER} SET content = ''", True),
        ("SELECT epoch FROM tenant_other.tenantry_owner", False),
        ("CREATE TABLE tenant_other.mine (id int)", True),
        (f"DROP TABLE {OTHER}", True),
        ("DROP SCHEMA tenant_other CASCADE", True),
        ("ALTER SCHEMA tenant_other RENAME TO tenant_mine", True),
        ("CREATE SCHEMA more", True),
        ("CREATE ROLE more", True),
        ("SELECT version FROM tenantry_database.layout", False),
    ],
)
async def test_other_tenants_are_out_of_reach(postgres_database: Database, sql: str, is_write: bool):  # noqa: FBT001
    """A statement that names another tenant's schema, or makes a schema, is refused by the server."""
    with psycopg.connect(postgres_database.direct_url) as admin:
        admin.execute("CREATE SCHEMA tenantry_database CREATE TABLE layout (version int)")
    async with tenants(postgres_database, "acme", "other") as (acme, _):
        refused = await outcome(acme, sql, is_write=is_write)
        assert isinstance(refused, QueryError)
        assert refused.code == "42501"
        assert await outcome(acme, "DELETE FROM messages", is_write=True) == [0]


async def test_without_the_option_only_the_path_separates(postgres_database: Database):
    """The control: the same statement runs if the connection's own role may run it."""
    async with open_stores(postgres_database) as opener:
        for tenant in ("acme", "other"):
            store = opener.make(owner=Owner(f"tenant_{tenant}", tenant, tenant))
            await store.connect()
            await store.migrate()
        assert await outcome(store, "SELECT * FROM tenant_acme.messages", is_write=False) == []
        await store.disconnect()


async def test_a_transaction_over_several_calls(postgres_database: Database):
    """A transaction has the tenant's role, too."""
    async with tenants(postgres_database, "acme", "other") as (acme, _):
        transaction = await acme.begin()
        refused = await transaction.write((Statement("tests.run", f"DELETE FROM {OTHER}", ()),))
        await transaction.rollback()
        assert isinstance(refused, QueryError)
        assert refused.code == "42501"


async def test_a_role_that_is_no_superuser(
    each_postgres_server: PostgresServer, each_postgres_database: Database
):
    """The right CREATEROLE is enough on every version, directly and through a pooler."""
    if each_postgres_server.pooler_url is not None:
        database = each_postgres_database
        async with tenants(database, "acme") as (acme,):
            assert await outcome(acme, "DELETE FROM messages", is_write=True) == [0]
        return
    with connected_as(each_postgres_database, options="CREATEROLE") as database:
        async with tenants(database, "acme", "other") as (acme, _):
            refused = await outcome(acme, f"SELECT * FROM {OTHER}", is_write=False)
            assert isinstance(refused, QueryError)
            assert refused.code == "42501"


async def test_a_tenant_from_before_the_option(postgres_database: Database):
    """With the option, everything in the schema becomes the role's at the next opening, and a second opening changes nothing."""
    async with open_stores(postgres_database) as opener:
        before = opener.make(owner=Owner("tenant_acme", "a1", "acme"))
        await before.connect()
        await before.migrate()
        await before.disconnect()
        with psycopg.connect(postgres_database.direct_url) as admin:
            admin.execute("SET search_path TO tenant_acme")
            admin.execute(
                "CREATE TYPE mood AS ENUM ('good'); CREATE SEQUENCE numbers; CREATE VIEW v AS SELECT 1"
            )
            admin.execute("CREATE TABLE t (id serial, kind mood)")
            admin.execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        for _ in range(2):
            after = opener.again(before, role=role_of("a1"))
            await after.connect()
            await after.migrate()
            assert await outcome(after, "DROP TABLE t", is_write=True) == [0]
            assert await outcome(after, "CREATE TABLE t (id int, kind mood)", is_write=True) == [0]
            await after.disconnect()
        assert owners(postgres_database) == {(role_of("a1"),)}
    drop(postgres_database, "x_acme")
    with psycopg.connect(postgres_database.direct_url, autocommit=True) as admin:
        admin.execute(drop_statement("a1").encode())


def owners(database: Database) -> set[tuple[str]]:
    """Return the roles that own something in the schema."""
    with psycopg.connect(database.direct_url) as admin:
        return set(
            admin.execute(
                "SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'tenant_acme'::regnamespace "
                "UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'tenant_acme'::regnamespace "
                "UNION SELECT typowner::regrole::text FROM pg_type WHERE typnamespace = 'tenant_acme'::regnamespace"
            ).fetchall()
        )


async def test_stores_that_connect_at_the_same_time(postgres_database: Database):
    """Several processes may open a new tenant at once."""
    name = psycopg.conninfo.conninfo_to_dict(postgres_database.direct_url)["dbname"]
    owner = Owner("tenant_acme", f"{name}_acme", "acme")
    async with open_stores(postgres_database) as opener:
        stores = [opener.make(owner=owner, role=role_of(owner.uid)) for _ in range(4)]
        await asyncio.gather(*(store.connect() for store in stores))
        for store in stores:
            await store.disconnect()
    drop(postgres_database, owner.uid)


async def test_a_connection_that_may_not_create_roles(postgres_database: Database):
    """The error says what was refused."""
    with connected_as(postgres_database, options="") as database:
        async with open_stores(database) as opener:
            store = opener.make(owner=Owner("tenant_acme", "a2", "acme"), role=role_of("a2"))
            with pytest.raises(
                TenantryError, match="cannot give the schema tenant_acme to the role tenantry_a2"
            ):
                await store.connect()


async def test_a_role_in_two_databases(postgres_server: PostgresServer, postgres_database: Database):
    """During a move within one server the role is in use in both databases: dropping it waits for the last one."""
    name = psycopg.conninfo.conninfo_to_dict(postgres_database.direct_url)["dbname"]
    owner = Owner("tenant_acme", f"{name}_acme", "acme")
    with postgres_server.database() as other:
        for database in (postgres_database, other):
            async with open_stores(database) as opener:
                store = opener.make((COMPANY,), owner=owner, role=role_of(owner.uid))
                await store.connect()
                await store.disconnect()
        with psycopg.connect(other.direct_url, autocommit=True) as admin:
            admin.execute("DROP SCHEMA tenant_acme CASCADE")
            admin.execute(drop_statement(owner.uid).encode())
            assert (
                admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (role_of(owner.uid),)).rowcount == 1
            )
    drop(postgres_database, owner.uid)


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=check_name)
async def test_a_back_end_with_roles(check: BackendCheck, own_server: PostgresServer, tmp_path: Path):
    """Restores, copies, removals and fences work with a role for each tenant, for a connection that is no superuser."""
    config = RegistryConfig(data_dir=tmp_path)
    with own_server.database() as made, connected_as(made, options="CREATEROLE") as database:
        url = PostgresConfig(url=database.url, roles=True)
        try:
            await check(
                lambda: PostgresBackend(
                    config, [COMPANY], name="postgres", database=url, clock=SystemClock(), log=EventLog()
                ),
                tmp_path,
            )
        finally:
            drop_all(made)


async def test_the_life_of_a_tenant(own_server: PostgresServer, tmp_path: Path):
    """A registry creates, restores, clones, renames and purges tenants whose statements run as roles; the roles go with them."""
    with own_server.database() as made, connected_as(made, options="CREATEROLE") as database:
        config = RegistryConfig(data_dir=tmp_path, database=PostgresConfig(url=database.url, roles=True))
        async with TenantRegistry(config) as registry:
            await registry.create("acme")
            messages = registry.tenant("acme").messages
            await messages.save(make_message("first"))
            taken = await registry.snapshots.create("acme")
            await messages.save(make_message("second"))
            await registry.snapshots.restore("acme", taken.id)
            assert await history(registry, "acme") == ["first"]
            await registry.snapshots.undo_restore("acme")
            assert await history(registry, "acme") == ["first", "second"]
            await registry.clone("acme", "globex")
            await registry.rename("globex", "initech")
            await registry.tenant("initech").messages.save(make_message("third"))
            assert await history(registry, "initech") == ["first", "second", "third"]
            assert roles_on(made) == 2
            for tenant_id in ("acme", "initech"):
                await registry.delete(tenant_id)
                await registry.purge(tenant_id, force=True)
            assert roles_on(made) == 0


def roles_on(database: Database) -> int:
    """Return the number of tenants' roles on the server."""
    with psycopg.connect(database.direct_url) as admin:
        return admin.execute("SELECT FROM pg_roles WHERE rolname LIKE 'tenantry_%'").rowcount


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server for this module: the suite's tenants have the same keys, and so the same roles, in each check."""
    with private_server() as server:
        server.start()
        yield PostgresServer(url_of(server))


def drop_all(database: Database) -> None:
    """Drop the tenants' roles on the server, with what they own in the database."""
    with psycopg.connect(database.direct_url, autocommit=True) as admin:
        names = admin.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'tenantry_%'").fetchall()
        for (name,) in names:
            admin.execute(f"DROP OWNED BY {name} CASCADE".encode())
            admin.execute(f"DROP ROLE {name}".encode())
