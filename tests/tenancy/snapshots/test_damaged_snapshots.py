"""What is kept of a tenant is never trusted: every damage is found before it is used."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from forgeries import forge_snapshot
from snapshots import kept_files, spoil_page
from stores import run
from tenantry import Repository, TenantRegistry, TenantState
from tenantry.errors import (
    DatabaseCorruptError,
    SnapshotCorruptError,
    SnapshotError,
    TenantNotFoundError,
    TenantryError,
)
from tenants import (
    database_path,
    history,
    make_message,
    query,
    say,
)

pytestmark = pytest.mark.unmeasured


def bytes_read() -> int:
    """Return how many bytes this process has read from files until now (proc_pid_io(5))."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def remove_message(database: Path) -> None:
    """Remove a message from a database, by hand."""
    query(database, "DELETE FROM messages WHERE seq = 1")


class TestFlippedBytes:
    """What is kept is never trusted."""

    async def test_one_hides_no_other(self, registry: TenantRegistry, data_dir: Path):
        """A damaged manifest is named, and all others can be seen and restored; it can be deleted."""
        await registry.create("acme")
        made = [await registry.snapshots.create("acme") for _ in range(3)]
        path = next(path for path in kept_files(data_dir) if path.name == f"{made[1].id}.json")
        path.write_bytes(path.read_bytes().replace(b"acme", b"acne", 1))
        kept = await registry.snapshots.look("acme")
        assert (kept.sound, kept.damaged) == ([made[2], made[0]], [made[1].id])
        assert await registry.snapshots.list("acme") == kept.sound
        with pytest.raises(SnapshotCorruptError, match=made[1].id):
            await registry.snapshots.get("acme", made[1].id)
        await registry.snapshots.restore("acme", made[0].id)
        await registry.snapshots.delete("acme", made[1].id)
        assert (await registry.snapshots.look("acme")).damaged == []

    async def test_each_digest_and_check_is_made_once(self, registry: TenantRegistry):
        """To clone a snapshot, its object is fetched and decompressed, and SQLite's check reads pages and rows: nothing is read again."""
        await registry.create("acme")
        messages = [make_message(random.Random(number).randbytes(300).hex()) for number in range(5000)]
        await registry.tenant("acme").messages.save_many(messages)
        snapshot = await registry.snapshots.create("acme")
        before = bytes_read()
        await registry.clone("acme", "globex", snapshot.id)
        needed = 2 * snapshot.stored_bytes + 2 * snapshot.database_bytes
        assert bytes_read() - before < needed

    @pytest.mark.parametrize("suffix", [".json", ".db.gz"])
    async def test_any_byte(self, registry: TenantRegistry, data_dir: Path, suffix: str):
        """A flipped bit anywhere in a snapshot or its manifest is found before anything changes."""
        await registry.create("acme")
        await say(registry, "acme", "one")
        snapshot = await registry.snapshots.create("acme")
        await say(registry, "acme", "two")
        (path,) = [path for path in kept_files(data_dir) if path.name.endswith(suffix)]
        sound = path.read_bytes()
        step = max(1, len(sound) // 60)
        for place in [*range(0, len(sound), step), len(sound) - 1]:
            spoiled = bytearray(sound)
            spoiled[place] ^= 1 << (place % 8)
            path.write_bytes(spoiled)
            with pytest.raises(SnapshotCorruptError):
                await registry.snapshots.restore("acme", snapshot.id)
            with pytest.raises(SnapshotCorruptError):
                await registry.clone("acme", "globex", snapshot.id)
        assert await history(registry, "acme") == ["one", "two"]
        with pytest.raises(TenantNotFoundError):
            await registry.get("globex")
        path.write_bytes(sound)
        await registry.snapshots.restore("acme", snapshot.id)
        assert await history(registry, "acme") == ["one"]

    @pytest.mark.parametrize(
        ("change", "error"),
        [(spoil_page, DatabaseCorruptError), (remove_message, SnapshotCorruptError)],
        ids=["a damaged page", "a row less"],
    )
    async def test_a_forgery(
        self,
        registry: TenantRegistry,
        data_dir: Path,
        change: Callable[[Path], object],
        error: type[TenantryError],
    ):
        """A snapshot whose digests are all right is refused for what is in its database, before anything changes."""
        await registry.create("acme")
        await registry.tenant("acme").messages.save_many([make_message("x" * 500) for _ in range(200)])
        snapshot = await registry.snapshots.create("acme")
        await say(registry, "acme", "two")
        (manifest,) = [path for path in kept_files(data_dir) if path.suffix == ".json"]
        forge_snapshot(manifest, change)
        for call in (
            registry.snapshots.restore("acme", snapshot.id),
            registry.clone("acme", "globex", snapshot.id),
        ):
            with pytest.raises(error):
                await call
        assert len(await history(registry, "acme")) > 200
        assert (await registry.get("acme")).state is TenantState.ACTIVE
        assert not (await registry.snapshots.drill()).is_ok


class TestDatabaseOfAnotherTenant:
    """What is kept of a tenant may only be its own data, whatever the digests say."""

    async def test_in_a_snapshot(self, registry: TenantRegistry, data_dir: Path):
        """A snapshot whose manifest fits another tenant's database is neither restored nor cloned, and the drill reports it."""
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await say(registry, tenant_id, f"of {tenant_id}")
        snapshot = await registry.snapshots.create("acme")
        await registry.snapshots.create("globex")
        uid = (await registry.get("globex")).uid
        (others,) = (data_dir / "snapshots" / uid).glob("*.db.gz")
        (manifest,) = [path for path in kept_files(data_dir) if path.name == f"{snapshot.id}.json"]
        forge_snapshot(manifest, lambda path: path.write_bytes(gzip.decompress(others.read_bytes())))
        with pytest.raises(SnapshotCorruptError, match="another tenant"):
            await registry.snapshots.restore("acme", snapshot.id)
        with pytest.raises(SnapshotCorruptError, match="another tenant"):
            await registry.clone("acme", "copy", snapshot.id)
        assert await registry.find("copy") is None
        results = {result.tenant_id: result.outcome for result in (await registry.snapshots.drill()).results}
        assert results == {"acme": "corrupt", "globex": "ok"}

    @pytest.mark.parametrize("action", ["undo_restore", "restore"])
    async def test_in_a_restore_point(self, registry: TenantRegistry, data_dir: Path, action: str):
        """A restore point with another tenant's database is refused before the tenant changes."""
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await say(registry, tenant_id, f"of {tenant_id}")
            await registry.snapshots.restore(tenant_id, (await registry.snapshots.create(tenant_id)).id)
        before = await registry.get("acme")
        assert before.restore_point is not None
        kept, others = [
            next((database_path(data_dir, tenant_id).parent / "points").glob("*/tenant.db"))
            for tenant_id in ("acme", "globex")
        ]
        kept.write_bytes(others.read_bytes())
        arguments = {"undo_restore": (), "restore": (before.restore_point,)}[action]
        with pytest.raises(SnapshotCorruptError, match="another tenant"):
            await getattr(registry.snapshots, action)("acme", *arguments)
        assert await registry.get("acme") == before
        assert await history(registry, "acme") == ["of acme"]


class TestDrill:
    """Whether backups restore is known before they are needed."""

    async def test_the_report(self, registry: TenantRegistry, data_dir: Path):
        """Every tenant of the sample is in it: the sound, the damaged, and the one without a snapshot."""
        for tenant_id in ("sound", "damaged", "without"):
            await registry.create(tenant_id)
        await registry.snapshots.create("sound")
        assert not (await registry.snapshots.drill()).is_ok
        await registry.snapshots.create("damaged")
        damaged = next((data_dir / "snapshots" / (await registry.get("damaged")).uid).glob("*.gz"))
        damaged.write_bytes(damaged.read_bytes()[:-1])
        report = await registry.snapshots.drill(sample=10)
        outcomes = {result.tenant_id: result.outcome for result in report.results}
        assert outcomes == {"sound": "ok", "damaged": "corrupt", "without": "not_found"}
        (sound,) = [result for result in report.results if result.tenant_id == "sound"]
        assert sound.snapshot_id is not None
        assert sound.age_seconds is not None
        assert len((await registry.snapshots.drill(sample=2)).results) == 2
        for tenant_id in ("damaged", "without"):
            await registry.snapshots.create(tenant_id)
        assert (await registry.snapshots.drill()).is_ok


@pytest.mark.parametrize("call", ["snapshot", "clone", "export"])
async def test_a_virtual_table_that_cannot_be_read(registry: TenantRegistry, tmp_path: Path, call: str):
    """A copy fails with the name of the table that a rename made unreadable; the tenant is sound and serves on."""
    await registry.create("acme")
    acme = registry.tenant("acme").repository(Repository)
    await acme.write(
        run("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)"),
        run("CREATE VIRTUAL TABLE found USING fts5 (body, content = 'notes', content_rowid = 'id')"),
    )
    await acme.write(run("ALTER TABLE notes RENAME TO remarks"))
    calls = {
        "snapshot": lambda: registry.snapshots.create("acme"),
        "clone": lambda: registry.clone("acme", "other"),
        "export": lambda: registry.export("acme", tmp_path / "acme.tar.gz"),
    }
    with pytest.raises(SnapshotError, match=r"table 'found' .* cannot be read") as caught:
        await calls[call]()
    assert "damaged" not in str(caught.value)
    await acme.write(run("DROP TABLE found"))
    await calls[call]()
    assert (await registry.get("acme")).state is TenantState.ACTIVE
