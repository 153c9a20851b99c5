"""The examination of a data directory: what it finds, and that it changes nothing."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import tenantry
from needs import need
from open_file_limits import open_files_limited_to
from stores import small_disk
from tenantry import RegistryConfig, TenantRegistry
from tenantry.doctor import Level, examine
from tenantry.doctor.machine import file_system_type
from tenantry.errors import PersistenceError
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenants import database_path, make_message, query

pytestmark = pytest.mark.disk

MAY_BE_NOTED = {"SQLite's version", "engine"}
"""The checks whose level depends on the machine's Python, not on the data directory."""

Damage = Callable[[Path], object]


@pytest.fixture
async def left(data_dir: Path) -> Path:
    """A directory with two tenants and a snapshot, whose service has ended."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        await registry.create("globex")
        await registry.snapshots.create("acme")
    return data_dir


def content(data_dir: Path) -> dict[str, tuple[object, ...]]:
    """Return all files and directories with what would tell that they were changed."""
    found = {}
    for path in (data_dir, *data_dir.rglob("*")):
        status = path.lstat()
        body = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_ino, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, body)
    return found


async def levels(data_dir: Path, **settings: int) -> dict[str, Level]:
    """Examine a directory and return the worst level of each check."""
    report = await examine(RegistryConfig(data_dir=data_dir, **settings))
    order = list(Level)
    found: dict[str, Level] = {}
    for finding in report.findings:
        found[finding.check] = max(found.get(finding.check, Level.OK), finding.level, key=order.index)
        assert finding.level is not Level.WRONG or finding.to_do
    assert report.is_ok is (Level.WRONG not in found.values())
    return found


async def test_a_sound_directory(left: Path):
    """Nothing is wrong with a directory that a service has left, and nothing in it is touched."""
    before = content(left)
    found = await levels(left)
    assert {check for check, level in found.items() if level is not Level.OK} <= MAY_BE_NOTED
    assert content(left) == before


async def test_a_directory_in_use(registry: TenantRegistry, data_dir: Path):
    """Nor is with one that is in use, with an open tenant, a write-ahead log and a lock; and its owner goes on."""
    await registry.create("acme")
    acme = registry.tenant("acme")
    await acme.messages.save(make_message("before"))
    assert "tenant.db-wal" in {path.name for path in database_path(data_dir, "acme").parent.iterdir()}
    async with registry.scratch_directory():
        before = content(data_dir)
        # The process goes on while it is examined, and answers.
        done = await asyncio.to_thread(tenantry, "doctor", "--data-dir", data_dir, "--json")
        assert done.returncode == 0, done.stdout
        assert content(data_dir) == before
    await acme.messages.save(make_message("after"))
    assert [message.content for message in await acme.messages.get_history("general")] == ["after", "before"]


def _swap(data_dir: Path) -> None:
    one, other = database_path(data_dir, "acme"), database_path(data_dir, "globex")
    aside = data_dir / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _orphan(data_dir: Path) -> None:
    tenant_paths(data_dir, "nobody").directory.mkdir(mode=0o700, parents=True)
    tenant_paths(data_dir, "nobody").directory.parent.chmod(0o700)


def _leave(path: Path) -> None:
    path.touch(mode=0o600)


def _set(column: str, value: str, tenant_id: str = "acme") -> Damage:
    sql = f"UPDATE tenants SET {column} = ? WHERE id = ?"
    return lambda data_dir: query(data_dir / "catalog.db", sql, value, tenant_id)


def _cut_purge(data_dir: Path) -> None:
    _set("state", "purged", "globex")(data_dir)
    _set("intent", INTENT.replace("archive", "purge"), "globex")(data_dir)


INTENT = json.dumps({"action": "archive", "arguments": {}, "begun_at": "2026-01-01T00:00:00Z"})
DAMAGES: list[tuple[str, str, Level, Damage]] = [
    ("others may read", "permissions", Level.WRONG, lambda d: (d / "catalog.db").chmod(0o640)),
    ("a link", "permissions", Level.WRONG, lambda d: (d / "link").symlink_to(d)),
    ("an orphan", "catalog and files", Level.WRONG, _orphan),
    ("missing", "catalog and files", Level.WRONG, lambda d: database_path(d, "acme").unlink()),
    ("empty", "catalog and files", Level.WRONG, lambda d: os.truncate(database_path(d, "acme"), 0)),
    ("swapped", "catalog and files", Level.WRONG, _swap),
    ("no database", "catalog and files", Level.WRONG, lambda d: database_path(d, "acme").write_bytes(b"x" * 8192)),
    ("quarantined", "quarantine", Level.WRONG, _set("state", "quarantined")),
    ("purged, with files", "catalog and files", Level.WRONG, _set("state", "purged", "globex")),
    ("newer", "migrations", Level.WRONG, _set("schema_versions", '{"company": 99}')),
    ("behind", "migrations", Level.NOTE, _set("schema_versions", '{"company": 0}')),
    ("a call that was cut short", "lifecycle operations", Level.NOTE, _set("intent", INTENT)),
    ("a purge that was cut short", "lifecycle operations", Level.NOTE, _cut_purge),
    ("a lock that nobody holds", "leftovers", Level.NOTE, lambda d: _leave(d / "operations" / "x")),
    ("a catalog's row", "catalog", Level.WRONG, _set("limits", "no JSON")),
    ("no catalog", "data directory", Level.WRONG, lambda d: (d / "catalog.db").unlink()),
    ("no database for a catalog", "catalog", Level.WRONG, lambda d: (d / "catalog.db").write_bytes(b"x" * 8192)),
    ("a newer catalog", "catalog", Level.WRONG, lambda d: _make_newer(d / "catalog.db")),
    ("an older catalog", "catalog", Level.NOTE, lambda d: _make_older(d / "catalog.db")),
    ("a file among tenants", "data directory", Level.WRONG, lambda d: _leave(d / "tenants" / "notes")),
    ("the audit", "audit", Level.WRONG, lambda d: _forge(d / "catalog.db")),
    ("snapshots of nobody", "snapshots", Level.NOTE, lambda d: (d / "snapshots" / "0" ).mkdir(mode=0o700)),
]  # fmt: skip


async def test_a_link_among_tenants(left: Path, tmp_path: Path):
    """What a symbolic link leads to is not the directory's: the link is named, and nobody is told to move its target's files."""
    (tmp_path / "elsewhere" / "theirs").mkdir(parents=True)
    (left / "tenants" / "zz").symlink_to(tmp_path / "elsewhere")
    report = await examine(RegistryConfig(data_dir=left))
    assert [finding.check for finding in report.findings if finding.level is Level.WRONG] == ["permissions"]


def _make_newer(catalog: Path) -> None:
    [(version,)] = query(catalog, "SELECT max(version) FROM schema_migrations")
    query(catalog, "INSERT INTO schema_migrations VALUES ('catalog', ?, 'later', '0', '', 0)", version + 1)
    query(catalog, f"PRAGMA user_version = {version + 1}")


def _make_older(catalog: Path) -> None:
    [(version,)] = query(catalog, "SELECT max(version) FROM schema_migrations")
    query(catalog, "DELETE FROM schema_migrations WHERE version = ?", version)
    query(catalog, f"PRAGMA user_version = {version - 1}")


def _forge(catalog: Path) -> None:
    query(catalog, "DROP TRIGGER admin_audit_not_updated")
    query(catalog, "UPDATE admin_audit SET actor = 'somebody else' WHERE seq = 1")


@pytest.mark.parametrize(
    ("check", "level", "damage"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES]
)
async def test_what_is_wrong_is_found(left: Path, check: str, level: Level, damage: Damage):
    """Each thing that can be wrong is found by its check and by no other, and found without touching anything."""
    damage(left)
    before = content(left)
    found = await levels(left)
    assert {name for name, one in found.items() if one is not Level.OK} - MAY_BE_NOTED == {check}
    assert found[check] is level
    assert content(left) == before


def _give(path: Path, user: int, group: int) -> None:
    need(os.geteuid() == 0, "needs the right to give files to others: run the tests as root")
    os.chown(path, user, group)


def _mount_as_kubernetes(data_dir: Path, group: int) -> None:
    """Do to a directory what kubelet does to the volume of a pod whose fsGroup is this group."""
    for path in (data_dir, *data_dir.rglob("*")):
        _give(path, 1000, group)
        path.chmod(path.lstat().st_mode | (0o2770 if path.is_dir() else 0o660))
    _give(data_dir, 0, group)
    data_dir.chmod(0o2775)


def _make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


@pytest.mark.parametrize("name", ["a newer catalog", "a file among tenants", "no catalog"])
async def test_where_no_service_starts(left: Path, name: str):
    """What the examination calls wrong because no service would start is what a registry refuses."""
    [damage] = [row[3] for row in DAMAGES if row[0] == name]
    damage(left)
    with pytest.raises(PersistenceError):
        await TenantRegistry(RegistryConfig(data_dir=left)).open()


async def test_a_file_system_that_is_read_only(left: Path, tmp_path: Path):
    """No service starts on one, and the examination says so."""
    with small_disk(tmp_path / "disk", "32m") as disk:
        shutil.copytree(left, disk / "data")
        assert (await levels(disk / "data"))["file system"] is Level.WRONG  # memory
        _make_read_only(disk)
        report = await examine(RegistryConfig(data_dir=disk / "data"))
        [found] = [one for one in report.findings if one.check == "file system"]
        assert (found.level, "read-only" in found.found) == (Level.WRONG, True)
        with pytest.raises(PersistenceError):
            await TenantRegistry(RegistryConfig(data_dir=disk / "data")).open()


async def test_a_part_on_another_file_system(data_dir: Path):
    """Of a part that is mounted the file system and the space are looked at too."""
    os.makedirs(data_dir, mode=0o700)  # noqa: PTH103
    with small_disk(data_dir / "tenants", "32m") as mounted:
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.create("acme")
        report = await examine(RegistryConfig(data_dir=data_dir))
        found = [one for one in report.findings if one.check in {"file system", "disk space"}]
        assert [one.level for one in found] == [Level.OK, Level.OK, Level.WRONG, Level.WRONG]
        assert "memory" in found[2].found
        assert "32 MiB" in found[3].found
        assert mounted.is_mount()


async def test_a_volume_of_kubernetes(left: Path):
    """What fsGroup does to a volume is a note, and no advice is given that would take the volume from its service."""
    group = 4711
    _mount_as_kubernetes(left, group)
    report = await examine(RegistryConfig(data_dir=left))
    [found] = [one for one in report.findings if one.check == "permissions"]
    assert (found.level, f"the group {group}" in found.found) == (Level.NOTE, True)
    assert not {"chmod", "chown"} & set(found.to_do.split())
    assert report.is_ok
    (left / "catalog.db").chmod(0o666)
    report = await examine(RegistryConfig(data_dir=left))
    [found] = [one for one in report.findings if one.level is Level.WRONG]
    assert (found.check, found.to_do.split()[:3]) == ("permissions", ["chmod", "-R", "o-rwx"])


async def test_what_a_file_system_keeps_for_itself(left: Path):
    """The directory lost+found at the top of a file system is not looked into, and keeps no service from starting."""
    for parent in (left, left / "tenants", left / "snapshots", left / "scratch"):
        lost = parent / "lost+found"
        lost.mkdir(mode=0o755)
        (lost / "#12").write_bytes(b"found by fsck")
        _give(lost, 4711, 4711)
    found = await levels(left)
    assert {check for check, level in found.items() if level is not Level.OK} <= MAY_BE_NOTED
    async with TenantRegistry(RegistryConfig(data_dir=left)) as registry:
        await registry.snapshots.create("acme")


async def test_too_few_files(left: Path):
    """A pool that needs more open files than the process may have is found before a service is refused to start."""
    assert (await levels(left, open_tenants_max=1_000_000))["open files"] is Level.WRONG
    with open_files_limited_to(1024):
        assert (await levels(left))["open files"] is Level.NOTE
        assert (await levels(left, open_tenants_max=128))["open files"] is Level.OK


async def test_too_little_space(left: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that is nearly full is found; it cannot be filled here, so the figure is given."""
    usage = shutil.disk_usage(left)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert (await levels(left))["disk space"] is Level.WRONG


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/srv/data", "nfs4"), ("/srv", "xfs"), ("/srv/a b/é/c", "tmpfs"), ("/srvs", "ext4"), ("/", "ext4")],
)
def test_the_file_system_is_that_of_the_innermost_mount(path: str, expected: str):
    """What counts is the last mount at the longest path; blanks in it are written as octal numbers."""
    mounts = """22 1 8:1 / / rw shared:1 - ext4 /dev/a rw
30 22 8:2 / /srv rw - ext3 /dev/b rw
31 22 8:3 / /srv rw - xfs /dev/c rw
32 31 0:50 / /srv/data rw - nfs4 host:/x rw
33 31 0:51 / /srv/a\\040b/é rw - tmpfs tmpfs rw
"""
    assert file_system_type(Path(path), mounts) == expected


async def test_people_read_what_to_do(left: Path):
    """As a process it ends with 1 when something is wrong, and says for people and for programs what and what to do."""
    database_path(left, "acme").unlink()
    done = tenantry("doctor", "--data-dir", left, is_measured=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "restore a snapshot" in " ".join(done.stdout.split())
    done = tenantry("doctor", "--json", env={"TENANTRY_DATA_DIR": str(left)})
    report = json.loads(done.stdout)
    assert (done.returncode, report["is_ok"]) == (1, False)
    [finding] = [one for one in report["findings"] if one["level"] == "wrong"]
    assert (finding["check"], finding["subjects"]) == ("catalog and files", ["acme"])
