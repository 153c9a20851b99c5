"""Compressed snapshots: read by any gzip, and every damage found before anything is written."""

import gzip
import hashlib
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from damage import damaged
from stores import small_disk
from tenantry.errors import SnapshotCorruptError, SnapshotError, SnapshotNotFoundError, StorageFullError
from tenantry.storage.archive import compression
from tenantry.storage.archive.compression import compress, compressed, decompress
from tenantry.storage.archive.manifest import unseal
from tenants import open_files

CONTENT = b"SQLite format 3\0" + bytes(range(256)) * 3 + bytes(2000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The compressed content."""
    (tmp_path / "plain").write_bytes(CONTENT)
    compress(tmp_path / "plain", tmp_path / "compressed.gz")
    (tmp_path / "plain").unlink()
    return tmp_path / "compressed.gz"


def decompress_as_stored(source: Path, target: Path, *, bytes_max: int, content_sha256: str) -> None:
    """Decompress a file whose own digest is what it must be."""
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    decompress(source, target, bytes_max=bytes_max, content_sha256=content_sha256, sha256=sha256)


def assert_corrupt(source: Path, *, bytes_max: int = len(CONTENT), content_sha256: str = SHA256) -> None:
    """Check that a compressed file is found to be damaged, and that nothing is left of the attempt."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(SnapshotCorruptError):
        decompress_as_stored(
            source, source.parent / "target", bytes_max=bytes_max, content_sha256=content_sha256
        )
    assert sorted(source.parent.iterdir()) == before


@pytest.mark.parametrize(
    "content", [b"", b"x", CONTENT, bytes(5_000_000)], ids=["empty", "one", "some", "many"]
)
def test_content_comes_back(tmp_path: Path, content: bytes):
    """What was compressed comes back, private, and the size and digest are those of the compressed file."""
    plain, target, again = tmp_path / "plain", tmp_path / "target.gz", tmp_path / "again"
    plain.write_bytes(content)
    stored = compress(plain, target)
    content_sha256 = hashlib.sha256(content).hexdigest()
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    assert stored == (target, target.stat().st_size, sha256, content_sha256)
    decompress(target, again, bytes_max=len(content), content_sha256=content_sha256, sha256=sha256)
    assert again.read_bytes() == content
    assert [stat.S_IMODE(path.stat().st_mode) for path in (target, again)] == [0o600, 0o600]
    assert len(list(tmp_path.iterdir())) == 3


def test_any_gzip_reads_it(source: Path):
    """Other programs read the content without a complaint."""
    process = subprocess.run(["gzip", "--decompress", "--stdout", source], capture_output=True, check=True)
    assert (process.stdout, process.stderr) == (CONTENT, b"")
    subprocess.run(["gzip", "--test", source], check=True)
    assert gzip.decompress(source.read_bytes()) == CONTENT


def test_the_same_content_gives_the_same_bytes(tmp_path: Path, source: Path):
    """Neither the time nor a name gets in."""
    (tmp_path / "other name").write_bytes(CONTENT)
    compress(tmp_path / "other name", tmp_path / "other.gz")
    assert (tmp_path / "other.gz").read_bytes() == source.read_bytes()


def test_every_damage_is_found(source: Path):
    """A flipped bit anywhere, a lost end or an added byte: nothing is written."""
    content = source.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    for number, broken in enumerate(damaged(content)):
        assert broken != content, number
        source.write_bytes(broken)
        with pytest.raises(SnapshotCorruptError):
            decompress(
                source,
                source.parent / "target",
                bytes_max=len(CONTENT),
                content_sha256=SHA256,
                sha256=sha256,
            )
        assert list(source.parent.iterdir()) == [source]
    source.write_bytes(content)
    decompress_as_stored(source, source.parent / "target", bytes_max=len(CONTENT), content_sha256=SHA256)
    assert open_files(source.parent) == []


def test_another_content_is_found(source: Path):
    """A whole file that is not the one that was meant is refused by the digest."""
    assert_corrupt(source, content_sha256="00" * 32)


def test_another_compression_of_the_content_is_found(source: Path):
    """A sound file that is not the one that was stored is refused, though its content is the same."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(SnapshotCorruptError, match="SHA-256 differs"):
        decompress(
            source,
            source.parent / "target",
            bytes_max=len(CONTENT),
            content_sha256=SHA256,
            sha256="00" * 32,
        )
    assert sorted(source.parent.iterdir()) == before


def test_no_more_is_written_than_allowed(tmp_path: Path, source: Path):
    """A small file that holds very much fills no disk."""
    assert_corrupt(source, bytes_max=len(CONTENT) - 1)
    assert_corrupt(source, bytes_max=500, content_sha256=hashlib.sha256(CONTENT[:500]).hexdigest())
    with compressed(tmp_path / "bomb.gz") as writer:
        for _ in range(200):
            writer.write(bytes(1_000_000))
    assert (tmp_path / "bomb.gz").stat().st_size < 1_000_000
    with small_disk(tmp_path / "disk", "1m") as disk, pytest.raises(SnapshotCorruptError):
        decompress_as_stored(tmp_path / "bomb.gz", disk / "target", bytes_max=100_000, content_sha256=SHA256)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b", b"no gzip at all" * 100, gzip.compress(CONTENT, 9) * 2],
    ids=["empty", "cut", "text", "gzip-twice"],
)
def test_another_file_is_refused(source: Path, content: bytes):
    """A file that is not gzip, or contains something else, is refused though its digest is the expected one."""
    source.write_bytes(content)
    assert_corrupt(source)


def test_a_snapshot_of_an_earlier_version_is_read(tmp_path: Path):
    """A snapshot that an earlier version wrote, with a seal after its content, is decompressed and compared with its manifest."""
    stored = Path(__file__).parent / "written_earlier" / "snapshot.db.gz"
    manifest = unseal(stored.with_name("snapshot.json").read_bytes())
    decompress(
        stored,
        tmp_path / "tenant.db",
        bytes_max=manifest.database_bytes,
        content_sha256=manifest.database_sha256,
        sha256=manifest.stored_sha256,
    )
    with closing(sqlite3.connect(tmp_path / "tenant.db")) as connection:
        assert connection.execute("SELECT id FROM tasks").fetchall() == [("task-1",)]


def test_a_missing_file_is_told(tmp_path: Path):
    """Compressing what is not there, and decompressing it, say so and leave nothing."""
    with pytest.raises(SnapshotError, match="missing"):
        compress(tmp_path / "missing", tmp_path / "target")
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SnapshotNotFoundError, match=path.name):
            decompress(path, tmp_path / "target", bytes_max=1, content_sha256=SHA256, sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path):
    """A full disk is told as such, whichever way, and nothing is left on it."""
    content = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(60_000))
    (tmp_path / "plain").write_bytes(content)
    compress(tmp_path / "plain", tmp_path / "source.gz")
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(StorageFullError):
            compress(tmp_path / "plain", disk / "target")
        with pytest.raises(StorageFullError):
            decompress_as_stored(
                tmp_path / "source.gz",
                disk / "target",
                bytes_max=len(content),
                content_sha256=hashlib.sha256(content).hexdigest(),
            )
        assert list(disk.iterdir()) == []


def test_members_without_content_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whether the caller was cancelled is asked at each of them: gzip skips any number in one read."""
    members = 1000
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"") * members)
    asked: list[None] = []
    monkeypatch.setattr(compression, "check_cancelled", lambda: asked.append(None))
    decompress_as_stored(
        bomb, tmp_path / "target", bytes_max=1, content_sha256=hashlib.sha256(b"").hexdigest()
    )
    assert len(asked) > members
