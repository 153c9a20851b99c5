"""A catalog moves between the data directory and a database, with all its rows and the audit's chain, or stays where it is."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import moved_catalogs
from catalogs import AUDIT_TRIGGERS, PostgresCatalog, SQLiteCatalog
from moved_catalogs import STEPS, contents, fill
from older_catalogs import make_older
from postgres_servers import Database, PostgresServer
from tenantry import CatalogMovedError, RegistryConfig, TenantRegistry
from tenantry.errors import (
    BackendNotConfiguredError,
    DataDirectoryError,
    MigrationError,
    PersistenceConnectionError,
    SettingsError,
    SnapshotError,
)
from tenantry.postgres_config import PostgresConfig
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.tenancy.catalog_move.move import Observer
from tenantry.tenancy.catalog_move.run import move_catalog, setting_after
from tenantry.tenancy.catalog_move.tables import TABLES
from tenants import HANG_SECONDS, make_message

DERIVED = {"tenant_states", "admin_audit_head", "catalog_move"}
"""Tables that a move does not copy."""

OWN = {"schema_migrations", "tenantry_owner", "tenantry_batches", "tenantry_idempotency"}
"""Tables of every database of tenantry, which belong to the back end."""


@pytest.fixture
def in_files(data_dir: Path) -> RegistryConfig:
    """Settings with the catalog in the data directory."""
    return RegistryConfig(data_dir=data_dir, open_tenants_max=4)


@pytest.fixture
def in_database(data_dir: Path, postgres_database: Database) -> RegistryConfig:
    """Settings with the catalog in a database; the tenants stay in files."""
    return config_of(data_dir, postgres_database)


def config_of(data_dir: Path, database: Database, **fields: Any) -> RegistryConfig:
    """Return settings with the catalog in a database."""
    return RegistryConfig(
        data_dir=data_dir, open_tenants_max=4, database=database.url, default_backend="sqlite", **fields
    )


def kill_after(step: str, config: RegistryConfig, url: str, to: str) -> None:
    """Move the catalog in another process that dies after a step."""
    settings = {"data_dir": str(config.data_dir), "database": url, "default_backend": "sqlite"}
    ended = subprocess.run(
        [sys.executable, moved_catalogs.__file__, json.dumps(settings), to, step],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


class TestMove:
    """A move that succeeds."""

    async def test_to_a_database_and_back(self, in_files: RegistryConfig, in_database: RegistryConfig):
        """All rows are there on each side, the audit's chain is intact, and triggers work on."""
        await fill(in_files)
        before = await contents(in_files)
        report = await move_catalog(in_database, "postgres")
        assert (report.from_backend, report.to_backend, report.rows["tenants"]) == ("sqlite", "postgres", 4)
        assert await contents(in_database) == before
        async with TenantRegistry(in_database) as registry:
            await registry.resume("globex")
            await registry.rename("globex", "globex-2")
            assert [key.tenants for key in await registry.keys.list()] == [("acme-2", "globex-2"), None]
        before = await contents(in_database)
        report = await move_catalog(in_database, "sqlite")
        assert (report.from_backend, report.to_backend) == ("postgres", "sqlite")
        assert await contents(in_files) == before
        await move_catalog(in_database, "postgres")  # over the copy of the first move
        assert await contents(in_database) == before

    async def test_on_each_server(self, in_files: RegistryConfig, each_postgres_database: Database):
        """All versions of the server, and one behind a pooler: there, back, and there again over the former copy."""
        await fill(in_files)
        before = await contents(in_files)
        in_database = config_of(in_files.data_dir, each_postgres_database)
        for to, config in (("postgres", in_database), ("sqlite", in_files), ("postgres", in_database)):
            await move_catalog(in_database, to)
            assert await contents(config) == before

    async def test_it_is_audited_once(self, in_files: RegistryConfig, in_database: RegistryConfig):
        """The row is in the new catalog only, and a repeated move is done already."""
        await fill(in_files)
        await move_catalog(in_database, "postgres", by="ann")
        assert (await move_catalog(in_database, "postgres")).was_done_before
        async with TenantRegistry(in_database) as registry:
            moves = [one for one in await registry.audit.list() if one.action == "catalog.move"]
        assert [(one.principal, one.detail["to"]) for one in moves] == [("ann", "postgres")]

    async def test_progress(self, in_files: RegistryConfig, in_database: RegistryConfig):
        """The number of copied rows rises to the number of all rows."""
        await fill(in_files)
        seen: list[tuple[int, int]] = []
        report = await move_catalog(
            in_database, "postgres", observer=Observer(report_rows=lambda *n: seen.append(n))
        )
        assert seen == sorted(seen)
        assert seen[-1] == (sum(report.rows.values()),) * 2

    async def test_to_another_database(self, in_files: RegistryConfig, postgres_server: PostgresServer):
        """From the data directory to a database of another name, whose address TENANTRY_DATABASE then gets."""
        await fill(in_files)
        before = await contents(in_files)
        with postgres_server.database() as other:
            config = RegistryConfig(data_dir=in_files.data_dir, databases={"east": other.url})
            report = await move_catalog(config, "east")
            assert "TENANTRY_DATABASE" in setting_after(report)
            with pytest.raises(CatalogMovedError, match="set TENANTRY_DATABASE"):
                await TenantRegistry(in_files).open()
            assert await contents(config_of(in_files.data_dir, other)) == before

    async def test_a_dry_run_changes_nothing(
        self, in_files: RegistryConfig, in_database: RegistryConfig, postgres_database: Database
    ):
        """It counts the rows, and creates no schema; after a move it says that nothing is left to do."""
        await fill(in_files)
        report = await move_catalog(in_database, "postgres", is_dry_run=True)
        assert (report.is_dry_run, report.rows["tenants"]) == (True, 4)
        with psycopg.connect(postgres_database.direct_url) as connection:
            found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'tenantry'").fetchone()
        assert found is None
        await move_catalog(in_database, "postgres")
        assert (await move_catalog(in_database, "postgres", is_dry_run=True)).was_done_before


class TestOpening:
    """Who may open which of the two databases."""

    async def test_the_old_catalog_is_refused(
        self, tmp_path: Path, in_files: RegistryConfig, in_database: RegistryConfig
    ):
        """The error says where the catalog is, and which setting to use."""
        await fill(in_files)
        await move_catalog(in_database, "postgres")
        with pytest.raises(CatalogMovedError, match=r"set TENANTRY_DATABASE .* RegistryConfig") as caught:
            await TenantRegistry(in_files).open()
        assert (caught.value.backend, "/test_" in caught.value.place) == ("postgres", True)
        await move_catalog(in_database, "sqlite")
        with pytest.raises(DataDirectoryError, match="unset TENANTRY_DATABASE"):
            await TenantRegistry(in_database).open()
        elsewhere = in_database.model_copy(update={"data_dir": tmp_path / "elsewhere"})
        with pytest.raises(CatalogMovedError, match="unset TENANTRY_DATABASE"):
            await TenantRegistry(elsewhere).open()

    async def test_a_catalog_that_was_not_moved(self, in_files: RegistryConfig, in_database: RegistryConfig):
        """Whoever sets TENANTRY_DATABASE and forgets the move is told to move; a catalog without tenants is no obstacle."""
        async with TenantRegistry(in_files):
            pass
        async with TenantRegistry(in_database):
            pass
        await fill(in_files)
        with pytest.raises(DataDirectoryError, match="catalog move --to postgres"):
            await TenantRegistry(in_database).open()

    async def test_a_registry_that_is_open_elsewhere(
        self, tmp_path: Path, in_database: RegistryConfig, postgres_database: Database
    ):
        """On another machine it gets the error at its next poll or write, and its write is nowhere."""
        elsewhere = config_of(tmp_path / "elsewhere", postgres_database, catalog_poll_interval_seconds=1)
        await fill(in_database)
        async with TenantRegistry(elsewhere) as registry:
            key = await registry.keys.create(name="late")
            await move_catalog(in_database, "sqlite")
            with pytest.raises(CatalogMovedError):
                await registry.suspend("acme-2")
            with pytest.raises(CatalogMovedError):
                await registry.keys.authenticate(key.token)
        async with TenantRegistry(RegistryConfig(data_dir=in_database.data_dir)) as registry:
            assert (await registry.get("acme-2")).state == "active"

    async def test_tenants_that_are_open_elsewhere(
        self, tmp_path: Path, in_database: RegistryConfig, postgres_server: PostgresServer
    ):
        """A process that still serves tenants of the old catalog closes them at its next poll: it would miss their states."""
        with postgres_server.database() as other:
            config = in_database.model_copy(update={"databases": {"east": PostgresConfig(url=other.url)}})  # type: ignore[arg-type]
            elsewhere = config.model_copy(update={"data_dir": tmp_path / "elsewhere"})
            async with TenantRegistry(elsewhere) as registry:
                await registry.create("acme", backend="east")
                acme = registry.tenant("acme")
                await acme.messages.save(make_message("before"))
                await move_catalog(config, "sqlite")
                with pytest.raises(CatalogMovedError):
                    await registry._parts.periodic_tasks.refresh()
                await registry._parts.periodic_tasks.wait_background()
                with pytest.raises(CatalogMovedError):
                    await acme.messages.save(make_message("after"))
            files = RegistryConfig(data_dir=config.data_dir, databases={"east": other.url})
            async with TenantRegistry(files) as registry:
                found = await registry.tenant("acme").messages.get_history("general")
            assert [message.content for message in found] == ["before"]


class TestCrashes:
    """``kill -9`` after each step: one of the two is the catalog, and a repeated move completes the move."""

    @pytest.mark.parametrize("to", ["postgres", "sqlite"])
    @pytest.mark.parametrize("step", STEPS)
    async def test_killed(
        self,
        in_files: RegistryConfig,
        in_database: RegistryConfig,
        postgres_database: Database,
        step: str,
        to: str,
    ):
        """Before the old catalog's mark it serves on, also with what is written then; after it only the new one serves."""
        old, new = (in_files, in_database) if to == "postgres" else (in_database, in_files)
        await fill(old)
        await asyncio.to_thread(kill_after, step, in_files, postgres_database.url, to)
        if step in {"copied", "arrived"}:
            async with TenantRegistry(old) as registry:
                await registry.create("late")
            before = await contents(old)
        else:
            with pytest.raises((CatalogMovedError, DataDirectoryError)):
                await TenantRegistry(old).open()
            before = None
        if step in {"arrived", "left"}:
            with pytest.raises((CatalogMovedError, DataDirectoryError), match="catalog move"):
                await TenantRegistry(new).open()
        report = await move_catalog(in_database, to)
        assert report.was_done_before is (step in {"left", "confirmed"})
        after = await contents(new)
        assert after["is_intact"]
        assert before is None or after == before
        async with TenantRegistry(new) as registry:
            assert [one.action for one in await registry.audit.list()].count("catalog.move") == 1


class TestRefusals:
    """A move that is refused changes nothing."""

    async def test_an_open_registry(self, in_files: RegistryConfig, in_database: RegistryConfig):
        """The data directory's lock keeps the move out."""
        async with TenantRegistry(in_files) as registry:
            await registry.create("acme")
            with pytest.raises(DataDirectoryError, match="stop the service"):
                await move_catalog(in_database, "postgres")
            await registry.suspend("acme")

    async def test_a_catalog_of_another_deployment(
        self, tmp_path: Path, in_files: RegistryConfig, in_database: RegistryConfig
    ):
        """Its tenants are not overwritten."""
        other = in_database.model_copy(update={"data_dir": tmp_path / "other"})
        async with TenantRegistry(other) as registry:
            await registry.create("theirs")
        await fill(in_files)
        for is_dry_run in (True, False):
            with pytest.raises(SnapshotError, match="another deployment"):
                await move_catalog(in_database, "postgres", is_dry_run=is_dry_run)
        await contents(in_files)
        async with TenantRegistry(other) as registry:
            assert [record.id for record in await registry.list()] == ["theirs"]

    async def test_a_catalog_of_a_newer_tenantry(
        self, in_files: RegistryConfig, in_database: RegistryConfig, postgres_database: Database
    ):
        """A database with a migration that this version does not know is not written."""
        await fill(in_files)
        await move_catalog(in_database, "postgres")
        await move_catalog(in_database, "sqlite")
        PostgresCatalog(postgres_database).query(
            "INSERT INTO schema_migrations SELECT schema, version + 1, name, checksum, applied_at, duration_ms FROM schema_migrations "
            "ORDER BY version DESC LIMIT 1"
        )
        for is_dry_run in (True, False):
            with pytest.raises(MigrationError, match="newer"):
                await move_catalog(in_database, "postgres", is_dry_run=is_dry_run)
        await contents(in_files)

    async def test_a_dry_run_on_a_catalog_of_an_older_tenantry(
        self,
        in_files: RegistryConfig,
        in_database: RegistryConfig,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """It would have to migrate the catalog first, which a move does and a dry run does not."""
        async with TenantRegistry(in_files) as registry:
            await registry.create("acme")
        await make_older(in_files.data_dir, 5, tmp_path / "packs", monkeypatch)
        with pytest.raises(MigrationError, match="without --dry-run"):
            await move_catalog(in_database, "postgres", is_dry_run=True)
        report = await move_catalog(in_database, "postgres")
        assert report.rows["tenants"] == 1

    async def test_a_running_operation_of_another_machine(
        self, tmp_path: Path, in_database: RegistryConfig, postgres_database: Database
    ):
        """An operation holds its lock in the database, wherever it runs."""
        elsewhere = config_of(tmp_path / "elsewhere", postgres_database)
        await fill(in_database)
        async with TenantRegistry(elsewhere) as registry:
            record = await registry.get("acme-2")
            intent = '{"action": "archive", "arguments": {}, "begun_at": "2026-01-01T00:00:00Z"}'
            async with registry._parts.runner.lock(record, "archive"):
                PostgresCatalog(postgres_database).query(
                    "UPDATE tenants SET intent = ? WHERE id = 'acme-2'", intent
                )
                with pytest.raises(PersistenceConnectionError, match="an operation on tenant 'acme-2'"):
                    await move_catalog(in_database, "sqlite")

    async def test_tenants_that_would_lose_their_back_end(self, data_dir: Path, postgres_database: Database):
        """Tenants of TENANTRY_DATABASE keep the catalog there, because that name would mean nothing afterwards."""
        config = RegistryConfig(data_dir=data_dir, database=postgres_database.url)
        async with TenantRegistry(config) as registry:
            await registry.create("acme")
        with pytest.raises(SettingsError, match="tenant move"):
            await move_catalog(config, "sqlite")
        async with TenantRegistry(config) as registry:
            assert (await registry.get("acme")).backend == "postgres"

    async def test_arguments(self, in_files: RegistryConfig, in_database: RegistryConfig):
        """An unknown back end, a catalog that is there already, and a directory without a catalog."""
        with pytest.raises(BackendNotConfiguredError):
            await move_catalog(in_files, "east")
        with pytest.raises(SettingsError, match="already"):
            await move_catalog(in_files, "sqlite")
        with pytest.raises(DataDirectoryError, match="nothing to move"):
            await move_catalog(in_database, "postgres")

    @pytest.mark.parametrize(
        ("statement", "problem"),
        [
            ("UPDATE admin_audit SET actor = 'mallory' WHERE seq = 2", "row 2 was altered"),
            ("DELETE FROM admin_audit WHERE seq = 3", "row 3 is missing"),
        ],
    )
    async def test_an_audit_with_a_broken_chain(
        self, in_files: RegistryConfig, in_database: RegistryConfig, statement: str, problem: str
    ):
        """A move neither hides that a row was altered or removed, nor fails half way."""
        await fill(in_files)
        files = SQLiteCatalog(in_files.data_dir)
        for trigger in AUDIT_TRIGGERS:
            files.drop_trigger(trigger, "admin_audit")
        files.query(statement)
        with pytest.raises(SnapshotError, match=problem):
            await move_catalog(in_database, "postgres")
        async with TenantRegistry(in_files) as registry:
            assert len(await registry.list()) == 3

    async def test_a_row_that_the_database_refuses(
        self, in_files: RegistryConfig, in_database: RegistryConfig
    ):
        """PostgreSQL stores no NUL in a text: the error names the table, and the catalog stays where it is."""
        await fill(in_files)
        SQLiteCatalog(in_files.data_dir).query(
            "UPDATE tenants SET reason = 'a' || char(0) WHERE id = 'globex'"
        )
        with pytest.raises(SnapshotError, match="table tenants cannot be copied"):
            await move_catalog(in_database, "postgres")
        async with TenantRegistry(in_files) as registry:
            assert len(await registry.list()) == 3


async def test_every_table_is_copied(
    in_files: RegistryConfig, in_database: RegistryConfig, data_dir: Path, postgres_database: Database
):
    """The list of tables and columns is that of the migrations, on both back ends."""
    copied = {table.name: set(table.columns) for table in TABLES}
    for config in (in_files, in_database):
        async with TenantRegistry(config):
            pass
    files, database = SQLiteCatalog(data_dir), PostgresCatalog(postgres_database)
    names = {name for (name,) in files.query("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    sqlite = {name: columns(files.query, "SELECT name FROM pragma_table_info(?)", name) for name in names}
    sqlite["tenants"].discard("directory")  # for processes of an older version, which use no database
    rows = database.query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'tenantry'")
    listed = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'tenantry' AND table_name = ?"
    postgres = {name: columns(database.query, listed, name) for (name,) in rows}
    for found in (sqlite, postgres):
        mine = {name: one for name, one in found.items() if name not in OWN | DERIVED}
        assert {name: one for name, one in mine.items() if not re.match("sqlite_", name)} == copied
    assert [m.name for m in CATALOG.migrations("sqlite")] == [m.name for m in CATALOG.migrations("postgres")]


def columns(query: Callable[..., list[tuple[Any, ...]]], sql: str, table: str) -> set[str]:
    """Return the names of a table's columns."""
    return {name for (name,) in query(sql, table)}


async def test_a_registry_without_the_database_makes_no_second_catalog(
    in_database: RegistryConfig, in_files: RegistryConfig
):
    """A program that does not read the setting is told where the catalog is, and nothing is made."""
    async with TenantRegistry(in_database):
        pass
    with pytest.raises(DataDirectoryError, match=r"is in the database .*set TENANTRY_DATABASE"):
        await TenantRegistry(in_files).open()
    assert not (in_files.data_dir / "catalog.db").exists()
    (in_files.data_dir / "catalog-place").unlink()  # as the message says
    async with TenantRegistry(in_files) as registry:
        await registry.create("acme")
