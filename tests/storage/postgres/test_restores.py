"""Restores of tenants on PostgreSQL: under load of other processes, and after a crash at any step."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import postgres_tenants
from postgres_servers import Database
from postgres_tenants import (
    PLACE,
    connected,
    connected_after_creating,
    copy,
    create,
    opened,
    read,
    restore,
    waiting,
    write,
)
from tenantry.errors import PersistenceError, SnapshotError, TenantOwnedElsewhereError
from tenantry.storage.postgres.connections.lifecycle_tools import COPY_CONNECTIONS_MAX
from tenantry.storage.postgres.connections.thread_connections import ThreadConnection
from tenantry.storage.postgres.copies import copy_out, new_schema
from tenantry.storage.postgres.migrations import migrator
from tenantry.storage.postgres.quoting import quoted

if TYPE_CHECKING:
    import subprocess

RESTORES = 3
WRITERS = 2
NOTES_BETWEEN = 40


def schemas(database: Database) -> set[str]:
    """Return the names of the tenant's schemas."""
    with psycopg.connect(database.direct_url) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant\\_acme%'")
        return {name for (name,) in rows}


def notes_by_generation(database: Database) -> dict[int, set[str]]:
    """Return the notes of the tenant's schema and of its restore points."""
    found = {}
    with psycopg.connect(database.direct_url) as connection:
        for schema in schemas(database):
            (number,) = connection.execute(
                f"SELECT number FROM {quoted(schema, 'generation')}"
            ).fetchone() or (0,)
            rows = connection.execute(f"SELECT body FROM {quoted(schema, 'notes')}")
            found[number] = {body for (body,) in rows}
    return found


def acknowledged(writer: "subprocess.Popen[str]", generation: int) -> Iterator[tuple[str, int]]:
    """Yield the notes that a writer was told are stored, until some of the given generation are among them."""
    assert writer.stdout is not None
    left = NOTES_BETWEEN
    for line in writer.stdout:
        body, number = json.loads(line)
        yield body, number
        left -= number == generation
        if not left:
            return


def the_rest(writer: "subprocess.Popen[str]") -> list[tuple[str, int]]:
    """End a writer, and return the notes that were not read yet."""
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.close()
    return [(body, generation) for body, generation in map(json.loads, writer.stdout)]


class TestUnderLoad:
    """Other processes write while the tenant is restored."""

    async def test_every_note_is_in_its_generation(self, each_postgres_database: Database, tmp_path: Path):
        """A note is in the generation that its writer was connected to, in no other, and no acknowledged note is lost."""
        database = each_postgres_database
        notes: list[tuple[str, int]] = []
        async with opened(database.url, tmp_path) as backend:
            await create(backend)
            with ExitStack() as stack:
                writers = [
                    stack.enter_context(
                        postgres_tenants.process("write", database.url, tmp_path, f"w{number}")
                    )
                    for number in range(WRITERS)
                ]

                def read_notes(generation: int) -> None:
                    for writer in writers:
                        notes.extend(acknowledged(writer, generation))

                for number in range(RESTORES):
                    await asyncio.to_thread(read_notes, number + 1)
                    path = await copy(backend, tmp_path / f"{number}.db", generation=number + 2)
                    await restore(backend, f"before-{number}", path)
                # An undo puts the last replaced database back, as a copy with a generation of its own.
                await asyncio.to_thread(read_notes, RESTORES + 1)
                undone = tmp_path / "undone.db"
                await backend.points(PLACE).copy_to(f"before-{RESTORES - 1}", undone)
                with postgres_tenants.changed(undone) as connection:
                    connection.execute("UPDATE generation SET number = ?", (RESTORES + 2,))
                await restore(backend, "before-undo", undone)
                await asyncio.to_thread(read_notes, RESTORES + 2)
                for writer in writers:
                    notes += await asyncio.to_thread(the_rest, writer)
        found = notes_by_generation(database)
        assert sorted(found) == list(range(1, RESTORES + 3))
        assert {generation for _, generation in notes} == set(found)
        assert len({body for body, _ in notes}) == len(notes)
        for number, bodies in found.items():
            written = {body for body, generation in notes if generation == number}
            copied = found[RESTORES] if number == RESTORES + 2 else set()
            assert written <= bodies
            # A writer that was fenced may not be told of its last batch, which was stored before.
            assert not (bodies - copied) & {body for body, generation in notes if generation != number}

    async def test_a_writer_that_waits_during_the_exchange(self, postgres_database: Database, tmp_path: Path):
        """A writer that only locks the owner's row is acknowledged into the restored database; one with an epoch is fenced."""
        url = postgres_database.direct_url
        async with (
            opened(postgres_database.url, tmp_path) as backend,
            connected_after_creating(backend) as store,
            await psycopg.AsyncConnection.connect(url) as blocker,
            await psycopg.AsyncConnection.connect(url) as naive,
        ):
            path = await copy(backend, tmp_path / "copy.db", generation=2)
            await backend.points(PLACE).stage("before-1", path)
            # Until it ends, this transaction holds the exchange back after the exchange has locked the owner's row.
            await blocker.execute('ALTER SCHEMA "tenant_acme.new" RENAME TO "blocked"')
            exchange = asyncio.create_task(exchanged(backend, "before-1"))
            await waiting(url, 1)
            misled = asyncio.create_task(write_without_epoch(naive))
            await waiting(url, 2)
            with pytest.raises(TenantOwnedElsewhereError):
                await write(store, "INSERT INTO notes VALUES ('fenced')")
            await blocker.rollback()
            await asyncio.gather(exchange, misled)
        assert notes_by_generation(postgres_database) == {1: set(), 2: {"misled"}}


class TestCrashes:
    """A restoring process is killed with SIGKILL."""

    @pytest.mark.parametrize("where", postgres_tenants.CRASHES)
    async def test_at_every_step(self, postgres_database: Database, tmp_path: Path, where: str):
        """The restore has either not begun and can be given up, or is finished by another process; nothing is left over."""
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            async with connected(backend) as store:
                await write(store, "INSERT INTO notes VALUES ('old')")
            path = await copy(backend, tmp_path / "copy.db", generation=2)
            with postgres_tenants.process(
                "die", postgres_database.url, tmp_path, path, "before-1", where
            ) as died:
                assert await asyncio.to_thread(died.wait) == -9
            points = backend.points(PLACE)
            is_staged = where in list(postgres_tenants.CRASHES)[4:]
            assert await points.has_begun("before-1") is is_staged
            if is_staged:
                await exchanged(backend, "before-1")
            else:
                assert await points.unstage("before-1")
                assert path.exists()
                await restore(backend, "before-2", path)
            async with connected(backend) as store:
                assert await read(store, "SELECT number FROM generation") == [2]
            assert await points.names() == ["before-1" if is_staged else "before-2"]
            assert schemas(postgres_database) == {"tenant_acme", "tenant_acme.p1"}
            async with backend.exclusive(PLACE) as closed:
                await closed.remove()
        assert schemas(postgres_database) == set()

    async def test_an_incomplete_schema_is_removed_with_the_tenant(
        self, postgres_database: Database, tmp_path: Path
    ):
        """A purge finds what a crashed restore has left."""
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            path = await copy(backend, tmp_path / "copy.db", generation=2)
            with postgres_tenants.process(
                "die", postgres_database.url, tmp_path, path, "before-1", "before-the-rows"
            ) as died:
                assert await asyncio.to_thread(died.wait) == -9
            assert schemas(postgres_database) == {"tenant_acme", "tenant_acme.new"}
            async with backend.exclusive(PLACE) as closed:
                await closed.remove()
        assert schemas(postgres_database) == set()

    async def test_the_next_restores_schema_is_not_removed(self, postgres_database: Database, tmp_path: Path):
        """A process that was paused gives its restore up, while another process has staged the next one."""
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            path = await copy(backend, tmp_path / "copy.db", generation=2)
            points = backend.points(PLACE)
            await points.stage("before-2", path)
            assert await points.unstage("before-1")
            assert await points.has_begun("before-2")
            assert await points.unstage("before-2")
            assert schemas(postgres_database) == {"tenant_acme"}

    async def test_another_tenants_schemas_are_not_removed(self, postgres_database: Database, tmp_path: Path):
        """A tenant whose place another deployment has taken removes neither that schema nor what is beside it."""
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            await restore(backend, "before-1", await copy(backend, tmp_path / "copy.db", generation=2))
            path = await copy(backend, tmp_path / "next.db", generation=3)
            await backend.points(PLACE).stage("before-2", path)
            async with backend.exclusive(PLACE._replace(uid="f" * 32)) as closed:
                await closed.remove()
            assert schemas(postgres_database) == {"tenant_acme", "tenant_acme.p1", "tenant_acme.new"}
            async with connected(backend) as store:
                assert await read(store, "SELECT number FROM generation") == [2]


class TestRestores:
    """Single restores."""

    async def test_a_cancelled_stage(
        self, postgres_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Cancelling a stage ends the loading of the rows, and leaves no schema; the copy is kept."""
        loading = threading.Event()
        copy_in = new_schema.copy_in

        def copying(connection: ThreadConnection, *arguments: Any) -> None:
            copy_in(connection, *arguments)
            loading.set()
            connection.execute("SELECT pg_sleep(60)")

        monkeypatch.setattr(new_schema, "copy_in", copying)
        async with opened(postgres_database.url, tmp_path) as backend, connected_after_creating(backend):
            path = await copy(backend, tmp_path / "copy.db", generation=2)
            staging = asyncio.create_task(backend.points(PLACE).stage("before-1", path))
            await asyncio.to_thread(loading.wait)
            staging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await staging
            assert not await backend.points(PLACE).has_begun("before-1")
        assert (schemas(postgres_database), path.exists()) == ({"tenant_acme"}, True)

    async def test_a_cancelled_copy(
        self, postgres_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Cancelling a copy ends it, and leaves no file; so does a server that ends the connection."""
        reading = threading.Event()

        def waiting_for_rows(connection: ThreadConnection, *_: Any) -> Iterator[tuple[Any, ...]]:
            reading.set()
            connection.execute("SELECT pg_sleep(60)")
            yield from ()

        monkeypatch.setattr(copy_out, "read_rows", waiting_for_rows)
        async with (
            opened(postgres_database.url, tmp_path) as backend,
            connected_after_creating(backend) as store,
        ):
            path = tmp_path / "copy.db"
            copying = asyncio.create_task(store.copy_to(path))
            await asyncio.to_thread(reading.wait)
            copying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await copying
            assert not path.exists()
            reading.clear()
            copying = asyncio.create_task(store.copy_to(path))
            await asyncio.to_thread(reading.wait)
            with psycopg.connect(postgres_database.direct_url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
                )
            with pytest.raises(PersistenceError, match="cannot copy the schema tenant_acme"):
                await copying
            assert not path.exists()
            await write(store, "INSERT INTO notes VALUES ('one')")

    async def test_a_copy_that_cannot_be_stored(self, postgres_database: Database, tmp_path: Path):
        """The error names the row, the tenant is served as before, and no schema is left."""
        async with (
            opened(postgres_database.url, tmp_path) as backend,
            connected_after_creating(backend) as store,
        ):
            path = await copy(backend, tmp_path / "copy.db", generation=2)
            with postgres_tenants.changed(path) as connection:
                connection.execute("INSERT INTO notes VALUES ('a' || char(0) || 'b')")
            with pytest.raises(
                SnapshotError, match=r"table 'notes', row body = .*: column 'body': the text has a NUL"
            ):
                await backend.points(PLACE).stage("before-1", path)
            assert path.exists()
            await write(store, "INSERT INTO notes VALUES ('one')")
        assert schemas(postgres_database) == {"tenant_acme"}

    async def test_a_tenant_whose_schema_is_gone(self, postgres_database: Database, tmp_path: Path):
        """A restore brings it back; the restore point is empty, and a crash after the exchange is still seen as finished."""
        async with opened(postgres_database.url, tmp_path) as backend:
            await create(backend)
            path = await copy(backend, tmp_path / "copy.db", generation=2)
            with psycopg.connect(postgres_database.direct_url, autocommit=True) as connection:
                connection.execute("DROP SCHEMA tenant_acme CASCADE")
            await restore(backend, "before-1", path)
            points = backend.points(PLACE)
            assert (await points.has_begun("before-1"), await points.exists("before-1")) == (True, False)
            async with connected(backend) as store:
                assert await read(store, "SELECT number FROM generation") == [2]

    async def test_a_store_that_was_connected_is_fenced(self, postgres_database: Database, tmp_path: Path):
        """Exclusive work fences a store of another process that has no call under way, even if nothing is changed."""
        async with (
            opened(postgres_database.url, tmp_path) as backend,
            opened(postgres_database.url, tmp_path) as other,
        ):
            await create(backend)
            async with connected(other) as store:
                await write(store, "INSERT INTO notes VALUES ('one')")
                async with backend.exclusive(PLACE):
                    pass
                with pytest.raises(TenantOwnedElsewhereError):
                    await write(store, "INSERT INTO notes VALUES ('two')")
            async with connected(other) as store:
                assert await read(store, "SELECT body FROM notes") == ["one"]

    async def test_an_operation_that_lost_its_lock(self, postgres_database: Database, tmp_path: Path):
        """An operation whose connection was lost, and whose tenant another operation has taken over, changes nothing."""
        async with (
            opened(postgres_database.url, tmp_path) as backend,
            opened(postgres_database.url, tmp_path) as other,
        ):
            await create(backend)
            await backend.points(PLACE).stage(
                "before-1", await copy(backend, tmp_path / "1.db", generation=2)
            )
            async with backend.exclusive(PLACE) as closed:
                postgres_database.end_holders_of_locks()
                async with other.exclusive(PLACE):
                    pass
                with pytest.raises(TenantOwnedElsewhereError, match="taken the tenant over"):
                    await closed.exchange("before-1")
            async with connected(backend) as store:
                assert await read(store, "SELECT number FROM generation") == [1]


async def test_many_copies_at_once_have_a_limited_number_of_connections(
    postgres_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The migrations of a new schema use a connection beside the limited ones, but only as many as copies may run."""
    now = most = 0
    too_many = asyncio.Event()

    async def migrate(*args: Any, **kwargs: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now > COPY_CONNECTIONS_MAX:
            too_many.set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.3):  # without a limit, the others arrive in this time
                    await too_many.wait()
            return await migrator.migrate(*args, **kwargs)
        finally:
            now -= 1

    monkeypatch.setattr(new_schema, "migrate", migrate)
    async with opened(postgres_database.url, tmp_path) as backend:
        await create(backend)
        path = await copy(backend, tmp_path / "copy.db", generation=2)
        copies = [Path(shutil.copy(path, tmp_path / f"{number}.db")) for number in range(12)]
        places = [PLACE._replace(location=f"tenant_copy_{number}") for number in range(len(copies))]
        await asyncio.gather(*map(backend.adopt, places, copies))
    assert 1 <= most <= COPY_CONNECTIONS_MAX


async def exchanged(backend: postgres_tenants.PostgresBackend, point: str) -> None:
    """Exchange the databases of a staged restore."""
    async with backend.exclusive(PLACE) as closed:
        await closed.keep(point, is_as_found=False)
        await closed.exchange(point)


async def write_without_epoch(connection: psycopg.AsyncConnection) -> None:
    """Write as a process would that only locks the owner's row."""
    await connection.execute("SET search_path TO tenant_acme")
    await connection.execute("SELECT FROM tenantry_owner WHERE id = 1 FOR UPDATE")
    await connection.execute("INSERT INTO notes VALUES ('misled')")
    await connection.commit()
