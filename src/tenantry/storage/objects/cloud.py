"""Object storage in a cloud, through the `obstore` package: S3 and what speaks as it does, Google's and Azure's.

An upload in parts that is cut short leaves its parts, unseen, in the bucket: a lifecycle rule there should remove them
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpu-abort-incomplete-mpu-lifecycle-config.html).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import anyio

from tenantry.errors import SnapshotCorruptError, SnapshotError, SnapshotNotFoundError
from tenantry.files.atomic_file import DraftFile, storage_errors
from tenantry.storage.objects.cloud_errors import StoreAnswer
from tenantry.storage.objects.protocol import (
    LocalStorage,
    ObjectStorage,
    StoredObject,
    check_key,
    check_prefix,
    is_key,
)
from tenantry.threads import run_in_thread

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

PART_BYTES: Final = 5 * 1024 * 1024
"""What one request carries, the least that S3 takes: a slow line moves it within a request's time (obstore's is 30 s), and a
request that fails is made again for this much only."""

_PARTS_MAX: Final = 9_000  # S3 takes 10,000
_PARTS_AT_ONCE: Final = 2
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# By the store's kind: how its URLs begin, and its setting that names the bucket.
_SCHEMES: Final = {
    "S3Store": ("s3", "bucket"),
    "GCSStore": ("gs", "bucket"),
    "AzureStore": ("az", "container_name"),
}
_POSSIBLE: Final = (
    "give a directory or file:///directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
)


class ObstoreStorage(ObjectStorage):
    """Objects in a bucket, or in memory.

    Args:
        store: One of `obstore.store`, with its credentials, timeouts and retries.
        prefix: What every key begins with in the bucket, before a ``/``; nothing if empty.
    """

    def __init__(self, store: "ObjectStore", prefix: str = "") -> None:
        self._store = store
        if prefix:
            check_key(prefix.lower())  # the bucket is somebody else's, and may have capitals
        self._prefix = f"{prefix}/" if prefix else ""

    def __repr__(self) -> str:
        return f"<ObstoreStorage {type(self._store).__name__} {self._prefix!r}>"

    @property
    def location(self) -> str:
        """The bucket's URL with the prefix; of a store that has none, the store's kind."""
        store: Any = self._store  # the kinds have no common type for this
        kind = type(store).__name__
        scheme, setting = _SCHEMES.get(kind, (kind.lower(), None))
        bucket = "" if setting is None else store.config[setting]
        inside = (getattr(store, "prefix", None) or "").strip("/")
        return f"{scheme}://{'/'.join(filter(None, (bucket, inside, self._prefix.rstrip('/'))))}"

    async def put(self, key: str, path: Path) -> None:
        """See `ObjectStorage.put`."""
        location = self._location(key)
        with storage_errors(f"store {path} as {key}"):
            size_bytes = (await run_in_thread(path.stat)).st_size
        with _store_errors(f"store {path} as {key}", missing=SnapshotError):
            await self._store.put_async(
                location,
                path,
                chunk_size=max(PART_BYTES, -(-size_bytes // _PARTS_MAX)),
                max_concurrency=_PARTS_AT_ONCE,
            )

    async def put_bytes(self, key: str, content: bytes) -> None:
        """See `ObjectStorage.put_bytes`."""
        location = self._location(key)
        with _store_errors(f"store {key}", missing=SnapshotError):
            await self._store.put_async(location, content, use_multipart=False)

    async def get(self, key: str, path: Path) -> None:
        """See `ObjectStorage.get`."""
        with _store_errors(f"read {key}"):
            found = await self._head(self._location(key))
        draft = DraftFile(path)
        try:
            with storage_errors(f"write {key} into {path}"):
                await run_in_thread(draft.open)
                for start in range(0, found["size"], PART_BYTES):
                    part = await self._part(found, start)
                    await run_in_thread(partial(draft.write, part))
                await run_in_thread(draft.publish)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_thread(draft.discard)

    async def get_bytes(self, key: str, *, bytes_max: int) -> bytes:
        """See `ObjectStorage.get_bytes`."""
        location = self._location(key)
        with _store_errors(f"read {key}"):
            found = await self._store.get_async(location)
            if found.meta["size"] > bytes_max:
                raise SnapshotCorruptError(f"{key} is larger than the {bytes_max} bytes that it may have")
            return bytes(await found.bytes_async())

    async def list(self, prefix: str) -> Sequence[StoredObject]:
        """See `ObjectStorage.list`."""
        # The store's own prefixes are whole parts of a key.
        directory = (self._prefix + check_prefix(prefix)).removesuffix("/")
        with _store_errors(f"list what begins with {prefix!r}"):
            found = await self._store.list(directory or None).collect_async()
        return sorted(
            each
            for each in map(self._stored_object, found)
            if each.key.startswith(prefix) and is_key(each.key)
        )

    async def delete(self, key: str) -> None:
        """See `ObjectStorage.delete`."""
        location = self._location(key)
        try:
            with _store_errors(f"delete {key}"):
                await self._store.delete_async(location)
        except SnapshotNotFoundError:
            pass  # S3 does not even say so

    async def remove_leftovers(self, prefix: str) -> None:
        """Do nothing: an upload that was cut short is no object, and the bucket's own rules remove its parts."""
        check_prefix(prefix)

    async def _head(self, location: str) -> "ObjectMeta":
        from obstore.exceptions import BaseError  # noqa: PLC0415  # an extra

        try:
            return await self._store.head_async(location)
        except BaseError as error:
            if not StoreAnswer.of(error).is_refusal:
                raise
            # The answer to HEAD has no body that would say why (RFC 9110, section 9.3.2); the one to GET has.
            return (await self._store.get_async(location)).meta

    async def _part(self, found: "ObjectMeta", start: int) -> bytes:
        end = min(start + PART_BYTES, found["size"])
        options: GetOptions = {"range": (start, end)}
        if found["e_tag"]:
            options["if_match"] = found["e_tag"]  # or the parts of two objects could become one
        with _store_errors(f"read {found['path']}"):
            part = bytes(await (await self._store.get_async(found["path"], options=options)).bytes_async())
        if len(part) != end - start:
            raise SnapshotError(
                f"cannot read {found['path']}: a part is missing: try again", is_retryable=True
            )
        return part

    def _location(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _stored_object(self, found: "ObjectMeta") -> StoredObject:
        return StoredObject(found["path"].removeprefix(self._prefix), found["size"])


def open_storage(url: str) -> ObjectStorage:
    """Return the storage at a URL; nothing is read or written yet.

    Credentials, endpoints and the like come from the environment, by the names that obstore documents (``AWS_ACCESS_KEY_ID``,
    ``AWS_ENDPOINT_URL``, ``GOOGLE_SERVICE_ACCOUNT``, ``AZURE_STORAGE_ACCOUNT_NAME``, …).

    Args:
        url: A directory's path or ``file:///directory``; ``s3://bucket/prefix``, ``gs://bucket/prefix`` or
            ``az://container/prefix``, whose prefix may be left out.

    Raises:
        SnapshotError: It is none of these, the extra ``object-store`` is not installed, or a setting is missing.
    """
    scheme, separator, rest = url.partition("://")
    if not separator and url:
        return LocalStorage(Path(url))
    if scheme == "file":
        path = unquote(rest.removeprefix("localhost"))
        if path.startswith("/"):
            return LocalStorage(Path(path))
    bucket, _, prefix = rest.partition("/")
    if scheme not in {"s3", "gs", "az"} or not _BUCKET.fullmatch(bucket):
        # Not the whole of it: somebody may have put a password there.
        raise SnapshotError(f"a URL like this ({scheme[:8]}://…) is no storage's: {_POSSIBLE}")
    return ObstoreStorage(_open_bucket(scheme, bucket), prefix.rstrip("/"))


def _open_bucket(scheme: str, bucket: str) -> "ObjectStore":
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415  # an extra
        from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415
    except ImportError as error:
        raise SnapshotError(
            f"{scheme}:// needs the obstore package: pip install 'tenantry[object-store]'"
        ) from error
    make: Callable[..., ObjectStore] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    try:
        # Without options of ours: they would take the place of those in the environment (AWS_ALLOW_HTTP).
        return make(bucket)
    except BaseError as error:
        raise SnapshotError(
            f"cannot use {scheme}://{bucket}: {StoreAnswer.of(error).shown}: set it in the environment"
        ) from error


@contextmanager
def _store_errors(doing: str, *, missing: type[SnapshotError] = SnapshotNotFoundError) -> Iterator[None]:
    """Raise what the store refuses as tenantry's errors.

    Args:
        doing: What was being done, to follow "cannot".
        missing: What to raise where there is no such object, or no such bucket.
    """
    from obstore.exceptions import BaseError, GenericError, PreconditionError  # noqa: PLC0415  # an extra

    try:
        yield
    except FileNotFoundError as error:
        answer = StoreAnswer.of(error)
        said = f" ({answer.shown})" if answer.code else ""
        raise missing(f"cannot {doing}: there is no such object, or no such bucket{said}") from error
    except (BaseError, OSError) as error:
        answer = StoreAnswer.of(error)
        is_retryable = answer.may_pass(by_default=isinstance(error, GenericError | PreconditionError))
        raise SnapshotError(
            f"cannot {doing}: {answer.shown}: {answer.advice}", code=answer.code, is_retryable=is_retryable
        ) from error
