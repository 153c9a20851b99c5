"""`ObjectStorage`, the protocol of a storage for files with keys, and `LocalStorage`, which keeps the files in a directory."""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol, runtime_checkable

from tenantry.errors import SnapshotCorruptError, SnapshotError, SnapshotNotFoundError
from tenantry.files.atomic_file import DRAFT_SUFFIX, DraftFile, storage_errors
from tenantry.files.durable_files import make_directories, make_root, sync_directory
from tenantry.threads import run_in_thread

OBJECT_KEY_CHARACTERS_MAX: Final = 512
KEY_PART_CHARACTERS_MAX: Final = 200
"""The length of a key's part leaves room for the suffix of a temporary file, because a file name may have 255 bytes."""

_KEY: Final = re.compile(r"[a-z0-9._-]+(?:/[a-z0-9._-]+)*")
_PREFIX: Final = re.compile(r"(?:[a-z0-9._-]+/)*[a-z0-9._-]*")
_SHOWN_CHARACTERS_MAX: Final = 80
_COPY_BYTES: Final = 1024 * 1024
_DIRECTORY_ATTEMPTS: Final = 3


class StoredObject(NamedTuple):
    """An object in a list of objects."""

    key: str
    size_bytes: int


@runtime_checkable
class ObjectStorage(Protocol):
    """Keeps objects, which are files with keys.

    A key consists of parts that are joined by ``/``. The parts consist of ``a-z``, ``0-9``, ``.``, ``_`` and ``-``, and must not be
    ``.`` or ``..``. No key may begin with another object's key and a ``/``, because a file cannot also be a directory.

    Every method raises `SnapshotError` if a key is not valid or the storage fails; the error's `is_retryable` tells whether the same
    call may succeed later.
    """

    @property
    def location(self) -> str:
        """The address of the storage, without secrets. The address stays the same each time the storage is opened."""

    async def put(self, key: str, path: Path) -> None:
        """Store a file durably as an object. The object replaces an existing object with the same key.

        Readers never see a partial object. If two calls change the same key at the same time, one call may fail with a retryable
        error; the object stays complete. After a cancellation the object is either unchanged or the whole new file.

        Raises:
            StorageFullError: The storage has too little space.
        """

    async def put_bytes(self, key: str, content: bytes) -> None:
        """Store bytes as an object; see `put`."""

    async def get(self, key: str, path: Path) -> None:
        """Write an object into a new file. After an error or a cancellation no file exists.

        Raises:
            SnapshotNotFoundError: The object does not exist.
            StorageFullError: The disk has too little space for the file.
        """

    async def get_bytes(self, key: str, *, bytes_max: int) -> bytes:
        """Return the content of an object.

        Raises:
            SnapshotNotFoundError: The object does not exist.
            SnapshotCorruptError: The object is larger than `bytes_max`.
        """

    async def list(self, prefix: str) -> Sequence[StoredObject]:
        """Return the objects whose keys begin with the prefix, ordered by key; an empty prefix returns all objects."""

    async def delete(self, key: str) -> None:
        """Remove an object; a missing object is not an error."""

    async def remove_leftovers(self, prefix: str) -> None:
        """Remove the leftovers of crashed calls for keys with this prefix. Objects that other calls are writing are not affected."""


def is_key(text: str) -> bool:
    """Return whether the text is a valid key of an object."""
    if len(text) > OBJECT_KEY_CHARACTERS_MAX or not _KEY.fullmatch(text):
        return False
    return all(part not in {".", ".."} and len(part) <= KEY_PART_CHARACTERS_MAX for part in text.split("/"))


def check_key(key: str) -> str:
    """Return the key; raise `SnapshotError` if the key is not valid."""
    if not is_key(key):
        raise SnapshotError(
            f"{key[:_SHOWN_CHARACTERS_MAX]!r} is not a valid object key: use at most {OBJECT_KEY_CHARACTERS_MAX} characters, in parts "
            f"of at most {KEY_PART_CHARACTERS_MAX} of a-z, 0-9, '.', '_' and '-' with '/' between parts"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return the part of a prefix before the last ``/``; raise `SnapshotError` if no key can begin with the prefix."""
    directory = prefix.rpartition("/")[0]
    if not _PREFIX.fullmatch(prefix):
        raise SnapshotError(
            f"no object key can begin with {prefix[:_SHOWN_CHARACTERS_MAX]!r}: use a-z, 0-9, '.', '_', '-' and '/'"
        )
    return check_key(directory) if directory else ""


class LocalStorage(ObjectStorage):
    """Keeps objects as private files in a directory, which may be on another disk or a mounted file system.

    Args:
        directory: The directory, which is created when the first object is stored. All files in the directory belong to the
            storage. Links in the directory are not followed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"<LocalStorage {self.directory}>"

    @property
    def location(self) -> str:
        """The directory's path."""
        return os.path.abspath(self.directory)  # noqa: PTH100  # resolves ".." without following links

    async def put(self, key: str, path: Path) -> None:
        """See `ObjectStorage.put`. A cancelled caller waits until the copy ends."""
        await run_in_thread(self._put, check_key(key), path)

    async def put_bytes(self, key: str, content: bytes) -> None:
        """See `ObjectStorage.put_bytes`."""
        await run_in_thread(self._put_bytes, check_key(key), content)

    async def get(self, key: str, path: Path) -> None:
        """See `ObjectStorage.get`. A cancelled caller waits until the copy ends."""
        await run_in_thread(self._get, check_key(key), path)

    async def get_bytes(self, key: str, *, bytes_max: int) -> bytes:
        """See `ObjectStorage.get_bytes`."""
        return await run_in_thread(self._get_bytes, check_key(key), bytes_max)

    async def list(self, prefix: str) -> Sequence[StoredObject]:
        """See `ObjectStorage.list`."""
        return await run_in_thread(self._list, check_prefix(prefix), prefix)

    async def delete(self, key: str) -> None:
        """See `ObjectStorage.delete`. This method also removes a temporary file left behind by a crash."""
        await run_in_thread(self._delete, check_key(key))

    async def remove_leftovers(self, prefix: str) -> None:
        """See `ObjectStorage.remove_leftovers`."""
        await run_in_thread(self._remove_leftovers, check_prefix(prefix), prefix)

    def _put(self, key: str, path: Path) -> None:
        with storage_errors(f"store {path} as {key}"), path.open("rb") as source, self._draft(key) as draft:
            shutil.copyfileobj(source, draft, _COPY_BYTES)

    def _put_bytes(self, key: str, content: bytes) -> None:
        with storage_errors(f"store {key}"), self._draft(key) as draft:
            draft.write(content)

    def _get(self, key: str, path: Path) -> None:
        doing = f"write {key} into {path}"
        with storage_errors(doing), self._opened(key) as source, DraftFile(path) as draft:
            shutil.copyfileobj(source, draft, _COPY_BYTES)

    def _get_bytes(self, key: str, bytes_max: int) -> bytes:
        with storage_errors(f"read {key}"), self._opened(key) as source:
            content = source.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise SnapshotCorruptError(f"{key} is larger than the limit of {bytes_max} bytes")
        return content

    def _list(self, directory: str, prefix: str) -> Sequence[StoredObject]:
        with storage_errors(f"list the objects with the prefix {prefix!r} in {self.directory}"):
            try:
                path = self._looked_up(directory)
            except (FileNotFoundError, NotADirectoryError):
                return []
            found = _objects_below(path, f"{directory}/" if directory else "")
        return sorted(each for each in found if each.key.startswith(prefix))

    def _delete(self, key: str) -> None:
        path = self.directory / key
        with storage_errors(f"delete {key}"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._looked_up(key.rpartition("/")[0])
                DraftFile(path).remove_leftover()
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    self._looked_up(key).unlink()
            self._remove_empty_directories(path.parent)

    def _remove_leftovers(self, directory: str, prefix: str) -> None:
        with storage_errors(f"remove the leftovers with the prefix {prefix!r}"):
            try:
                path = self._looked_up(directory)
            except (FileNotFoundError, NotADirectoryError):
                self._remove_empty_directories(self.directory / directory)
                return
            for draft in list(path.rglob(f"*{DRAFT_SUFFIX}")):
                target = draft.with_name(draft.name.removesuffix(DRAFT_SUFFIX))
                if target.relative_to(self.directory).as_posix().startswith(prefix):
                    DraftFile(target).remove_leftover()
                    self._remove_empty_directories(target.parent)

    def _draft(self, key: str) -> DraftFile:
        """Create an object's directory and open its temporary file; retry if a concurrent `delete` removes the directory."""
        draft = DraftFile(self.directory / key)
        for attempts_left in reversed(range(_DIRECTORY_ATTEMPTS)):
            try:
                make_root(self.directory)
                make_directories(self.directory, draft.path.parent)
                draft.open()
                break
            except FileNotFoundError:
                if not attempts_left:
                    raise
        return draft

    def _opened(self, key: str) -> BinaryIO:
        try:
            path = self._looked_up(key)
            if stat.S_ISREG(path.lstat().st_mode):
                return path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise SnapshotNotFoundError(f"the object {key} does not exist in {self.directory}")

    def _looked_up(self, key: str) -> Path:
        """Return the path of an object or directory; raise `SnapshotError` for a link in the path, and OSError for a missing part."""
        path = self.directory
        for part in key.split("/") if key else ():
            path /= part
            if stat.S_ISLNK(path.lstat().st_mode):
                raise SnapshotError(f"{path} is a link: put the file or directory itself at this path")
        return path

    def _remove_empty_directories(self, directory: Path) -> None:
        """Remove a directory and its parents as long as they are empty, and make the removals durable.

        A sync is needed even if nothing was removed now, because another process may have removed a directory and died before
        its sync.
        """
        while directory != self.directory:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # the directory is not empty, or the path is not a directory
                break
            directory = directory.parent
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            sync_directory(directory)


def _objects_below(directory: str | Path, key: str) -> list[StoredObject]:
    found: list[StoredObject] = []
    # Objects that are deleted during the scan are left out.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found += _objects_below(entry.path, f"{key}{entry.name}/")
            elif entry.is_file(follow_symlinks=False) and is_key(key + entry.name):
                with contextlib.suppress(FileNotFoundError):
                    found.append(StoredObject(key + entry.name, entry.stat(follow_symlinks=False).st_size))
    return found
