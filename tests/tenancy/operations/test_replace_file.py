"""A plain file in the place of a tenant's database: put there by a call, and never mixed with the log of another database."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import document, tenantry
from others import other_process
from registries import limited
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.doctor import examine
from tenantry.errors import (
    DatabaseCorruptError,
    ForeignSchemaError,
    SnapshotCorruptError,
    SnapshotError,
    TenantQuarantinedError,
    TenantStateError,
)
from tenantry.files.digests import file_sha256
from tenantry.storage.sqlite.database_files.database_file import log_of
from tenantry.storage.sqlite.limits import SQLiteLimits
from tenants import database_path, history, query, say, stored_contents

Put = Callable[[Path, Path], object]


def opened(data_dir: Path) -> TenantRegistry:
    """Return a registry on the directory, not yet open."""
    return TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=4))


@pytest.fixture
async def older(data_dir: Path, tmp_path: Path) -> Path:
    """A plain file with an older state of acme, whose owner has closed it and has written more since."""
    async with opened(data_dir) as registry:
        await registry.create("acme")
        await say(registry, "acme", "one", "two")
    shutil.copy(database_path(data_dir, "acme"), tmp_path / "older.db")
    async with opened(data_dir) as registry:
        await say(registry, "acme", "three")
    async with opened(data_dir) as registry:
        await say(registry, "acme", "four")
    return tmp_path / "older.db"


@pytest.fixture
def killed(data_dir: Path, older: Path) -> Path:
    """The database of acme, whose owner was killed and left a log beside it."""
    assert older.exists()
    database = database_path(data_dir, "acme")
    with other_process(data_dir) as other:
        assert other.do("save", "acme", "five") == "ok"
        other.kill()
    assert log_of(database).stat().st_size
    return database


def contents(database: Path) -> tuple[bytes, bytes]:
    """Return the bytes of a database and of its log."""
    return database.read_bytes(), log_of(database).read_bytes()


def _move(source: Path, database: Path) -> None:
    aside = source.with_name("aside.db")
    shutil.copy(source, aside)
    aside.replace(database)


class TestAForeignLog:
    """What happens to a file that was put in place by hand, beside the log of the database that was there."""

    @pytest.mark.parametrize("put", [_move, shutil.copyfile, shutil.copy2], ids=["mv", "cp", "cp -p"])
    async def test_a_file_beside_the_log_of_another(
        self, data_dir: Path, killed: Path, older: Path, put: Put
    ):
        """The two are not mixed: the tenant is quarantined, repair says why, and what is there stays as it is."""
        put(older, killed)
        before = contents(killed)
        async with opened(data_dir) as registry:
            with pytest.raises(TenantQuarantinedError):
                await history(registry, "acme")
            with pytest.raises(DatabaseCorruptError, match="replace-file"):
                await registry.repair("acme")
            assert contents(killed) == before
            await registry.snapshots.replace_file("acme", older)
            assert await history(registry, "acme") == ["one", "two"]
            [point] = await registry.snapshots.points("acme")
            kept = killed.parent / "points" / point
            assert sorted(path.name for path in kept.iterdir()) == [
                "tenant.db",
                "tenant.db-wal-of-another-database",
            ]
            assert (kept / "tenant.db-wal-of-another-database").read_bytes() == before[1]
            await say(registry, "acme", "new")
            await registry.snapshots.undo_restore("acme")
            assert await history(registry, "acme") == ["one", "two"]

    async def test_what_the_doctor_says(self, data_dir: Path, killed: Path, older: Path):
        """The examination finds it before anybody opens the tenant, and takes a log of its own for what it is."""
        for put, is_wrong in ((None, False), (_move, True)):
            if put is not None:
                put(older, killed)
            before = contents(killed)
            report = await examine(RegistryConfig(data_dir=data_dir))
            found = [finding for finding in report.findings if "replace-file" in finding.to_do]
            assert [finding.subjects for finding in found] == ([("acme",)] if is_wrong else [])
            assert contents(killed) == before

    async def test_a_restore_over_it(self, data_dir: Path, killed: Path, older: Path):
        """A snapshot that is restored over the two keeps them apart too."""
        async with opened(data_dir) as registry:
            taken = await registry.snapshots.create("acme")
        with other_process(data_dir) as other:
            assert other.do("save", "acme", "six") == "ok"
            other.kill()
        _move(older, killed)
        async with opened(data_dir) as registry:
            await registry.snapshots.restore("acme", taken.id)
            assert await history(registry, "acme") == ["one", "two", "three", "four", "five"]
            await registry.snapshots.undo_restore("acme")
            assert await history(registry, "acme") == ["one", "two"]

    async def test_an_archive_of_it(self, data_dir: Path, killed: Path, older: Path):
        """Nor does compacting mix them."""
        _move(older, killed)
        before = contents(killed)
        async with opened(data_dir) as registry:
            with pytest.raises(DatabaseCorruptError, match="was replaced"):
                await registry.archive("acme")
        assert contents(killed) == before

    async def test_a_file_that_was_changed_late(self, data_dir: Path, killed: Path, tmp_path: Path):
        """A file of the same epoch that was copied over the database is found by its time; a touched log says that it was not."""
        shutil.copy2(killed, tmp_path / "same.db")
        shutil.copy2(tmp_path / "same.db", killed)
        async with limited(opened(data_dir), SQLiteLimits(changed_seconds_max=0.0)) as registry:
            await registry.quarantine("acme", reason="a file was put in its place")
            with pytest.raises(DatabaseCorruptError, match="touch"):
                await registry.repair("acme")
            log_of(killed).touch()
            await registry.repair("acme")
            assert await history(registry, "acme") == ["one", "two", "three", "four", "five"]

    async def test_a_log_of_its_own(self, data_dir: Path, killed: Path):
        """A killed owner's log is applied, also after a second kill, and a repair does not mind it."""
        with other_process(data_dir) as other:
            assert other.do("save", "acme", "six") == "ok"
            other.kill()
        assert log_of(killed).stat().st_size
        async with opened(data_dir) as registry:
            await registry.quarantine("acme", reason="to be looked at")
            await registry.repair("acme")
            assert await history(registry, "acme") == ["one", "two", "three", "four", "five", "six"]

    @pytest.mark.usefixtures("killed")
    async def test_a_directory_that_was_copied_as_a_whole(self, data_dir: Path, tmp_path: Path):
        """Database, log and lock of a copy belong together, though each is another file than the original's."""
        copied = Path(shutil.copytree(data_dir, tmp_path / "copied", ignore=shutil.ignore_patterns("peers")))
        async with opened(copied) as registry:
            assert await history(registry, "acme") == ["one", "two", "three", "four", "five"]


class TestReplaceFile:
    """The call itself."""

    async def test_its_way_there_and_back(self, data_dir: Path, killed: Path, older: Path):
        """The old database is kept with its log, as they are, and undone all that was acknowledged is there again."""
        before = contents(killed)
        async with opened(data_dir) as registry:
            await registry.suspend("acme")
            await registry.snapshots.replace_file("acme", older)
            [point] = await registry.snapshots.points("acme")
            assert contents(killed.parent / "points" / point / "tenant.db") == before
            assert (await registry.get("acme")).state is TenantState.SUSPENDED
            await registry.resume("acme")
            assert await history(registry, "acme") == ["one", "two"]
            await registry.snapshots.undo_restore("acme")
            assert await history(registry, "acme") == ["one", "two", "three", "four", "five"]
            entries = [entry for entry in await registry.audit.list() if entry.action == "replace_file"]
            assert [(entry.outcome, entry.detail["path"]) for entry in entries] == [("ok", str(older))]

    async def test_while_it_is_used(self, data_dir: Path, older: Path):
        """An open tenant needs no stop: its calls wait, and go on with the file."""
        async with opened(data_dir) as registry:
            assert await history(registry, "acme") == ["one", "two", "three", "four"]
            await registry.snapshots.replace_file("acme", older)
            await say(registry, "acme", "new")
            assert await history(registry, "acme") == ["one", "two", "new"]

    async def test_a_tenant_without_a_file(self, data_dir: Path, older: Path):
        """One whose database is missing serves calls again."""
        database_path(data_dir, "acme").unlink()
        async with opened(data_dir) as registry:
            with pytest.raises(TenantQuarantinedError):
                await history(registry, "acme")
            replaced = await registry.snapshots.replace_file("acme", older)
            assert (replaced.state, replaced.restore_point) == (TenantState.ACTIVE, None)
            assert await history(registry, "acme") == ["one", "two"]

    async def test_the_file_of_another_tenant(self, data_dir: Path, older: Path):
        """It is refused with whose it is, audited with its digest; with that key given it becomes the tenant's own."""
        sha256 = file_sha256(older)
        async with opened(data_dir) as registry:
            acme, globex = await registry.get("acme"), await registry.create("globex")
            with pytest.raises(SnapshotCorruptError, match=acme.uid):
                await registry.snapshots.replace_file("globex", older)
            [refused] = await registry.audit.list(limit=1)
            assert (refused.outcome, refused.detail["sha256"]) == (SnapshotCorruptError.outcome, sha256)
            await registry.snapshots.replace_file("globex", older, owner=acme.uid)
            messages = await registry.tenant("globex").messages.get_history("general")
            assert [message.content for message in messages] == ["two", "one"]
            [(uid,)] = query(older, "SELECT tenant_uid FROM tenantry_owner")
            assert uid == acme.uid != globex.uid

    @pytest.mark.parametrize(
        ("spoil", "error", "words"),
        [
            (lambda path: log_of(path).write_bytes(b"x"), SnapshotError, "one plain file"),
            (lambda path: path.unlink(), SnapshotError, "one plain file"),
            (lambda path: os.truncate(path, 0), SnapshotError, "one plain file"),
            (
                lambda path: path.write_bytes(b"no database" * 1000),
                DatabaseCorruptError,
                "not an SQLite database",
            ),
            (lambda path: query(path, "DROP TABLE tenantry_owner"), SnapshotCorruptError, "no tenant"),
            (lambda path: query(path, "CREATE TABLE odd (x)"), ForeignSchemaError, "odd"),
        ],
        ids=["a log", "missing", "empty", "no database", "nobody's", "odd"],
    )
    async def test_what_is_refused(
        self, data_dir: Path, older: Path, spoil: Callable[[Path], object], error: type[Exception], words: str
    ):
        """A file that cannot be used is refused, and the tenant is as it was."""
        spoil(older)
        async with opened(data_dir) as registry:
            with pytest.raises(error, match=words) as refused:
                await registry.snapshots.replace_file("acme", older)
            assert "scratch" not in str(refused.value)
            assert await history(registry, "acme") == ["one", "two", "three", "four"]
            assert await registry.snapshots.points("acme") == []

    async def test_accepted_tables(self, data_dir: Path, older: Path):
        """Tables of the tenant's own are accepted by name, and the audit names them."""
        query(older, "CREATE TABLE odd (x)")
        async with opened(data_dir) as registry:
            await registry.snapshots.replace_file("acme", older, accepted_tables=["odd"])
            assert await history(registry, "acme") == ["one", "two"]
            entries = [entry for entry in await registry.audit.list() if entry.action == "replace_file"]
            assert [entry.detail["accepted_tables"] for entry in entries] == [["odd"]]

    async def test_of_a_deleted_tenant(self, data_dir: Path, older: Path):
        """It is refused like a restore."""
        async with opened(data_dir) as registry:
            await registry.delete("acme")
            with pytest.raises(TenantStateError, match="undelete"):
                await registry.snapshots.replace_file("acme", older)


async def test_the_command(data_dir: Path, killed: Path, older: Path):
    """A file is put in place on the command line; one that is not all of a database is refused before it is sent."""
    log_of(older).write_bytes(b"x")
    done = tenantry("tenant", "replace-file", "acme", older, "--data-dir", data_dir, "--yes")
    assert (done.returncode, "older.db-wal exists" in done.stderr) == (2, True)
    log_of(older).unlink()
    sent = document(
        tenantry("tenant", "replace-file", "acme", older, "--data-dir", data_dir, "--yes", "--json")
    )
    assert (sent["id"], sent["state"]) == ("acme", "active")
    assert stored_contents(data_dir, "acme") == ["one", "two"]
    assert log_of(killed).exists() is False
