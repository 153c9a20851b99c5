"""Object storage in a cloud, through the `obstore` package: S3 and compatible stores, Google Cloud Storage, and Azure.

An interrupted upload leaves invisible parts in the bucket. A lifecycle rule of the bucket should remove these parts
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpu-abort-incomplete-mpu-lifecycle-config.html).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
"""The size of one part of an upload or download, which is the smallest size that S3 accepts. A slow connection can transfer such a
part within one request's timeout (obstore's default is 30 s), and a retry repeats only one part."""

_PARTS_MAX: Final = 9_000  # S3 accepts 10,000
_PARTS_AT_ONCE: Final = 2
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# The scheme of the URLs and the name of the setting for the bucket, for each class of stores.
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
        store: A store of `obstore.store`, with its credentials, timeouts and retries.
        prefix: The prefix of every key in the bucket, without a final ``/``, or an empty string.
    """

    def __init__(self, store: "ObjectStore", prefix: str = "") -> None:
        self._store = store
        if prefix:
            check_key(prefix.lower())  # unlike a key, the prefix of a bucket may have capital letters
        self._prefix = f"{prefix}/" if prefix else ""

    def __repr__(self) -> str:
        return f"<ObstoreStorage {type(self._store).__name__} {self._prefix!r}>"

    @property
    def location(self) -> str:
        """The bucket's URL with the prefix. For a store without a bucket, the URL has the name of the store's class."""
        store: Any = self._store  # the classes of stores have no common type for their settings
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
                    await run_in_thread(draft.write, part)
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
                raise SnapshotCorruptError(f"{key} is larger than the limit of {bytes_max} bytes")
            return bytes(await found.bytes_async())

    async def list(self, prefix: str) -> Sequence[StoredObject]:
        """See `ObjectStorage.list`."""
        # obstore accepts only prefixes that are whole parts of a key.
        directory = (self._prefix + check_prefix(prefix)).removesuffix("/")
        with _store_errors(f"list the objects with the prefix {prefix!r}"):
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
            pass  # S3 reports no error if the object is missing

    async def remove_leftovers(self, prefix: str) -> None:
        """Do nothing, because an interrupted upload creates no object, and the bucket's lifecycle rules remove the parts."""
        check_prefix(prefix)

    async def _head(self, location: str) -> "ObjectMeta":
        from obstore.exceptions import BaseError  # noqa: PLC0415  # an extra

        try:
            return await self._store.head_async(location)
        except BaseError as error:
            if not StoreAnswer.of(error).is_refusal:
                raise
            # The response to HEAD has no body with the reason (RFC 9110, section 9.3.2), so a GET asks for the reason.
            return (await self._store.get_async(location)).meta

    async def _part(self, found: "ObjectMeta", start: int) -> bytes:
        end = min(start + PART_BYTES, found["size"])
        options: GetOptions = {"range": (start, end)}
        if found["e_tag"]:
            options["if_match"] = found["e_tag"]  # all parts must come from the same version of the object
        with _store_errors(f"read {found['path']}"):
            part = bytes(await (await self._store.get_async(found["path"], options=options)).bytes_async())
        if len(part) != end - start:
            raise SnapshotError(
                f"cannot read {found['path']}: the response is incomplete: try again", is_retryable=True
            )
        return part

    def _location(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _stored_object(self, found: "ObjectMeta") -> StoredObject:
        return StoredObject(found["path"].removeprefix(self._prefix), found["size"])


def open_storage(url: str) -> ObjectStorage:
    """Return the storage at a URL, without reading or writing anything.

    Credentials, endpoints and other settings come from environment variables with the names that obstore documents
    (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_SERVICE_ACCOUNT``, ``AZURE_STORAGE_ACCOUNT_NAME``, …).

    Args:
        url: A directory's path or ``file:///directory``; or ``s3://bucket/prefix``, ``gs://bucket/prefix`` or
            ``az://container/prefix``, with or without the prefix.

    Raises:
        SnapshotError: The URL is not valid, the extra ``object-store`` is not installed, or a setting is missing.
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
        # The message does not show the whole URL, which may contain a password.
        raise SnapshotError(f"{scheme[:8]}://… is not a valid storage URL: {_POSSIBLE}")
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
        # The call passes no options, because options would replace settings in the environment, such as AWS_ALLOW_HTTP.
        return make(bucket)
    except BaseError as error:
        raise SnapshotError(
            f"cannot use {scheme}://{bucket}: {StoreAnswer.of(error).shown}: set the missing value in the environment"
        ) from error


@contextmanager
def _store_errors(doing: str, *, missing: type[SnapshotError] = SnapshotNotFoundError) -> Iterator[None]:
    """Map the errors of obstore to tenantry's errors.

    Args:
        doing: The failed step, for the message after "cannot".
        missing: The error to raise if the object or the bucket does not exist.
    """
    from obstore.exceptions import BaseError, GenericError, PreconditionError  # noqa: PLC0415  # an extra

    try:
        yield
    except FileNotFoundError as error:
        answer = StoreAnswer.of(error)
        said = f" ({answer.shown})" if answer.code else ""
        raise missing(f"cannot {doing}: the object or the bucket does not exist{said}") from error
    except (BaseError, OSError) as error:
        answer = StoreAnswer.of(error)
        is_retryable = answer.may_pass(by_default=isinstance(error, GenericError | PreconditionError))
        raise SnapshotError(
            f"cannot {doing}: {answer.shown}: {answer.advice}", code=answer.code, is_retryable=is_retryable
        ) from error
