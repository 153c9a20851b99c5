"""Closed tenants on PostgreSQL: checks, locks, locations, and the connections of lifecycle calls."""

import asyncio
import socket
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

import postgres_tenants
from needs import need
from postgres_servers import Database, PostgresServers
from postgres_tenants import ACME, PLACE, connected, create, opened, write
from tenantry.errors import (
    DatabaseCorruptError,
    DataDirectoryError,
    PersistenceConnectionError,
    QueryError,
    TenantOwnedElsewhereError,
    UnsupportedByBackend,
)
from tenantry.postgres_config import PostgresConfig
from tenantry.storage.postgres.connections import locks
from tenantry.storage.postgres.connections.thread_connections import (
    IDLE_CONNECTIONS_MAX,
    ThreadConnection,
    ThreadConnections,
)
from tenantry.storage.protocol import LockTakenError, Place
from tenants import HANG_SECONDS


def run(database: Database, *statements: str) -> None:
    """Run statements as an operator would."""
    with psycopg.connect(database.direct_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


class TestChecks:
    """`ClosedDatabase.check` and `repair`."""

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            ("DROP SCHEMA tenant_acme CASCADE", "is missing, or is not a tenant's"),
            ("DELETE FROM tenant_acme.tenantry_owner", "has lost its row in tenantry_owner"),
            (
                "UPDATE tenant_acme.tenantry_owner SET tenant_uid = 'other'",
                "belongs to the tenant with the key 'other'",
            ),
            (
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'tenant_acme.notes_pkey'::regclass",
                "the index notes_pkey is not valid",
            ),
            (
                "ALTER TABLE tenant_acme.notes ADD CONSTRAINT short CHECK (length(body) < 9) NOT VALID",
                "the constraint short is not validated",
            ),
        ],
    )
    async def test_damage(self, postgres_database: Database, tmp_path: Path, change: str, found: str):
        """The error names the damaged part, and a repair says that it cannot help."""
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            run(postgres_database, change)
            async with backend.exclusive(PLACE) as closed:
                with pytest.raises(DatabaseCorruptError, match=found):
                    await closed.check(is_thorough=False)
                assert await closed.is_damaged()
                with pytest.raises(UnsupportedByBackend, match="restore a snapshot") as refused:
                    await closed.repair()
        assert (refused.value.capability, refused.value.backend) == ("repair", "postgres")

    async def test_indexes_are_compared_with_their_tables(
        self, postgres_servers: PostgresServers, tmp_path: Path
    ):
        """With the extension amcheck, which the wheel's servers lack, a thorough check finds an index that lacks a row."""
        with postgres_servers.server("15").database() as database:
            await self._compare_indexes(database, tmp_path)

    async def _compare_indexes(self, postgres_database: Database, tmp_path: Path) -> None:
        with psycopg.connect(postgres_database.direct_url) as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'"
            ).fetchone()
        need(found is not None, "needs a server with the extension amcheck: apt-get install postgresql-15")
        run(postgres_database, "CREATE EXTENSION amcheck")
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            async with backend.exclusive(PLACE) as closed:
                await closed.check(is_thorough=True)
            run(
                postgres_database,
                "UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'tenant_acme.notes_pkey'::regclass",
                "INSERT INTO tenant_acme.notes VALUES ('one')",
                "UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'tenant_acme.notes_pkey'::regclass",
            )
            async with backend.exclusive(PLACE) as closed:
                await closed.check(is_thorough=False)
                with pytest.raises(DatabaseCorruptError, match="lacks matching index tuple"):
                    await closed.check(is_thorough=True)

    async def test_a_sound_schema_needs_no_repair(self, postgres_database: Database, tmp_path: Path):
        """A tenant whose migration failed can be served again after the code was corrected."""
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            async with backend.exclusive(PLACE) as closed:
                await closed.check_repairable()
                await closed.repair()


class TestLocks:
    """Locks in transactions."""

    async def test_a_killed_holder(self, each_postgres_database: Database, tmp_path: Path):
        """The server frees the lock of a process that dies."""
        async with opened(each_postgres_database.url, tmp_path) as backend:
            await create(backend)
            with postgres_tenants.process("hold", each_postgres_database.url, tmp_path) as holder:
                assert holder.stdout is not None
                assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
                with pytest.raises(LockTakenError):
                    async with backend.lock("job"):
                        pass
                with pytest.raises(TenantOwnedElsewhereError, match="an operation of another process"):
                    async with backend.exclusive(PLACE, is_waited_for=False):
                        pass
                waiting = asyncio.create_task(take(backend))
                await asyncio.sleep(0)
                holder.kill()
                await asyncio.to_thread(holder.wait)
                await waiting
            async with backend.lock("job"):
                pass

    async def test_a_cancelled_waiter_leaves_nothing(self, postgres_database: Database, tmp_path: Path):
        """A call that is cancelled while it waits for the lock ends, and the lock is free after its holder."""
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            async with backend.exclusive(PLACE):
                waiting = asyncio.create_task(take(backend))
                await postgres_tenants.waiting(postgres_database.direct_url, 1)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            async with backend.exclusive(PLACE, is_waited_for=False):
                pass

    async def test_a_long_transaction_holds_the_operation_back(
        self, postgres_database: Database, tmp_path: Path
    ):
        """An operation waits for a transaction of another process only for a time, and then changes nothing."""
        async with opened(postgres_database.url, tmp_path, call_timeout_seconds=0.5) as backend:
            await create(backend)
            with psycopg.connect(postgres_database.direct_url) as connection:
                connection.execute("SELECT FROM tenant_acme.tenantry_owner FOR UPDATE")
                with pytest.raises(TenantOwnedElsewhereError, match="is still running"):
                    async with backend.exclusive(PLACE):
                        pass
            async with connected(backend) as store:
                await write(store, "INSERT INTO notes VALUES ('one')")

    def test_keys_differ(self):
        """Names of locks and of tenants have different keys, which fit the server's type."""
        keys = {
            locks.name_key("acme"),
            locks.name_key("job"),
            locks.tenant_key("acme"),
            locks.tenant_key("job"),
        }
        assert len(keys) == 4
        assert all(-(2**63) <= key < 2**63 for key in keys)


class TestLocations:
    """The schemas of tenants."""

    async def test_names(self, postgres_database: Database, tmp_path: Path):
        """A location is the id's schema, with a counter if a former tenant has it; an unknown schema is refused."""
        async with opened(postgres_database.url, tmp_path) as backend:
            assert backend.location_of(ACME) == "tenant_acme"
            assert await backend.new_location(ACME, []) == "tenant_acme"
            assert await backend.new_location(ACME, ["tenant_acme", "tenant_acme.1"]) == "tenant_acme.2"
            run(postgres_database, "CREATE SCHEMA tenant_acme")
            with pytest.raises(DataDirectoryError, match=r"the schema tenant_acme .* belongs to no tenant"):
                await backend.new_location(ACME, [])

    async def test_a_tenant_whose_id_looks_like_a_restore(self, postgres_database: Database, tmp_path: Path):
        """The tenant ``acme--new`` is not the staged database of ``acme``."""
        other = postgres_tenants.parse_tenant_id("acme--new")
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            place = Place(other, "f" * 32, await backend.new_location(other, []))
            await create(backend, place)
            async with backend.exclusive(PLACE) as closed:
                await closed.remove()
            async with backend.exclusive(place) as closed:
                assert await closed.exists()

    async def test_the_report_has_no_secret(self, postgres_database: Database, tmp_path: Path):
        """The report names the server and the database."""
        url = postgres_database.url.replace("postgres@", "postgres:horse-battery@")
        async with opened(url, tmp_path) as backend:
            report = await backend.report()
        assert report.version
        assert {"host", "database", "user", "connections", "sharding"} <= report.details.keys()
        assert report.details["sharding"] == "none"
        assert "horse" not in repr(report)


class TestConnections:
    """The connections of lifecycle calls."""

    async def test_all_in_use(self, postgres_database: Database):
        """A call that gets no connection in time says so, without the password."""
        url = postgres_database.direct_url.replace("postgres@", "postgres:horse-battery@")
        connections = ThreadConnections(
            PostgresConfig.model_validate(url), connections_max=1, wait_seconds_max=0.01
        )
        async with connections.connection():
            with pytest.raises(
                PersistenceConnectionError, match="all 1 connections for lifecycle calls"
            ) as caught:
                await connections.run("cannot read", ThreadConnection.commit)
        assert "horse" not in str(caught.value) + repr(connections)
        connections.close()

    async def test_a_server_that_says_nothing(self, postgres_database: Database):
        """A wait for the server has a limit, and the connection is closed."""
        connections = ThreadConnections(
            PostgresConfig.model_validate(postgres_database.direct_url),
            connections_max=1,
            wait_seconds_max=None,
            stalled_seconds_max=0.2,
        )
        with pytest.raises(PersistenceConnectionError, match=r"sent nothing for 0\.2 seconds"):
            await connections.run(
                "cannot sleep", lambda connection: connection.execute("SELECT pg_sleep(60)")
            )
        assert repr(connections) == "<ThreadConnections with 0 idle of 1 connections>"
        connections.close()

    async def test_a_cancelled_call(self, postgres_database: Database):
        """Cancellation ends the wait for the server."""
        connections = ThreadConnections(
            PostgresConfig.model_validate(postgres_database.direct_url),
            connections_max=1,
            wait_seconds_max=None,
        )
        sleeping = asyncio.create_task(
            connections.run("cannot sleep", lambda connection: connection.execute("SELECT pg_sleep(60)"))
        )
        # The server has no event for the beginning of a statement.
        while not await running(postgres_database, "pg_sleep(60)"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        connections.close()

    async def test_a_call_that_is_cancelled_as_it_is_connected(
        self, postgres_database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        """The connection, which nobody gets, is closed."""
        connections = ThreadConnections(
            PostgresConfig.model_validate(postgres_database.direct_url),
            connections_max=1,
            wait_seconds_max=None,
        )
        made: list[ThreadConnection] = []
        is_made = threading.Event()
        connect = connections._connect

        def connect_and_tell(*arguments: Any) -> ThreadConnection:
            made.append(connect(*arguments))
            is_made.set()
            return made[0]

        # Only so is the call cancelled after the thread has connected, and before the event loop knows.
        monkeypatch.setattr(connections, "_connect", connect_and_tell)
        calling = asyncio.create_task(connections.run("cannot ask", pid))
        await asyncio.sleep(0)
        assert is_made.wait(HANG_SECONDS)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert made[0].closed
        connections.close()

    async def test_errors_have_no_values(self, postgres_database: Database):
        """The server's message quotes a value that does not fit its type; ours does not, because it is logged."""
        connections = ThreadConnections(
            PostgresConfig.model_validate(postgres_database.url), connections_max=1, wait_seconds_max=1.0
        )
        for cast in ("'secret'::bigint", "'9999999999'::integer", "'{\"secret\"'::json"):
            with pytest.raises(QueryError, match=r"^cannot look: .*\(a value\)|json") as raised:
                await connections.run("cannot look", lambda one, cast=cast: one.execute(f"SELECT {cast}"))
            assert "secret" not in str(raised.value)
            assert "9999" not in str(raised.value)

    async def test_a_connection_that_the_server_closed(self, postgres_database: Database):
        """An idle connection that the server has closed is replaced, and no call fails."""
        connections = ThreadConnections(
            PostgresConfig.model_validate(postgres_database.direct_url),
            connections_max=1,
            wait_seconds_max=None,
        )
        first = await connections.run("cannot ask", pid)
        run(postgres_database, f"SELECT pg_terminate_backend({first}, 5000)")
        assert await connections.run("cannot ask", pid) != first
        connections.close()

    async def test_connections_end(self, postgres_database: Database):
        """A connection ends after a number of uses, because the server's process remembers each schema; few idle ones are kept."""
        url = f"{postgres_database.direct_url}&tenantry_tenants_per_connection_max=2"
        connections = ThreadConnections(
            PostgresConfig.model_validate(url),
            connections_max=2 * IDLE_CONNECTIONS_MAX,
            wait_seconds_max=None,
        )
        found = [await connections.run("cannot ask", pid) for _ in range(4)]
        assert found[0] == found[1] != found[2] == found[3]
        async with AsyncExitStack() as stack:
            for _ in range(2 * IDLE_CONNECTIONS_MAX):
                await stack.enter_async_context(connections.connection())
        idle, most = IDLE_CONNECTIONS_MAX, 2 * IDLE_CONNECTIONS_MAX
        assert repr(connections) == f"<ThreadConnections with {idle} idle of {most} connections>"
        connections.close()

    async def test_nobody_listens(self):
        """An unreachable server is a typed error without the password."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            connections = ThreadConnections(
                PostgresConfig.model_validate(
                    f"postgresql://app:horse-battery@127.0.0.1:{port}/tenants?sslmode=disable&tenantry_connect_timeout_seconds=0.2"
                ),
                connections_max=1,
                wait_seconds_max=None,
            )
            with pytest.raises(
                PersistenceConnectionError, match=r"cannot connect to the database app@127\.0\.0\.1"
            ) as caught:
                await connections.run("cannot ask", pid)
        assert "horse" not in str(caught.value)


async def take(backend: postgres_tenants.PostgresBackend) -> None:
    """Take and return the tenant's lock."""
    async with backend.exclusive(PLACE):
        pass


async def running(database: Database, text: str) -> bool:
    """Return whether a statement with the text runs."""
    async with await psycopg.AsyncConnection.connect(database.direct_url) as connection:
        query = (
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
            "AND query LIKE %s AND pid <> pg_backend_pid()"
        )
        row = await (await connection.execute(query, (f"%{text}%",))).fetchone()
        return bool(row and row[0])


def pid(connection: ThreadConnection) -> int:
    """Return the id of the server's process."""
    return connection.info.backend_pid
