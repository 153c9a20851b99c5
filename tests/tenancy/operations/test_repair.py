"""Repair: a quarantined tenant's way back."""

# tests look at files in between; nobody waits for them

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from operators import bring_to, config, contents, spoil
from registries import limited
from tenantry import (
    Schema,
    TenantRegistry,
    TenantState,
)
from tenantry.company import COMPANY
from tenantry.errors import (
    DatabaseCorruptError,
    MigrationError,
    QueryError,
    TenantQuarantinedError,
    TenantSuspendedError,
)
from tenantry.storage.sqlite.limits import SQLiteLimits
from tenants import (
    damage_index,
    database_path,
    held_writer,
    query,
    write_pack,
)

PACKAGES = (f"lifecycle_pack_{number}" for number in itertools.count())


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes a schema named ``pack`` of one migration, each in a package of its own."""
    monkeypatch.syspath_prepend(tmp_path / "packs")

    def make(sql: str) -> Schema:
        return Schema("pack", write_pack(tmp_path / "packs", next(PACKAGES), sql))

    return make


def query_with_sha256(path: Path, sql: str) -> None:
    """Run a statement on a database whose index calls ``sha256``."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("sha256", 1, str, deterministic=True)
        connection.execute(sql)


class TestRepair:
    """A quarantined tenant's way back."""

    async def test_a_damaged_index_is_built_anew(self, data_dir: Path):
        """What an index has lost is found again, the tenant serves, and says which schemas it is at."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.QUARANTINED)
        damage_index(database_path(data_dir, "acme"), "messages_channel", b"general")
        async with TenantRegistry(config(data_dir)) as registry:
            repaired = await registry.repair("acme")
            assert (repaired.state, repaired.reason, repaired.intent) == (TenantState.ACTIVE, None, None)
            assert repaired.schema_versions == {"company": 1}
            assert await contents(registry.tenant("acme")) == ["of acme"]
            assert await registry.repair("acme") == repaired
        assert query(database_path(data_dir, "acme"), "PRAGMA integrity_check") == [("ok",)]

    @pytest.mark.parametrize("way", ["damaged", "no database", "missing", "empty"])
    async def test_beyond_repair(self, data_dir: Path, way: str):
        """It stays quarantined for the reason that it was, and its file as it is; the error advises a snapshot."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.QUARANTINED)
            before = await registry.get("acme")
            path = database_path(data_dir, "acme")
            if way == "damaged":
                spoil(path)
            elif way == "missing":
                path.unlink()
            else:
                path.write_bytes(b"no database " * 500 if way == "no database" else b"")
            left = path.read_bytes() if path.exists() else None
            for _ in range(2):
                with pytest.raises(DatabaseCorruptError, match="restore a snapshot"):
                    await registry.repair("acme")
            after = await registry.get("acme")
            assert after == before.model_copy(update={"revision": after.revision})
            with pytest.raises(TenantQuarantinedError, match=r"quarantined \(odd\)"):
                await contents(registry.tenant("acme"))
            assert (path.read_bytes() if path.exists() else None) == left
            assert registry.tenant("acme").statistics() is None

    async def test_a_migration_that_fails_still(self, data_dir: Path, packs: Any):
        """The tenant stays quarantined until the migration is mended; then repairing applies it."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.ACTIVE)
        async with TenantRegistry(config(data_dir), schemas=[COMPANY, packs("CREATE nonsense;")]) as registry:
            with pytest.raises(TenantQuarantinedError):
                await contents(registry.tenant("acme"))
            before = await registry.get("acme")
            with pytest.raises(MigrationError):
                await registry.repair("acme")
            after = await registry.get("acme")
            assert (after.state, after.reason) == (TenantState.QUARANTINED, before.reason)
        async with TenantRegistry(
            config(data_dir), schemas=[COMPANY, packs("CREATE TABLE t (n);")]
        ) as registry:
            assert (await registry.repair("acme")).schema_versions == {"company": 1, "pack": 1}
            assert await contents(registry.tenant("acme")) == ["of acme"]

    async def test_an_index_that_calls_our_functions(self, data_dir: Path, packs: Any):
        """What the tenant's own connections can compute, repairing and compacting can too."""
        pack = packs("CREATE TABLE t (n TEXT); CREATE INDEX t_digest ON t (sha256(n));")
        async with TenantRegistry(config(data_dir), schemas=[COMPANY, pack]) as registry:
            await bring_to(registry, TenantState.QUARANTINED)
            query_with_sha256(database_path(data_dir, "acme"), "INSERT INTO t VALUES ('x')")
            await registry.repair("acme")
            await registry.archive("acme")
            assert (await registry.unarchive("acme")).state is TenantState.ACTIVE

    async def test_a_file_that_is_busy_is_not_beyond_repair(self, registry: TenantRegistry, data_dir: Path):
        """What the moment refuses is not called damage, whose cure, an old snapshot, would cost data."""
        limited(registry, SQLiteLimits(repair_busy_seconds=0.0))
        await bring_to(registry, TenantState.QUARANTINED)
        damage_index(database_path(data_dir, "acme"), "messages_channel", b"general")
        with (
            held_writer(database_path(data_dir, "acme")),
            pytest.raises(QueryError, match="SQLITE_BUSY") as caught,
        ):
            await registry.repair("acme")
        assert caught.value.is_transient
        assert (await registry.repair("acme")).state is TenantState.ACTIVE

    async def test_only_a_quarantined_tenant(self, registry: TenantRegistry):
        """An active one stays as it is, and the audit says that nothing was checked; others are refused."""
        await bring_to(registry, TenantState.QUARANTINED)
        await registry.repair("acme")
        assert (await registry.repair("acme")).state is TenantState.ACTIVE
        repeated, first = (await registry.audit.list(tenant_id="acme"))[:2]
        assert (repeated.action, repeated.outcome, repeated.detail) == ("repair", "ok", {"is_checked": False})
        assert (first.action, first.outcome, first.detail) == ("repair", "ok", {})
        await registry.suspend("acme")
        with pytest.raises(TenantSuspendedError, match="repair is not possible"):
            await registry.repair("acme")
