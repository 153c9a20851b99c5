"""The conformance suite of `ObjectStorage`: the checks of `OBJECT_STORAGE_CHECKS`, each on an empty storage."""

import asyncio
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeAlias

from tenantry.errors import SnapshotCorruptError, SnapshotError, SnapshotNotFoundError
from tenantry.storage.objects.protocol import (
    KEY_PART_CHARACTERS_MAX,
    OBJECT_KEY_CHARACTERS_MAX,
    ObjectStorage,
    StoredObject,
)
from tenantry.testing.conformance.expectations import Checks, expect, expect_raised

OpenObjectStorage: TypeAlias = Callable[[], ObjectStorage]
"""Returns an empty object storage."""

ObjectStorageCheck: TypeAlias = Callable[[ObjectStorage], Awaitable[None]]

_KEY: Final = "tenants/4f2a/20260131t120000z-00ff.db.gz"
_NO_KEYS: Final = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "A",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "a\\b",
    "a?b",
    "%2e%2e",
    "a" * (KEY_PART_CHARACTERS_MAX + 1),
    "a/" * (OBJECT_KEY_CHARACTERS_MAX // 2) + "ab",
)
_NO_PREFIXES: Final = ("/", "a//", "../a", "a/../", "./", "A", "a b", "a\n")
_SEVERAL_PARTS_BYTES: Final = 20 * 1024 * 1024
_STEPS: Final = 12

_checks: Final = Checks[ObjectStorageCheck]()


async def check_object_storage(open_storage: OpenObjectStorage) -> None:
    """Run all checks in order; the first failure raises."""
    for check in OBJECT_STORAGE_CHECKS:
        await check(open_storage())


@contextmanager
def _directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="tenantry-") as directory:
        yield Path(directory)


async def _keys(storage: ObjectStorage, prefix: str = "") -> list[str]:
    return [each.key for each in await storage.list(prefix)]


@_checks.add
async def check_has_the_protocols_names(storage: ObjectStorage) -> None:
    """A storage has the protocol's methods and a location of one line, and is empty at first."""
    assert isinstance(storage, ObjectStorage)
    expect(storage.location.split("\n"), [storage.location.strip()])
    expect(list(await storage.list("")), [])


@_checks.add
async def check_files_come_back(storage: ObjectStorage) -> None:
    """An empty file, a small file and a file of several parts are returned byte for byte."""
    with _directory() as directory:
        for size in (0, 1, _SEVERAL_PARTS_BYTES):
            content = bytes(range(251)) * (size // 251) + bytes(size % 251)
            (directory / "source").write_bytes(content)
            await storage.put(_KEY, directory / "source")
            await storage.get(_KEY, directory / "target")
            assert (directory / "target").read_bytes() == content, f"a file of {size} bytes came back changed"
            expect(list(await storage.list("")), [StoredObject(_KEY, size)])
            expect(sorted(path.name for path in directory.iterdir()), ["source", "target"])


@_checks.add
async def check_bytes_come_back(storage: ObjectStorage) -> None:
    """Any bytes are returned unchanged, both as bytes and as a file."""
    with _directory() as directory:
        for content in (b"", b"\0", bytes(range(256)), b"{}\r\n"):
            await storage.put_bytes(_KEY, content)
            expect(await storage.get_bytes(_KEY, bytes_max=256), content)
            await storage.get(_KEY, directory / "target")
            expect((directory / "target").read_bytes(), content)


@_checks.add
async def check_replaces(storage: ObjectStorage) -> None:
    """Storing under an existing key replaces the whole object."""
    with _directory() as directory:
        (directory / "source").write_bytes(b"new")
        await storage.put_bytes(_KEY, b"old and longer")
        await storage.put(_KEY, directory / "source")
        expect(await storage.get_bytes(_KEY, bytes_max=3), b"new")
        await storage.put_bytes(_KEY, b"x")
        expect(await storage.get_bytes(_KEY, bytes_max=3), b"x")
        expect(list(await storage.list("")), [StoredObject(_KEY, 1)])


@_checks.add
async def check_bytes_have_a_limit(storage: ObjectStorage) -> None:
    """An object as large as the limit is returned; a larger object raises `SnapshotCorruptError`."""
    await storage.put_bytes(_KEY, b"12345")
    expect(await storage.get_bytes(_KEY, bytes_max=5), b"12345")
    with expect_raised(SnapshotCorruptError):
        await storage.get_bytes(_KEY, bytes_max=4)


@_checks.add
async def check_missing_objects_are_told(storage: ObjectStorage) -> None:
    """Reading a missing object raises and leaves no file; deleting a missing object is a no-op."""
    await storage.put_bytes("a/b", b"1")
    with _directory() as directory:
        for key in ("x", "a", "a/b/c", "a/x"):
            with expect_raised(SnapshotNotFoundError):
                await storage.get(key, directory / "target")
            with expect_raised(SnapshotNotFoundError):
                await storage.get_bytes(key, bytes_max=10)
            await storage.delete(key)
        expect(list(directory.iterdir()), [])
    expect(await _keys(storage), ["a/b"])


@_checks.add
async def check_lists_by_prefix_in_order(storage: ObjectStorage) -> None:
    """A prefix may end anywhere in a key, and the keys are listed in the order of strings, not of directories."""
    keys = ["a-b", "a.b/c", "a/b", "a/b-c", "a/c/d/e", "a/c0", "a0", "ab/c"]
    for size, key in enumerate(reversed(keys)):
        await storage.put_bytes(key, b"x" * size)
    every = [StoredObject(key, len(keys) - 1 - number) for number, key in enumerate(keys)]
    for prefix in ("", "a", "a/", "a/b", "a/b-", "a/c", "a/c/", "a/c/d/e", "a.b/", "b", "a/x/y", "a/b/"):
        found = list(await storage.list(prefix))
        expect(found, [each for each in every if each.key.startswith(prefix)])


@_checks.add
async def check_deletes(storage: ObjectStorage) -> None:
    """Deleting an object removes only that object, and its key can be used again."""
    for key in ("a/b", "a/b-c", "a/d/e"):
        await storage.put_bytes(key, b"1")
    await storage.delete("a/b")
    expect(await _keys(storage), ["a/b-c", "a/d/e"])
    await storage.delete("a/d/e")
    await storage.delete("a/b-c")
    expect(await _keys(storage), [])
    await storage.put_bytes("a/b", b"2")
    expect(await storage.get_bytes("a/b", bytes_max=1), b"2")


@_checks.add
async def check_refuses_what_is_no_key(storage: ObjectStorage) -> None:
    """Every method refuses a key that could lead outside the storage, and changes nothing."""
    with _directory() as directory:
        (directory / "source").write_bytes(b"1")
        for key in _NO_KEYS:
            for refused in (
                lambda key=key: storage.put(key, directory / "source"),
                lambda key=key: storage.put_bytes(key, b"1"),
                lambda key=key: storage.get(key, directory / "target"),
                lambda key=key: storage.get_bytes(key, bytes_max=1),
                lambda key=key: storage.delete(key),
            ):
                with expect_raised(SnapshotError) as raised:
                    await refused()
                assert not isinstance(raised[0], SnapshotNotFoundError), f"{key!r} was looked up"
        for prefix in _NO_PREFIXES:
            with expect_raised(SnapshotError):
                await storage.list(prefix)
        expect([path.name for path in directory.iterdir()], ["source"])
    expect(await _keys(storage), [])


@_checks.add
async def check_a_missing_file_is_not_stored(storage: ObjectStorage) -> None:
    """Storing an unreadable file raises an error, and the stored object stays unchanged."""
    await storage.put_bytes(_KEY, b"old")
    with _directory() as directory:
        for path in (directory / "missing", directory):
            with expect_raised(SnapshotError):
                await storage.put(_KEY, path)
    expect(await storage.get_bytes(_KEY, bytes_max=3), b"old")


@_checks.add
async def check_written_files_are_private(storage: ObjectStorage) -> None:
    """Only the process's user can read a file that a storage writes."""
    await storage.put_bytes(_KEY, b"1")
    with _directory() as directory:
        await storage.get(_KEY, directory / "target")
        expect(stat.S_IMODE((directory / "target").stat().st_mode), 0o600)


@_checks.add
async def check_calls_at_once_store_one_file_whole(storage: ObjectStorage) -> None:
    """Concurrent calls with the same key store one whole file, and a refused call raises a retryable error."""
    with _directory() as directory:
        contents = [bytes([number]) * 300_000 for number in range(8)]
        calls = []
        for number, content in enumerate(contents):
            (directory / str(number)).write_bytes(content)
            calls.append(storage.put(_KEY, directory / str(number)))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        stored = [content for content, outcome in zip(contents, outcomes, strict=True) if outcome is None]
        for outcome in outcomes:
            assert outcome is None or (isinstance(outcome, SnapshotError) and outcome.is_retryable), outcome
        assert await storage.get_bytes(_KEY, bytes_max=300_000) in stored, (
            "no successful call stored the object"
        )


@_checks.add
async def check_cancelled_calls_leave_nothing_half(storage: ObjectStorage) -> None:
    """A cancelled call leaves either a whole object or file or nothing, wherever the call was interrupted."""
    content = b"x" * 1_000_000
    with _directory() as directory:
        (directory / "source").write_bytes(content)
        for steps in range(_STEPS):
            await _cancelled_after(steps, storage.put(_KEY, directory / "source"))
            for stored in await storage.list(""):
                expect(stored, StoredObject(_KEY, len(content)))
            await storage.delete(_KEY)
        await storage.put(_KEY, directory / "source")
        for steps in range(_STEPS):
            await _cancelled_after(steps, storage.get(_KEY, directory / "target"))
            for path in directory.iterdir():
                expect((path.name in {"source", "target"}, path.stat().st_size), (True, len(content)))
            (directory / "target").unlink(missing_ok=True)


async def _cancelled_after(steps: int, call: Awaitable[None]) -> None:
    task = asyncio.ensure_future(call)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None, task.exception()


OBJECT_STORAGE_CHECKS: Final = tuple(_checks)
