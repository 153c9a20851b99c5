"""A damaged page of a table: the checks and the calls that read it say so, and nothing else fails."""

from pathlib import Path

import pytest

from postgres_processes import PostgresProcess
from postgres_servers import Database, private_server, url_of
from postgres_stores import admin, open_stores, rows, run
from postgres_tenants import PLACE, create, write
from postgres_tenants import connected as connected_tenant
from postgres_tenants import opened as opened_backend
from stores import connected
from tenantry.errors import DatabaseCorruptError
from tenantry.sql.statements import Fetch


def flip_a_byte(server: PostgresProcess, name: str) -> None:
    """Damage a file of the stopped server, and start the server again."""
    server.stop()
    file = server.data / name
    content = bytearray(file.read_bytes())
    content[4000] ^= 0xFF
    file.write_bytes(content)
    server.start()


async def test_damaged_table_is_reported():
    """The server reports a page with a wrong checksum, as `DatabaseCorruptError` to those who read it only."""
    with private_server() as server:
        server.start()
        database = Database(url_of(server), url_of(server))
        async with (
            open_stores(database) as stores,
            connected(
                stores.make(), "CREATE TABLE t (id bigint, padding text)", "CREATE TABLE sound (id bigint)"
            ) as store,
        ):
            await store.write(
                [(run("INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 100) AS n"),)]
            )
            await store.check_integrity()
            await admin(database, "CHECKPOINT")
            ((name,),) = await admin(database, f"SELECT pg_relation_filepath('{store._owner.schema}.t')")
            flip_a_byte(server, name)
            for is_thorough in (False, True):
                with pytest.raises(DatabaseCorruptError, match="restore a snapshot"):
                    await store.check_integrity(is_thorough=is_thorough)
            damaged, sound = await store.read(
                [run("SELECT count(*) FROM t", fetch=Fetch.ALL), run("SELECT 1", fetch=Fetch.ONE)]
            )
            assert isinstance(damaged, DatabaseCorruptError)
            assert sound == (1,)
            damaged, sound = await store.write(
                [(run("UPDATE t SET id = id + 1"),), (run("INSERT INTO sound VALUES (1)"),)]
            )
            assert isinstance(damaged, DatabaseCorruptError)
            assert sound == [None]
            assert await rows(store, "SELECT id FROM sound") == [(1,)]


async def test_a_damaged_large_value_of_a_closed_tenant(tmp_path: Path):
    """A large value is outside its table, so only a thorough check reads it."""
    with private_server() as server:
        server.start()
        database = Database(url_of(server), url_of(server))
        async with opened_backend(database.url, tmp_path) as backend:
            await create(backend)
            async with connected_tenant(backend) as store:
                await write(store, "CREATE TABLE texts (body text)")
                await write(
                    store,
                    "INSERT INTO texts SELECT string_agg(md5(n::text), '') FROM generate_series(1, 10000) AS n",
                )
            await admin(database, "CHECKPOINT")
            query = "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'tenant_acme.texts'::regclass"
            ((name,),) = await admin(database, query)
            flip_a_byte(server, name)
            async with backend.exclusive(PLACE) as closed:
                await closed.check(is_thorough=False)
                with pytest.raises(DatabaseCorruptError, match="restore a snapshot"):
                    await closed.check(is_thorough=True)
