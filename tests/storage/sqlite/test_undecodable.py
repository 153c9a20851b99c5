"""What SQLite says, or a row holds, in bytes that are not UTF-8: damage of the file is told from a caller's own doing."""

# tests change files by hand; nobody waits for them

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from stores import open_store, rows, run
from tenantry import RegistryConfig, Repository, TenantRegistry
from tenantry.errors import DatabaseCorruptError, QueryError, TenantQuarantinedError
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.maintenance import integrity, maintenance
from tenantry.storage.sqlite.maintenance.inspection import read_closed_owner
from tenants import HANG_SECONDS, database_path, make_message, query, stored_contents

pytestmark = pytest.mark.usefixtures("each_engine")

GOOD_NAME, BAD_NAME = b"tablemessagesmessages", b"tablem\xffssagesmessages"


def damage_schema(path: Path) -> None:
    """Change a letter of a table's name in the schema of a closed database: SQLite's message quotes it."""
    content = path.read_bytes()
    assert GOOD_NAME in content
    path.write_bytes(content.replace(GOOD_NAME, BAD_NAME))


@pytest.fixture
async def registry(data_dir: Path) -> AsyncIterator[TenantRegistry]:
    """An open registry with a closed tenant whose schema is damaged."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as first:
        await first.create("acme")
        await first.tenant("acme").messages.save(make_message())
    damage_schema(database_path(data_dir, "acme"))
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as opened:
        yield opened


CALLS: dict[str, Callable[[TenantRegistry], Awaitable[object]]] = {
    "read": lambda registry: registry.tenant("acme").messages.get_history("general"),
    "write": lambda registry: registry.tenant("acme").messages.save(make_message()),
    "snapshot": lambda registry: registry.snapshots.create("acme"),
    "clone": lambda registry: registry.clone("acme", "other"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_damaged_tenant_is_quarantined(
    registry: TenantRegistry, call: Callable[[TenantRegistry], Awaitable[object]]
):
    """Whatever call meets the damage first, it is told what it is, and the tenant is quarantined with the reason."""
    with pytest.raises((TenantQuarantinedError, DatabaseCorruptError), match="malformed database schema"):
        await call(registry)
    tenant = await registry.get("acme")
    assert tenant.state == "quarantined"
    assert "malformed database schema" in str(tenant.reason)
    with pytest.raises(DatabaseCorruptError, match="restore a snapshot"):
        await registry.repair("acme")


async def test_damage_under_an_open_tenant(data_dir: Path):
    """A tenant that is open for reading while its file is damaged by hand is quarantined by its next call."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as first:
        await first.create("acme")
        await first.tenant("acme").messages.save(make_message())
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        messages = registry.tenant("acme").messages
        assert len(await messages.get_history("general")) == 1
        damage_schema(database_path(data_dir, "acme"))
        with pytest.raises((DatabaseCorruptError, TenantQuarantinedError)):
            await messages.get_history("general")
        async with asyncio.timeout(HANG_SECONDS):
            while (await registry.get("acme")).state != "quarantined":  # noqa: ASYNC110  # a task of the pool does it
                await asyncio.sleep(0)
        with pytest.raises(TenantQuarantinedError):
            await messages.save(make_message())


@pytest.mark.parametrize(
    "work",
    [
        *(maintenance.compact, maintenance.checkpoint, integrity.check, integrity.check_closed),
        *(maintenance.repair, maintenance.use_rollback_journal, read_closed_owner),
    ],
)
def test_work_on_a_closed_database(tmp_path: Path, work: Callable[[Path], Any]):
    """Every look at a file, and all work on it, says that it is damaged and what SQLite's message was."""
    path = tmp_path / "a.db"
    query(path, "CREATE TABLE messages (n)")
    damage_schema(path)
    with pytest.raises(DatabaseCorruptError, match="malformed database schema"):
        work(path)
    assert integrity.read_closed_versions(path) is None


async def test_a_caller_cannot_have_its_tenant_quarantined(tmp_path: Path):
    """A message of SQLite that quotes a caller's bytes is that caller's error, in every kind of call, and nobody else's."""
    insert = run("INSERT INTO found VALUES ('kept')")
    bad = rows("SELECT * FROM found WHERE found MATCH CAST(? AS TEXT)", b"\xff: a")
    async with open_store(
        SQLiteOptions(path=tmp_path / "a.db"), "CREATE VIRTUAL TABLE found USING fts5 (body)"
    ) as store:
        outcomes = await store.write([(insert,), (bad,), (insert, bad), (insert,)])
        assert [outcomes[0], outcomes[3]] == [[None], [None]]
        transaction = await store.begin()
        refused = [*outcomes[1:3], *await store.read([bad, bad]), await transaction.read(bad)]
        await transaction.rollback()
        for outcome in refused:
            assert type(outcome) is QueryError
            assert "no such column" in str(outcome)
        assert await store.read([rows("SELECT body FROM found")]) == [[("kept",), ("kept",)]]


async def test_a_text_that_is_none(data_dir: Path):
    """A row with a text that is not UTF-8 fails its reader only, and what the row holds goes into no error and no log."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        for content in ("first", "second"):
            await registry.tenant("acme").messages.save(make_message(content))
    query(
        database_path(data_dir, "acme"),
        "UPDATE messages SET content = CAST(x'736563726574ff' AS TEXT) WHERE content = 'first'",
    )
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        tenant = registry.tenant("acme")
        with capture_logs() as logs, pytest.raises(QueryError, match="column 'content'") as caught:
            await tenant.messages.get_history("general")
        assert "secret" not in json.dumps([str(caught.value), logs], default=str)
        unit = (
            run(
                "UPDATE messages SET content = 'mended' WHERE typeof(content) = 'text' AND content <> 'second'"
            ),
        )
        await tenant.repository(Repository).write(*unit)
        assert (await registry.get("acme")).state == "active"
        assert len(await tenant.messages.get_history("general")) == 2
    assert stored_contents(data_dir, "acme") == ["mended", "second"]
