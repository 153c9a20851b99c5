"""Object storage: files under keys, for what has to outlive a database's own disk; and the kind that is a directory."""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol, runtime_checkable

from tenantry.errors import SnapshotCorruptError, SnapshotError, SnapshotNotFoundError
from tenantry.files.atomic_file import DRAFT_SUFFIX, DraftFile, storage_errors
from tenantry.files.durable_files import make_directories, make_root, sync_directory
from tenantry.threads import run_in_thread

OBJECT_KEY_CHARACTERS_MAX: Final = 512
KEY_PART_CHARACTERS_MAX: Final = 200
"""With a draft's suffix it is still a file's name."""

_KEY: Final = re.compile(r"[a-z0-9._-]+(?:/[a-z0-9._-]+)*")
_PREFIX: Final = re.compile(r"(?:[a-z0-9._-]+/)*[a-z0-9._-]*")
_SHOWN_CHARACTERS_MAX: Final = 80
_COPY_BYTES: Final = 1024 * 1024
_DIRECTORY_ATTEMPTS: Final = 3


class StoredObject(NamedTuple):
    """An object in a list.

    Attributes:
        key: Its name.
        size_bytes: How large it is.
    """

    key: str
    size_bytes: int


@runtime_checkable
class ObjectStorage(Protocol):
    """Keeps objects under keys.

    A key is made of parts of ``a-z``, ``0-9``, ``.``, ``_`` and ``-``, joined by ``/``, none of them ``.`` or ``..``; and no
    key begins with another key and a ``/`` (a file is no directory).

    Every method raises `SnapshotError` for a key that is none, and where the storage refuses; `is_retryable` tells whether the
    same call may succeed later.
    """

    @property
    def location(self) -> str:
        """Where it keeps them, without secrets. It is the same text each time the same storage is opened."""
        ...

    async def put(self, key: str, path: Path) -> None:
        """Store a file: seen as a whole or not at all, and durable on return; what was there is replaced.

        Two calls for one key at once, a `delete` among them: one may be refused (retryable), and the object is whole.

        Raises:
            StorageFullError: There is no room.

        After a cancellation the object is as it was, or the whole file.
        """
        ...

    async def put_bytes(self, key: str, content: bytes) -> None:
        """Store some bytes, as `put` stores a file."""
        ...

    async def get(self, key: str, path: Path) -> None:
        """Write an object into a new file.

        Raises:
            SnapshotNotFoundError: There is none.
            StorageFullError: There is no room for the file.

        After an error or a cancellation there is no file.
        """
        ...

    async def get_bytes(self, key: str, *, bytes_max: int) -> bytes:
        """Return an object.

        Raises:
            SnapshotNotFoundError: There is none.
            SnapshotCorruptError: It is larger than `bytes_max`.
        """
        ...

    async def list(self, prefix: str) -> Sequence[StoredObject]:
        """Return the objects whose keys begin with the prefix, in order of keys; an empty prefix is every key's."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    async def remove_leftovers(self, prefix: str) -> None:
        """Remove what calls that died left of objects whose keys begin with the prefix; not what is being written."""
        ...


def is_key(text: str) -> bool:
    """Return whether the text can be an object's key."""
    if len(text) > OBJECT_KEY_CHARACTERS_MAX or not _KEY.fullmatch(text):
        return False
    return all(part not in {".", ".."} and len(part) <= KEY_PART_CHARACTERS_MAX for part in text.split("/"))


def check_key(key: str) -> str:
    """Return the key.

    Raises:
        SnapshotError: It is none.
    """
    if not is_key(key):
        raise SnapshotError(
            f"{key[:_SHOWN_CHARACTERS_MAX]!r} is no key of an object: use at most {OBJECT_KEY_CHARACTERS_MAX} characters, in parts "
            f"of at most {KEY_PART_CHARACTERS_MAX} of a-z, 0-9, '.', '_' and '-' with '/' between them"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return the directory that a prefix lies in: the parts of it that are whole.

    Raises:
        SnapshotError: No key begins so.
    """
    directory = prefix.rpartition("/")[0]
    if not _PREFIX.fullmatch(prefix):
        raise SnapshotError(f"no key of an object begins with {prefix[:_SHOWN_CHARACTERS_MAX]!r}")
    return check_key(directory) if directory else ""


class LocalStorage(ObjectStorage):
    """Objects as private files below a directory: another disk, or a mounted file system.

    Args:
        directory: Made when something is stored. What lies in it belongs to the storage; links in it are not followed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"<LocalStorage {self.directory}>"

    @property
    def location(self) -> str:
        """The directory's path."""
        return os.path.abspath(self.directory)  # noqa: PTH100  # without ".." and the like, and without following links

    async def put(self, key: str, path: Path) -> None:
        """See `ObjectStorage.put`. Cancellation waits for the copy's end."""
        await run_in_thread(partial(self._put, check_key(key), path))

    async def put_bytes(self, key: str, content: bytes) -> None:
        """See `ObjectStorage.put_bytes`."""
        await run_in_thread(partial(self._put_bytes, check_key(key), content))

    async def get(self, key: str, path: Path) -> None:
        """See `ObjectStorage.get`. Cancellation waits for the copy's end."""
        await run_in_thread(partial(self._get, check_key(key), path))

    async def get_bytes(self, key: str, *, bytes_max: int) -> bytes:
        """See `ObjectStorage.get_bytes`."""
        return await run_in_thread(partial(self._get_bytes, check_key(key), bytes_max))

    async def list(self, prefix: str) -> Sequence[StoredObject]:
        """See `ObjectStorage.list`."""
        return await run_in_thread(partial(self._list, check_prefix(prefix), prefix))

    async def delete(self, key: str) -> None:
        """See `ObjectStorage.delete`. What a crash left of the object goes with it."""
        await run_in_thread(partial(self._delete, check_key(key)))

    async def remove_leftovers(self, prefix: str) -> None:
        """See `ObjectStorage.remove_leftovers`."""
        await run_in_thread(partial(self._remove_leftovers, check_prefix(prefix), prefix))

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
            raise SnapshotCorruptError(f"{key} is larger than the {bytes_max} bytes that it may have")
        return content

    def _list(self, directory: str, prefix: str) -> Sequence[StoredObject]:
        with storage_errors(f"list what begins with {prefix!r} in {self.directory}"):
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
        with storage_errors(f"remove what was left of what begins with {prefix!r}"):
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
        """Return the draft of an object, begun; its directory is made, again if a `delete` takes it away meanwhile."""
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
        raise SnapshotNotFoundError(f"there is no object {key} in {self.directory}")

    def _looked_up(self, key: str) -> Path:
        """Return the path of a key, or of a directory of keys, in which no part is a link.

        Raises:
            SnapshotError: A part is one.
            OSError: A part is missing.
        """
        path = self.directory
        for part in key.split("/") if key else ():
            path /= part
            if stat.S_ISLNK(path.lstat().st_mode):
                raise SnapshotError(f"{path} is a link: put the file or directory itself there")
        return path

    def _remove_empty_directories(self, directory: Path) -> None:
        """Remove directories that are empty now, upwards from this one, and make durable what was removed.

        Also where nothing is left to remove: the process that removed it may have died before its sync.
        """
        while directory != self.directory:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # not empty, or not a directory
                break
            directory = directory.parent
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            sync_directory(directory)


def _objects_below(directory: str | Path, key: str) -> list[StoredObject]:
    found: list[StoredObject] = []
    # Whatever is deleted while this looks is not in the list.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found += _objects_below(entry.path, f"{key}{entry.name}/")
            elif entry.is_file(follow_symlinks=False) and is_key(key + entry.name):
                with contextlib.suppress(FileNotFoundError):
                    found.append(StoredObject(key + entry.name, entry.stat(follow_symlinks=False).st_size))
    return found
