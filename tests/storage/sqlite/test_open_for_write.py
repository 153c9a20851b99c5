"""A closed database that is opened because of a write gets its writer at once; what that does not change."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from owned_stores import is_open_for_reading, make_owned, numbers
from stores import run
from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import COMPANY
from tenantry.errors import DatabaseCorruptError, PersistenceError
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.store import SQLiteStore
from tenants import database_path, make_message, open_files, query, write_pack

pytestmark = pytest.mark.usefixtures("each_engine")

OWNER = "SELECT epoch, owner FROM tenantry_owner"


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    """The store of a database that was written and closed cleanly."""
    store = make_owned(tmp_path)
    await store.connect()
    await store.migrate()
    await store.write([(run("CREATE TABLE t (n INTEGER)"),), (run("INSERT INTO t VALUES (1)"),)])
    await store.disconnect()
    yield store
    await store.disconnect()
    assert open_files(tmp_path) == []


async def test_the_writer_is_opened_at_once(closed: SQLiteStore, tmp_path: Path):
    """It writes, its reads see the writes, and after its close the database is read without a writer again."""
    await closed.connect(is_for_write=True)
    assert (await closed.migrate()).applied == ()
    assert not is_open_for_reading(closed)
    assert await closed.write([(run("INSERT INTO t VALUES (2)"),)]) == [[None]]
    assert await numbers(closed) == [1, 2]
    await closed.disconnect()
    assert (tmp_path / "lock").read_bytes().startswith(b"released")
    await closed.connect()
    assert is_open_for_reading(closed)
    assert await numbers(closed) == [1, 2]


async def test_the_epoch_is_raised_by_the_write(closed: SQLiteStore, tmp_path: Path):
    """Opening changes nothing in the file; the first write fences off earlier owners."""
    [(epoch, owner)] = query(tmp_path / "tenant.db", OWNER)
    other = make_owned(tmp_path)
    await other.connect(is_for_write=True)
    assert query(tmp_path / "tenant.db", OWNER) == [(epoch, owner)]
    await other.write([(run("INSERT INTO t VALUES (2)"),)])
    [(raised, other_owner)] = query(tmp_path / "tenant.db", OWNER)
    assert (raised, other_owner != owner) == (epoch + 1, True)
    await other.disconnect()


async def test_a_writer_that_cannot_be_opened(closed: SQLiteStore, tmp_path: Path):
    """The database can be read, the write reports the error, and the next write succeeds when the obstacle has gone."""
    in_the_way = tmp_path / "tenant.db-shm"
    in_the_way.mkdir()
    await closed.connect(is_for_write=True)
    assert is_open_for_reading(closed)
    assert await numbers(closed) == [1]
    with pytest.raises(PersistenceError):
        await closed.write([(run("INSERT INTO t VALUES (2)"),)])
    in_the_way.rmdir()
    assert await closed.write([(run("INSERT INTO t VALUES (2)"),)]) == [[None]]
    assert await numbers(closed) == [1, 2]


async def test_after_a_crash(closed: SQLiteStore, tmp_path: Path):
    """An owner that did not close cleanly is fenced off by the opening, as without a write."""
    [(epoch, _)] = query(tmp_path / "tenant.db", OWNER)
    (tmp_path / "lock").write_text("{}")
    await closed.connect(is_for_write=True)
    assert query(tmp_path / "tenant.db", OWNER)[0][0] == epoch + 1
    assert await closed.write([(run("INSERT INTO t VALUES (2)"),)]) == [[None]]


async def test_the_file_of_another_tenant(closed: SQLiteStore, tmp_path: Path):
    """It is refused, and is not changed."""
    query(tmp_path / "tenant.db", "UPDATE tenantry_owner SET tenant_uid = 'another'")
    before = (tmp_path / "tenant.db").read_bytes()
    with pytest.raises(DatabaseCorruptError, match="another tenant"):
        await closed.connect(is_for_write=True)
    assert (tmp_path / "tenant.db").read_bytes() == before
    assert open_files(tmp_path) == []
    query(tmp_path / "tenant.db", "UPDATE tenantry_owner SET tenant_uid = 'uid'")


async def test_a_pending_migration_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A closed database that lacks a migration is migrated before its first write."""
    packs = tmp_path / "packs"
    monkeypatch.syspath_prepend(packs)
    pack = Schema("more", write_pack(packs, "pack_opened_for_write", "CREATE TABLE more (n);"))
    for schemas in ([COMPANY], [COMPANY, pack], [COMPANY, pack]):
        store = make_owned(tmp_path / "acme", schemas)
        await store.connect(is_for_write=True)
        assert (await store.migrate()).versions == {schema.name: 1 for schema in schemas}
        await store.disconnect()


async def test_a_first_write_opens_one_connection(data_dir: Path):
    """A call that writes to a closed tenant opens one connection; a call that reads before the write makes it two."""
    opened: list[object] = []
    schemas = [replace(COMPANY, on_connect=opened.append)]
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
        for tenant_id in ("written", "keyed", "begun", "read"):
            await registry.create(tenant_id)
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
        for tenant_id, connections in (("written", 1), ("keyed", 1), ("begun", 1), ("read", 2)):
            tenant = registry.tenant(tenant_id)
            opened.clear()
            if tenant_id == "keyed":
                await tenant.idempotent("key").messages.save(make_message("one"))
            elif tenant_id == "begun":
                async with tenant.transaction() as tx:
                    await tx.messages.save(make_message("one"))
            else:
                if tenant_id == "read":
                    assert len(await tenant.messages.get_history("general")) == 0
                await tenant.messages.save(make_message("one"))
            assert len(opened) == connections
    for tenant_id in ("written", "keyed", "begun", "read"):
        assert query(database_path(data_dir, tenant_id), "SELECT count(*) FROM messages") == [(1,)]
