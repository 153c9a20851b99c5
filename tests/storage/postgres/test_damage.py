"""A damaged page of a table: the checks and the calls that read it say so, and nothing else fails."""

import pytest

from postgres_servers import Database, private_server, url_of
from postgres_stores import admin, connected, open_stores, rows, run
from tenantry.errors import DatabaseCorruptError
from tenantry.sql.statements import Fetch


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
            server.stop()
            file = server.data / name
            content = bytearray(file.read_bytes())
            content[4000] ^= 0xFF
            file.write_bytes(content)
            server.start()
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
