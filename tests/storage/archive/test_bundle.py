"""Bundles: a tenant in one file that other programs read, and in which every damage is found."""

import gzip
import hashlib
import io
import lzma
import sqlite3
import stat
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from damage import damaged, gunzipped
from samples import a_manifest
from stores import small_disk
from tenantry.errors import SnapshotCorruptError, SnapshotError, SnapshotNotFoundError, StorageFullError
from tenantry.files.digests import file_sha256
from tenantry.storage.archive import bundle as bundle_format
from tenantry.storage.archive.bundle import read_bundle, write_bundle
from tenantry.storage.archive.compression import compressed
from tenantry.storage.archive.manifest import MANIFEST_BYTES_MAX, Manifest, seal
from tenants import open_files

BYTES_MAX = 10_000_000
EARLIER = Path(__file__).parent / "written_earlier"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A small database."""
    path = tmp_path / "live.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            "PRAGMA page_size = 512; VACUUM; CREATE TABLE notes (text); INSERT INTO notes VALUES ('hello'), ('again');"
        )
    return path


@pytest.fixture
def manifest(database: Path) -> Manifest:
    """The manifest of its bundle."""
    return describe(database)


@pytest.fixture
def bundle(tmp_path: Path, database: Path, manifest: Manifest) -> Path:
    """Its bundle, in a directory of its own."""
    (tmp_path / "bundles").mkdir()
    path = tmp_path / "bundles" / "acme.tar.gz"
    write_bundle(path, database, manifest)
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where bundles are unpacked."""
    path = tmp_path / "unpacked"
    path.mkdir()
    return path


def describe(database: Path, **fields: Any) -> Manifest:
    """Return the manifest of a database's bundle."""
    size_bytes, sha256 = database.stat().st_size, file_sha256(database)
    described = {
        "kind": "bundle",
        "snapshot_id": None,
        "trigger": "export",
        "database_bytes": size_bytes,
        "database_sha256": sha256,
        "stored_bytes": size_bytes,
        "stored_sha256": sha256,
    }
    return a_manifest(**{**described, **fields})


def assert_corrupt(bundle: Path, directory: Path) -> None:
    """Check that a bundle is found to be damaged, and that nothing is left of the attempt."""
    with pytest.raises(SnapshotCorruptError):
        read_bundle(bundle, directory, bytes_max=BYTES_MAX)
    assert list(directory.iterdir()) == []


def texts(database: Path) -> list[str]:
    """Return what the notes in a database say."""
    with closing(sqlite3.connect(database)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes")]


def test_a_bundle_comes_back(bundle: Path, directory: Path, database: Path, manifest: Manifest):
    """The manifest and the database are as they were; nothing else is unpacked; all files are private."""
    assert read_bundle(bundle, directory, bytes_max=database.stat().st_size) == (
        manifest,
        directory / "tenant.db",
    )
    assert [path.name for path in directory.iterdir()] == ["tenant.db"]
    assert (directory / "tenant.db").read_bytes() == database.read_bytes()
    assert [path.name for path in bundle.parent.iterdir()] == ["acme.tar.gz"]
    for path in (bundle, directory / "tenant.db"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_files(bundle.parent) == open_files(directory) == []


def test_other_programs_read_it(bundle: Path, directory: Path, manifest: Manifest):
    """Tar unpacks it, sha256sum checks it and sqlite3 opens it, without a word of complaint."""
    unpacked = subprocess.run(
        ["tar", "--extract", "--gzip", "--verbose", "--file", bundle],
        cwd=directory,
        capture_output=True,
        check=True,
    )
    assert (unpacked.stdout, unpacked.stderr) == (b"manifest.json\nSHA256SUMS\ntenant.db\n", b"")
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=directory, capture_output=True, check=True
    )
    assert (checked.stdout, checked.stderr) == (b"manifest.json: OK\ntenant.db: OK\n", b"")
    assert texts(directory / "tenant.db") == ["hello", "again"]
    assert (directory / "manifest.json").read_bytes() == seal(manifest)
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_mtime == manifest.created_at.timestamp()


def test_pythons_own_modules_read_it(bundle: Path, database: Path, manifest: Manifest):
    """So does tarfile, which is strict about headers."""
    with tarfile.open(bundle, "r:gz", errorlevel=2) as archive:
        members = archive.getmembers()
        contents = [archive.extractfile(member) for member in members]
        found = {member.name: file.read() for member, file in zip(members, contents, strict=True) if file}
    assert list(found) == ["manifest.json", "SHA256SUMS", "tenant.db"]
    assert found["tenant.db"] == database.read_bytes()
    assert found["manifest.json"] == seal(manifest)
    for member in members:
        assert (member.isreg(), member.mode, member.uid, member.gid, member.uname) == (True, 0o600, 0, 0, "")


def _tar_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


NOT_BUNDLES: dict[str, tuple[Callable[[Path, Path], bytes], str]] = {
    "a database": (
        lambda _, database: database.read_bytes(),
        "a plain SQLite database and not a bundle.*replace-file",
    ),
    "a compressed one": (
        lambda _, database: gzip.compress(database.read_bytes()),
        "a compressed SQLite database and not a bundle",
    ),
    "a tar": (
        lambda bundle, _: gzip.decompress(bundle.read_bytes()),
        r"unpacked to a \.tar: import the original \.tar\.gz",
    ),
    "another tar": (lambda *_: _tar_of("notes.txt"), "a tar archive and not a bundle"),
    "cut short": (lambda bundle, _: bundle.read_bytes()[:-200], "was cut short, at [0-9]+ bytes"),
    "xz": (lambda bundle, _: lzma.compress(bundle.read_bytes()), "compressed with xz"),
    "zip": (lambda *_: b"PK\x03\x04" + bytes(1000), "a zip archive"),
    "a page": (
        lambda *_: b"<html>413 Request Entity Too Large</html>" * 20,
        "such as an error page of a server",
    ),
    "nothing": (lambda *_: b"", "an empty file"),
    "anything": (lambda *_: bytes(1000), "is not a bundle"),
    "a changed bit": (lambda bundle, _: _with_a_changed_bit(bundle), "is damaged"),
}


def _with_a_changed_bit(bundle: Path) -> bytes:
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


@pytest.mark.parametrize(("make", "told"), NOT_BUNDLES.values(), ids=NOT_BUNDLES)
def test_what_is_no_bundle_is_told(  # fixtures and parameters
    bundle: Path,
    database: Path,
    directory: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], bytes],
    told: str,
):
    """The error says what the file is, and what to import instead."""
    path = tmp_path / "given"
    path.write_bytes(make(bundle, database))
    with pytest.raises(SnapshotCorruptError, match=told) as caught:
        read_bundle(path, directory, bytes_max=BYTES_MAX)
    assert "\n" not in str(caught.value)
    assert list(directory.iterdir()) == []


def test_the_same_tenant_gives_the_same_bytes(bundle: Path, database: Path, manifest: Manifest):
    """Where and when a bundle was written is not in it; writing it again replaces it."""
    before = bundle.read_bytes()
    database.touch()
    write_bundle(bundle.parent / "other.tar.gz", database, manifest)
    write_bundle(bundle, database, manifest)
    assert (bundle.parent / "other.tar.gz").read_bytes() == bundle.read_bytes() == before


@pytest.mark.parametrize("size_bytes", [0, 1, 511, 512, 513, 3_000_000])
def test_any_size_fits(tmp_path: Path, directory: Path, size_bytes: int):
    """Whatever the size is, the padding is right for us and for tar."""
    database = tmp_path / "plain"
    database.write_bytes(bytes(size_bytes // 2) + b"x" * (size_bytes - size_bytes // 2))
    write_bundle(tmp_path / "bundle", database, describe(database))
    subprocess.run(["tar", "xzf", tmp_path / "bundle", "-C", directory], check=True)
    assert (directory / "tenant.db").read_bytes() == database.read_bytes()
    read_bundle(tmp_path / "bundle", directory, bytes_max=size_bytes)
    assert (directory / "tenant.db").read_bytes() == database.read_bytes()


@pytest.mark.parametrize("size_bytes", [8 * 1024**3 - 1, 8 * 1024**3, 3 * 1024**4])
def test_sizes_beyond_eight_gibibytes_are_told_as_others_tell_them(size_bytes: int):
    """A header's octal size ends there; what follows is read by tar and Python too."""
    header = bundle_format._header(bundle_format._member("tenant.db", size_bytes, 1_700_000_000))
    assert bundle_format._parsed(header).size == size_bytes
    member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    assert (member.name, member.size, member.mtime) == ("tenant.db", size_bytes, 1_700_000_000)
    listed = subprocess.run(["tar", "--list", "--verbose"], input=header, capture_output=True, check=False)
    assert f" {size_bytes} ".encode() in listed.stdout


@pytest.mark.parametrize("year", [1, 1969, 2242, 9999])
def test_any_time_fits(database: Path, directory: Path, tmp_path: Path, year: int):
    """An instant that a header cannot tell is still the manifest's."""
    manifest = describe(database, created_at=f"{year:04d}-12-31T23:59:59Z")
    write_bundle(tmp_path / "bundle", database, manifest)
    assert read_bundle(tmp_path / "bundle", directory, bytes_max=BYTES_MAX)[0] == manifest


def test_every_damage_is_found(bundle: Path, database: Path, directory: Path, manifest: Manifest):
    """A flipped bit, a lost end or an added byte: nothing is unpacked, unless gzip's time or flags changed and the content did not."""
    content = bundle.read_bytes()
    plain = gzip.decompress(content)
    for number, broken in enumerate(damaged(content)):
        assert broken != content, number
        bundle.write_bytes(broken)
        if gunzipped(broken) == plain:
            assert read_bundle(bundle, directory, bytes_max=BYTES_MAX)[0] == manifest
            assert (directory / "tenant.db").read_bytes() == database.read_bytes()
            (directory / "tenant.db").unlink()
        else:
            assert_corrupt(bundle, directory)
    for length in range(len(content)):
        bundle.write_bytes(content[:length])
        assert_corrupt(bundle, directory)
    bundle.write_bytes(content)
    read_bundle(bundle, directory, bytes_max=BYTES_MAX)
    assert open_files(bundle.parent) == []


def test_a_bundle_of_an_earlier_version_is_read(directory: Path):
    """A bundle that an earlier version wrote, with a seal after its content, is read as a whole."""
    manifest, database = read_bundle(EARLIER / "bundle.tar.gz", directory, bytes_max=BYTES_MAX)
    assert (manifest.tenant_id, manifest.database_bytes) == ("acme", database.stat().st_size)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT id FROM tasks").fetchall() == [("task-1",)]


def test_a_bundle_compressed_again_is_read(bundle: Path, database: Path, directory: Path):
    """How well and by which program a bundle was compressed does not matter: its content is what is compared."""
    with gzip.open(bundle) as content:
        bundle.write_bytes(gzip.compress(content.read(), 9, mtime=1_700_000_000))
    read_bundle(bundle, directory, bytes_max=BYTES_MAX)
    assert (directory / "tenant.db").read_bytes() == database.read_bytes()


def member(name: str, content: bytes, **fields: Any) -> bytes:
    """Return a file of an archive, as Python writes it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf() + content + bytes(-len(content) % 512)


def parts_of(database: Path) -> list[bytes]:
    """Return the three files of the database's bundle and the archive's end, as they are in it."""
    manifest = describe(database)
    content = seal(manifest)
    before = bundle_format._before_database(content, manifest)
    at = 512 + len(content) + -len(content) % 512
    return [
        before[:at],
        before[at:-512],
        before[-512:] + database.read_bytes(),
        bundle_format._after_database(manifest),
    ]


FORGERIES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "nothing": lambda _: [],
    "zeros": lambda _: [bytes(10_240)],
    "no end": lambda parts: parts[:3],
    "half an end": lambda parts: [*parts[:3], parts[3][:-512]],
    "a longer end": lambda parts: [*parts, bytes(512)],
    "something after the end": lambda parts: [*parts, member("evil", b"1")],
    "another file before the end": lambda parts: [*parts[:3], member("evil", b"1"), parts[3]],
    "no database": lambda parts: [*parts[:2], parts[3]],
    "no sums": lambda parts: [parts[0], *parts[2:]],
    "no manifest": lambda parts: parts[1:],
    "another order": lambda parts: [parts[1], parts[0], *parts[2:]],
    "a manifest twice": lambda parts: [parts[0], *parts],
    "a changed database": lambda parts: [*parts[:2], parts[2].replace(b"hello", b"hallo"), parts[3]],
    "a shorter database": lambda parts: [*parts[:2], parts[2][:-512], parts[3]],
    "a longer database": lambda parts: [*parts[:2], parts[2], bytes(512), parts[3]],
    "other sums": lambda parts: [parts[0], parts[1].replace(b"a", b"b"), *parts[2:]],
    "a changed manifest": lambda parts: [parts[0].replace(b"acme", b"evil"), *parts[1:]],
    "a path out of the directory": lambda parts: [*parts[:2], renamed(parts[2], b"../tenant.db"), parts[3]],
    "an absolute path": lambda parts: [*parts[:2], renamed(parts[2], b"/tmp/tenant.db"), parts[3]],
    "a manifest of another name": lambda parts: [renamed(parts[0], b"../manifest.json"), *parts[1:]],
    "a link": lambda parts: [
        *parts[:2],
        member("tenant.db", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        parts[3],
    ],
    "a hard link": lambda parts: [
        *parts[:2],
        member("tenant.db", b"", type=tarfile.LNKTYPE, linkname="manifest.json"),
        parts[3],
    ],
    "a device": lambda parts: [member("manifest.json", b"", type=tarfile.CHRTYPE), *parts[1:]],
    "a directory": lambda parts: [member("manifest.json", b"", type=tarfile.DIRTYPE), *parts[1:]],
    "other rights": lambda parts: [
        parts[0],
        parts[1],
        member("tenant.db", parts[2][512:], mode=0o4777),
        parts[3],
    ],
    "an endless manifest": lambda parts: [sized(parts[0], MANIFEST_BYTES_MAX + 1), *parts[1:]],
    "a manifest of eight gigabytes": lambda parts: [sized(parts[0], 8**11 - 1), *parts[1:]],
    "a negative size": lambda parts: [resized(parts[0], b"-0000000001\0"), *parts[1:]],
    "a binary size": lambda parts: [resized(parts[0], b"\x80" + bytes(7) + b"\xff\xff\xff\xff"), *parts[1:]],
    "an empty size": lambda parts: [resized(parts[0], bytes(12)), *parts[1:]],
    "a size with underscores": lambda parts: [resized(parts[0], b"0_00_0001734"), *parts[1:]],
}
"""Archives that are sound gzip files, by somebody who knows how a bundle is made."""


def renamed(part: bytes, name: bytes) -> bytes:
    """Return a file of an archive under another name."""
    return rewritten(name.ljust(100, b"\0") + part[100:])


def sized(part: bytes, size_bytes: int) -> bytes:
    """Return a file of an archive whose header tells another size."""
    return resized(part, b"%011o\0" % size_bytes)


def resized(part: bytes, field: bytes) -> bytes:
    """Return a file of an archive with other bytes in the place of its size."""
    return rewritten(part[:124] + field + part[136:])


def rewritten(part: bytes) -> bytes:
    """Return a file of an archive with the checksum that its header must have."""
    blank = part[:148] + b" " * 8 + part[156:512]
    return part[:148] + b"%06o\0 " % sum(blank) + part[156:]


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_bundle_is_refused(
    database: Path, bundle: Path, directory: Path, forge: Callable[[list[bytes]], list[bytes]]
):
    """Only what the manifest describes is unpacked, and only to its place."""
    with compressed(bundle) as archive:
        for part in forge(parts_of(database)):
            archive.write(part)
    assert_corrupt(bundle, directory)
    assert sorted(path.name for path in directory.parent.iterdir()) == ["bundles", "live.db", "unpacked"]


def test_the_forgers_tools_make_a_bundle(database: Path, bundle: Path):
    """Unforged, the parts are a bundle to the byte: so each forgery above is refused for what was changed."""
    before = bundle.read_bytes()
    with compressed(bundle) as archive:
        for part in parts_of(database):
            archive.write(part)
    assert bundle.read_bytes() == before


def test_an_archive_made_by_tar_is_none(bundle: Path, directory: Path, tmp_path: Path):
    """Packed again by somebody else, it is no longer what was written."""
    subprocess.run(["tar", "xzf", bundle, "-C", directory], check=True)
    names = ["manifest.json", "SHA256SUMS", "tenant.db"]
    subprocess.run(["tar", "czf", tmp_path / "again.tar.gz", "-C", directory, *names], check=True)
    for name in names:
        (directory / name).unlink()
    with pytest.raises(SnapshotCorruptError, match="packed again"):
        read_bundle(tmp_path / "again.tar.gz", directory, bytes_max=BYTES_MAX)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("manifest.json"))
    with compressed(bundle) as writer:
        writer.write(buffer.getvalue())
    assert_corrupt(bundle, directory)


def test_a_snapshots_manifest_makes_no_bundle(bundle: Path, database: Path, directory: Path):
    """The two kinds are not taken for each other."""
    manifest = describe(database, kind="snapshot", snapshot_id="s-1")
    with pytest.raises(SnapshotError, match="kind 'bundle'"):
        write_bundle(bundle, database, manifest)
    with compressed(bundle) as archive:
        archive.write(bundle_format._before_database(seal(manifest), manifest))
        archive.write(database.read_bytes() + bundle_format._after_database(manifest))
    assert_corrupt(bundle, directory)


def test_a_newer_format_is_told(bundle: Path, database: Path, directory: Path):
    """A bundle of a newer tenantry is whole, and the message says what to do."""
    fields = bundle_format.seal(describe(database)).replace(b'"format": 1', b'"format": 2')
    unsealed = fields.replace(fields.split(b'"seal": "')[1][:64], b"")
    content = unsealed.replace(b'"seal": ""', b'"seal": "%s"' % hashlib.sha256(unsealed).hexdigest().encode())
    with compressed(bundle) as archive:
        archive.write(member("manifest.json", content))
    with pytest.raises(SnapshotError, match="newer tenantry") as caught:
        read_bundle(bundle, directory, bytes_max=BYTES_MAX)
    assert not isinstance(caught.value, SnapshotCorruptError)


def test_a_database_that_is_too_large_is_refused(bundle: Path, database: Path, directory: Path):
    """The limit is the caller's, and the bundle is not to blame: the message tells both sizes."""
    size_bytes = database.stat().st_size
    with pytest.raises(StorageFullError, match=f"{size_bytes} bytes, but only {size_bytes - 1} bytes"):
        read_bundle(bundle, directory, bytes_max=size_bytes - 1)
    assert list(directory.iterdir()) == []


def test_no_more_is_unpacked_than_the_manifest_says(bundle: Path, database: Path, directory: Path):
    """A small bundle that holds very much fills no disk."""
    manifest = describe(database)
    with compressed(bundle) as archive:
        archive.write(bundle_format._before_database(seal(manifest), manifest))
        for _ in range(300):
            archive.write(bytes(1_000_000))
    assert bundle.stat().st_size < 1_000_000
    assert_corrupt(bundle, directory)


@pytest.mark.parametrize("field", [b"77777777777\0", b"-0000000001\0"], ids=["huge", "negative"])
def test_no_size_in_a_bundle_is_trusted(bundle: Path, database: Path, directory: Path, field: bytes):
    """A header that tells a large manifest does not have it read into memory."""
    first, *_ = parts_of(database)
    with compressed(bundle) as archive:
        archive.write(resized(first, field))
        for _ in range(100):
            archive.write(bytes(1_000_000))
    tracemalloc.start()
    try:
        assert_corrupt(bundle, directory)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_another_database_is_not_bundled(bundle: Path, database: Path, manifest: Manifest):
    """A database that changed since it was described makes no bundle, and the one that was there stays."""
    before, content = bundle.read_bytes(), database.read_bytes()
    for other in (content + b"\0", content[:-1], content.replace(b"hello", b"hallo"), b""):
        database.write_bytes(other)
        with pytest.raises(SnapshotCorruptError, match="manifest"):
            write_bundle(bundle, database, manifest)
        assert bundle.read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["acme.tar.gz"]


def test_missing_files_are_told(tmp_path: Path, bundle: Path, directory: Path, manifest: Manifest):
    """Each error names the path that is wrong, and nothing is left."""
    with pytest.raises(SnapshotNotFoundError, match="nowhere"):
        read_bundle(tmp_path / "nowhere", directory, bytes_max=BYTES_MAX)
    with pytest.raises(SnapshotError, match="nowhere"):
        read_bundle(bundle, tmp_path / "nowhere", bytes_max=BYTES_MAX)
    with pytest.raises(SnapshotError, match="nowhere"):
        write_bundle(bundle, tmp_path / "nowhere", manifest)
    with pytest.raises(SnapshotError, match="nowhere"):
        write_bundle(tmp_path / "nowhere" / "bundle", tmp_path / "live.db", manifest)
    assert list(directory.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, directory: Path):
    """A full disk is told as such, whichever way, and nothing is left on it."""
    database = tmp_path / "large"
    database.write_bytes(b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(60_000)))
    manifest = describe(database)
    write_bundle(tmp_path / "bundle", database, manifest)
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(StorageFullError):
            write_bundle(disk / "bundle", database, manifest)
        with pytest.raises(StorageFullError):
            read_bundle(tmp_path / "bundle", disk, bytes_max=BYTES_MAX)
        assert list(disk.iterdir()) == []
