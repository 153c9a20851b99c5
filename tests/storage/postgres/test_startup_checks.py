"""What a registry refuses to start with: each error says what to change, and none has the password."""

import asyncio
import socket
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import structlog

from needs import need
from postgres_processes import PORT, pgbouncer
from postgres_servers import Database, PostgresServer, PostgresServers, private_server, socket_url, url_of
from tenantry import DatabaseServerError, PersistenceConnectionError, PostgresConfig
from tenantry.eventlog import EventLog
from tenantry.storage.postgres.connections.pool import ConnectionPool
from tenantry.storage.postgres.connections.startup_checks import ServerFacts, check_database, objections
from tenants import HANG_SECONDS

PASSWORD = "horse-battery"
GOOD = ServerFacts(
    version_number=180004,
    version="18.4",
    encoding="UTF8",
    fsync="on",
    full_page_writes="on",
    read_only="off",
    can_create=True,
    can_create_roles=True,
    backend_pid=1,
    has_citus=False,
)


async def check(
    url: str, *, session: dict[str, str] | None = None, seconds: float = HANG_SECONDS
) -> ServerFacts:
    """Check the database of a URL."""
    config = PostgresConfig(url=url)
    pool = ConnectionPool.of(config, connections_max=2, session=session)
    try:
        return await check_database(pool, config, log=EventLog(), timeout_seconds=seconds)
    finally:
        await pool.aclose()


async def refusal(url: str, sentence: str, **options: Any) -> PersistenceConnectionError:
    """Return the error with which a database is refused; it has no password."""
    with pytest.raises(PersistenceConnectionError, match=sentence) as refused:
        await check(url, **options)
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    return refused.value


@asynccontextmanager
async def role(database: Database, options: str = "LOGIN") -> AsyncIterator[str]:
    """Give the URL of the database for a new role with a password; the role is dropped after the block."""
    name = f"role_{urlsplit(database.direct_url).path.removeprefix('/')}"
    with psycopg.connect(database.direct_url, autocommit=True) as admin:
        admin.execute("SELECT 1 FROM pg_roles WHERE rolname = 'with_password'")
        admin.execute(f"CREATE ROLE {name} {options} PASSWORD '{PASSWORD}'".encode())
        try:
            yield database.direct_url.replace("postgres@", f"{name}:{PASSWORD}@")
        finally:
            admin.execute(f"DROP OWNED BY {name}".encode())
            admin.execute(f"DROP ROLE {name}".encode())


def alter(database: Database, *statements: str) -> None:
    """Run statements in a database."""
    with psycopg.connect(database.direct_url, autocommit=True) as admin:
        for statement in statements:
            admin.execute(statement.encode())


def name_of(database: Database) -> str:
    """Return the name of a database."""
    return urlsplit(database.direct_url).path.removeprefix("/")


@pytest.fixture
def pooled(postgres_servers: PostgresServers) -> Iterator[Database]:
    """A database behind PgBouncer in transaction mode."""
    with postgres_servers.server("pgbouncer").database() as database:
        need(database.is_pooled, "the given server has no pooler that the tests start")
        yield database


async def test_a_good_database(each_postgres_database: Database):
    """Every server that is supported passes, a second time too, when the layout exists; the version is logged."""
    with structlog.testing.capture_logs() as logs:
        first = await check(each_postgres_database.url)
    second = await check(each_postgres_database.url)
    assert first[:3] == second[:3]
    assert first.version_number >= 150000
    (logged,) = [entry for entry in logs if entry["event"] == "tenantry.postgres.checked"]
    assert logged["version"] == first.version


async def test_processes_that_start_together(postgres_database: Database):
    """Several processes may open a new database at once: one of them lays it out."""
    checked = await asyncio.gather(*(check(postgres_database.url) for _ in range(6)))
    assert len({facts.version for facts in checked}) == 1


async def test_a_server_that_may_lose_its_disk(postgres_database: Database, postgres_server: PostgresServer):
    """A server without fsync is used, for tests and demonstrations, and an operator is told."""
    with structlog.testing.capture_logs() as logs:
        facts = await check(postgres_database.url)
    told = {entry["setting"] for entry in logs if entry["event"] == "tenantry.postgres.not_durable"}
    assert told == {name for name in ("fsync", "full_page_writes") if getattr(facts, name) == "off"}


async def test_a_wrong_password():
    """The server's answer, and what to check."""
    with private_server() as server:
        server.start()
        with psycopg.connect(url_of(server), autocommit=True) as admin:
            admin.execute(
                "CREATE ROLE with_password; CREATE ROLE app LOGIN PASSWORD 'another' IN ROLE with_password"
            )
        url = socket_url(server.socket_directory, user=f"app:{PASSWORD}")
        error = await refusal(
            url, 'password authentication failed for user "app".*check the role, the password'
        )
        assert error.is_retryable
        await refusal(socket_url(server.socket_directory, user="app"), "check the role, the password")


async def test_an_unreachable_host(tmp_path: Path):
    """A host that refuses, and a host that does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://app:{PASSWORD}@127.0.0.1:{port}/d?sslmode=disable"
        await refusal(url, r"app@127\.0\.0\.1:\d+/d: .*(timeout|no answer within)", seconds=0.2)
    await refusal(url, "Connection refused")
    await refusal(f"postgresql://app:{PASSWORD}@host.invalid/d", "host.invalid")


async def test_a_database_that_does_not_exist(postgres_database: Database):
    """The server says so."""
    url = postgres_database.direct_url.replace(name_of(postgres_database), "nowhere")
    await refusal(url, 'database "nowhere" does not exist')


async def test_a_network_is_encrypted_and_checked(
    certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Over a network the server must show a certificate that is trusted, unless the URL says otherwise."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with private_server(15, is_tcp=True) as server:
        server.start()
        with psycopg.connect(url_of(server), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE app LOGIN SUPERUSER PASSWORD '{PASSWORD}'".encode())
        url = f"postgresql://app:{PASSWORD}@127.0.0.1:{server.port}/postgres"
        await refusal(url, "does not support SSL.*sslmode=disable")
        await check(f"{url}?sslmode=disable")
        server.stop()
        server.give_certificate(*certificate)
        server.start(ssl="on")
        await refusal(url, "certificate verify failed.*name the file of its authority in sslrootcert")
        await check(f"{url}?sslrootcert={certificate[0]}")
        await refusal(
            f"{url.replace('127.0.0.1', 'localhost')}?sslrootcert={certificate[0]}",
            "does not match host name",
        )
        await check(f"{url}?sslmode=require")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        await check(url)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (
            GOOD._replace(version_number=140012, version="14.12"),
            "PostgreSQL 14.12: tenantry needs 15 or newer",
        ),
        (GOOD._replace(encoding="SQL_ASCII"), "its encoding is SQL_ASCII"),
        (GOOD._replace(read_only="on"), "it is read-only"),
        (GOOD._replace(can_create=False), "may not create schemas"),
        (GOOD._replace(can_create_roles=False), "may not create roles"),
    ],
)
def test_facts_that_are_refused(facts: ServerFacts, sentence: str):
    """Each fact has its sentence."""
    (objection,) = objections(facts, roles=True)
    assert sentence in objection


def test_facts_that_are_not_refused():
    """A role that may not create roles is enough without the option."""
    assert objections(GOOD._replace(can_create_roles=False), roles=False) == []


async def test_an_encoding_that_loses_characters(postgres_server: PostgresServer):
    """A database that is not UTF8 is refused."""
    with postgres_server.database(encoding="'SQL_ASCII'", template="template0") as database:
        error = await refusal(
            database.url, "its encoding is SQL_ASCII: create a database with ENCODING 'UTF8'"
        )
    assert isinstance(error, DatabaseServerError)
    assert error.address == str(PostgresConfig(url=database.url).address)
    assert not error.is_retryable


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "default_transaction_isolation = 'repeatable read'",
            "'repeatable read', and the order of writes needs",
        ),
        ("synchronous_commit = off", "synchronous_commit is off"),
        (
            "default_transaction_read_only = on",
            "session is read-only; tenantry needs to write: name the primary's host",
        ),
    ],
)
async def test_settings_of_new_sessions(postgres_database: Database, setting: str, sentence: str):
    """A setting of the database that would lose writes, or their order, is refused."""
    alter(postgres_database, f"ALTER DATABASE {name_of(postgres_database)} SET {setting}")
    await refusal(postgres_database.url, sentence)


async def test_a_replica_that_the_url_allows(postgres_database: Database):
    """Who allows sessions that cannot write is told that tenantry needs to write."""
    alter(
        postgres_database,
        f"ALTER DATABASE {name_of(postgres_database)} SET default_transaction_read_only = on",
    )
    await refusal(f"{postgres_database.url}&target_session_attrs=any", "it is read-only")


async def test_a_role_without_rights(postgres_database: Database):
    """The role must be allowed to create schemas, and roles if it shall."""
    async with role(postgres_database) as url:
        await refusal(url, "the role may not create schemas in it: GRANT CREATE ON DATABASE")
        user = PostgresConfig(url=url).address.user
        alter(postgres_database, f"GRANT CREATE ON DATABASE {name_of(postgres_database)} TO {user}")
        await check(url)
        await refusal(f"{url}&tenantry_roles=true", "the role may not create roles")


async def test_a_role_that_did_not_make_the_layout(postgres_database: Database):
    """Another role that may create schemas is told which rights it lacks."""
    await check(postgres_database.url)
    async with role(postgres_database) as url:
        user = PostgresConfig(url=url).address.user
        alter(postgres_database, f"GRANT CREATE ON DATABASE {name_of(postgres_database)} TO {user}")
        await refusal(url, "may not read the schema tenantry_database")


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE tenantry_database.layout SET version = 2", "a newer tenantry laid it out .version 2"),
        ("UPDATE tenantry_database.layout SET version = 0", "has no valid row"),
        ("DELETE FROM tenantry_database.layout", "has no valid row"),
        ("DROP TABLE tenantry_database.layout", "that tenantry did not make"),
        ("ALTER TABLE tenantry_database.layout RENAME version TO x", "that tenantry did not make"),
    ],
)
async def test_a_layout_that_is_not_ours(postgres_database: Database, statement: str, sentence: str):
    """A newer layout, or a schema that somebody else made, stays as it is."""
    await check(postgres_database.url)
    alter(postgres_database, statement)
    error = await refusal(postgres_database.url, sentence)
    assert isinstance(error, DatabaseServerError)


async def test_a_pooler_in_statement_mode(postgres_servers: PostgresServers, postgres_database: Database):
    """Such a pooler takes transactions apart."""
    directory = Path(PostgresConfig(url=postgres_database.direct_url).address.hosts[0].rpartition(":")[0])
    with pgbouncer(directory, PORT, pool_mode="statement") as (pooler, port):
        url = socket_url(pooler, port, database=name_of(postgres_database))
        await refusal(f"{url}&tenantry_pooled=true", "is a pooler in statement mode in front of it")


async def test_a_pooler_that_the_url_does_not_name(pooled: Database):
    """A pooler in transaction mode is noticed, with and without settings for each session."""
    url = pooled.url.replace("&tenantry_pooled=true", "")
    await refusal(url, "a pooler in transaction mode is in front of it")
    await refusal(url, "add tenantry_pooled=true to the URL", session={"timezone": "UTC"})


async def test_a_pooler_in_session_mode(postgres_database: Database):
    """A client keeps its session, so nothing is wrong with it."""
    directory = Path(PostgresConfig(url=postgres_database.direct_url).address.hosts[0].rpartition(":")[0])
    with pgbouncer(directory, PORT, pool_mode="session") as (pooler, port):
        await check(socket_url(pooler, port, database=name_of(postgres_database)))
