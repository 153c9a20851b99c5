"""The marks of forwarded units in copies of a tenant: they belong to one database, and are not part of the tenant's data."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peers import Pair, open_pair, texts
from postgres_servers import Database
from registries import config
from tenantry import TenantRegistry
from tenantry.doctor import examine
from tenantry.errors import ForeignSchemaError
from tenants import database_path, history, query, say

ADD = "INSERT INTO notes (text) VALUES (?) RETURNING id"
TABLES = ("notes",)
"""The tables beside those of the schema packs."""


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries, and a tenant with marks."""
    async with open_pair(data_dir) as opened:
        await opened.forwarded.fetch_value(ADD, ("forwarded",))
        yield opened


def marks(path: Path) -> int | None:
    """Return the number of rows of marks in a database; None if it has no table of marks."""
    if not query(path, "SELECT 1 FROM sqlite_schema WHERE name = 'tenantry_forwarded'"):
        return None
    return int(query(path, "SELECT count(*) FROM tenantry_forwarded")[0][0])


def marks_of(pair: Pair, tenant_id: str) -> int | None:
    """Return the number of rows of marks of a tenant."""
    return marks(database_path(pair.owner.config.data_dir, tenant_id))


async def test_a_restored_snapshot_has_them(pair: Pair):
    """The tenant's own snapshot has its marks, which say what the snapshot's data says, and later units are marked."""
    taken = await pair.other.snapshots.create("acme")
    await pair.forwarded.fetch_value(ADD, ("later",))
    await pair.other.snapshots.restore("acme", taken.id)
    assert await texts(pair.own) == ["forwarded"]
    assert marks_of(pair, "acme") == 1
    await texts(pair.own)
    assert await pair.forwarded.fetch_value(ADD, ("again",)) == 2
    assert marks_of(pair, "acme") in (1, 2)  # the first one may be removed now, or later
    await pair.owner.snapshots.undo_restore("acme")
    assert await texts(pair.own) == ["forwarded", "later"]


async def test_a_snapshot_is_whole(pair: Pair):
    """A snapshot's check compares the file with its description."""
    await pair.other.snapshots.create("acme")
    assert not (await pair.owner.snapshots.look("acme")).damaged


async def test_a_clone_has_none(pair: Pair):
    """Neither a clone of the open tenant nor one of a snapshot."""
    taken = await pair.other.snapshots.create("acme")
    await pair.other.clone("acme", "clone")
    await pair.other.clone("acme", "of-snapshot", snapshot_id=taken.id)
    for tenant_id in ("clone", "of-snapshot"):
        assert await texts(pair.owner.tenant(tenant_id)) == ["forwarded"]
        assert marks_of(pair, tenant_id) is None


async def test_a_bundle_brings_none(pair: Pair, tmp_path: Path):
    """An imported tenant has none, and can be used through another registry."""
    await pair.other.export("acme", tmp_path / "acme.tar.gz")
    await pair.other.import_bundle("imported", tmp_path / "acme.tar.gz", accepted_tables=TABLES)
    assert marks_of(pair, "imported") is None
    assert await texts(pair.owner.tenant("imported")) == ["forwarded"]
    assert await pair.other.tenant("imported").fetch_value(ADD, ("x",)) == 2


async def test_a_file_with_marks_takes_the_tenants_place(pair: Pair, tmp_path: Path):
    """A plain copy of the tenant's own database is taken, and the next units are marked."""
    plain = tmp_path / "plain.db"
    query(database_path(pair.owner.config.data_dir, "acme"), "VACUUM INTO ?", str(plain))
    assert marks(plain) == 1
    await pair.forwarded.fetch_value(ADD, ("later",))
    await pair.other.snapshots.replace_file("acme", plain, accepted_tables=TABLES)
    assert await texts(pair.own) == ["forwarded"]
    assert await pair.forwarded.fetch_value(ADD, ("again",)) == 2


async def test_a_file_with_marks_is_not_adopted(pair: Pair, tmp_path: Path):
    """The database of a tenant is not adopted as another program's database; marks alone do not make it one."""
    plain = tmp_path / "plain.db"
    query(database_path(pair.owner.config.data_dir, "acme"), "VACUUM INTO ?", str(plain))
    with pytest.raises(ForeignSchemaError, match="belongs to"):
        await pair.other.adopt("new", plain, accepted_tables=TABLES)


async def test_a_move_leaves_them(data_dir: Path, postgres_database: Database):
    """A tenant that was moved to PostgreSQL and back has its rows and no marks; units are marked again afterwards."""
    settings = config(data_dir, databases={"east": postgres_database.url})
    async with TenantRegistry(settings) as owner, TenantRegistry(settings) as other:
        await owner.create("acme")
        await say(other, "acme", "forwarded")
        assert marks(database_path(data_dir, "acme")) == 1
        for place in ("east", "sqlite"):
            await other.move("acme", place)
            assert await history(owner, "acme") == ["forwarded"]
        assert marks(database_path(data_dir, "acme")) is None
        await say(other, "acme", "again")
        assert marks(database_path(data_dir, "acme")) == 1
        assert await history(owner, "acme") == ["forwarded", "again"]


async def test_checks_know_them(pair: Pair):
    """A fleet job that checks the tenants, and the doctor find nothing odd."""
    job = await pair.other.fleet.start("check")
    finished = await pair.other.fleet.wait(job.id)
    assert finished.failed == 0
    report = await examine(pair.owner.config)
    assert [one for one in report.findings if "forwarded" in str(one)] == []
