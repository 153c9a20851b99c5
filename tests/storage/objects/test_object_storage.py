"""What each object storage does beyond the suite that all of them pass: files and links, buckets and broken lines, URLs."""

import asyncio
import html
import http.server
import itertools
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from obstore.store import MemoryStore, S3Store

from buckets import S3_SETTINGS, make_bucket, open_bucket, unfinished_uploads
from http_servers import another_server
from stores import small_disk
from tenantry.errors import SnapshotError, SnapshotNotFoundError, StorageFullError
from tenantry.files.atomic_file import DRAFT_SUFFIX, DraftFile
from tenantry.storage.objects.cloud import PART_BYTES, ObstoreStorage, open_storage
from tenantry.storage.objects.protocol import LocalStorage, StoredObject
from tenants import open_files, python

PUTS_AND_DIES = """
import asyncio, os, sys
from pathlib import Path
from tenantry.files.atomic_file import DraftFile
from tenantry.storage.objects.protocol import LocalStorage
DraftFile.publish = lambda self: (self._file.flush(), os.kill(os.getpid(), 9))
asyncio.run(LocalStorage(Path(sys.argv[1])).put_bytes(sys.argv[2], b"never whole"))
"""

_numbers = itertools.count()


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """A directory that does not exist yet."""
    return LocalStorage(tmp_path / "backups" / "of-tenants")


@pytest.fixture
def bucket(s3_url: str) -> S3Store:
    """An empty bucket."""
    return make_bucket(s3_url, f"bucket-{next(_numbers)}")


def files(directory: Path) -> list[str]:
    """Return the files, directories and links below a directory, with their rights."""
    return sorted(
        f"{path.relative_to(directory)} {stat.S_IMODE(path.lstat().st_mode):o}"
        for path in directory.rglob("*")
    )


class TestDirectory:
    """Objects as files."""

    async def test_everything_is_private(self, storage: LocalStorage, tmp_path: Path):
        """Directories and files are for this process's user alone, the missing ones above the storage too."""
        await storage.put_bytes("a/b/c.gz", b"1")
        assert files(tmp_path) == [
            "backups 700",
            "backups/of-tenants 700",
            "backups/of-tenants/a 700",
            "backups/of-tenants/a/b 700",
            "backups/of-tenants/a/b/c.gz 600",
        ]

    async def test_looking_makes_nothing(self, storage: LocalStorage, tmp_path: Path):
        """Reading, listing and deleting where nothing was stored leave no directory."""
        with pytest.raises(SnapshotNotFoundError):
            await storage.get_bytes("a/b", bytes_max=1)
        assert await storage.list("a/") == []
        await storage.delete("a/b")
        assert files(tmp_path) == []

    async def test_empty_directories_go(self, storage: LocalStorage):
        """The last object of a directory takes it along; the storage itself stays."""
        await storage.put_bytes("a/b/c/d", b"1")
        await storage.put_bytes("a/x", b"1")
        await storage.delete("a/b/c/d")
        assert files(storage.directory) == ["a 700", "a/x 600"]
        await storage.delete("a/x")
        assert files(storage.directory) == []

    async def test_links_are_not_followed(self, storage: LocalStorage, tmp_path: Path):
        """A link in the storage leads no call out of it: what it points to is neither read, listed, written nor deleted."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "file").write_bytes(b"precious")
        (outside / "file").chmod(0o600)
        await storage.put_bytes("a/b", b"1")
        (storage.directory / "a" / "link").symlink_to(outside / "file")
        (storage.directory / "linked").symlink_to(outside)
        (storage.directory / "a" / f"c{DRAFT_SUFFIX}").symlink_to(outside / "file")
        assert await storage.list("") == [StoredObject("a/b", 1)]
        for call in (
            storage.get("a/link", tmp_path / "target"),
            storage.get("linked/file", tmp_path / "target"),
            storage.get_bytes("a/link", bytes_max=100),
            storage.get_bytes("linked/file", bytes_max=100),
            storage.list("linked/"),
            storage.delete("a/link"),
            storage.delete("linked/file"),
            storage.put_bytes("linked/file", b"2"),
            storage.put_bytes("linked/new", b"2"),
            storage.put_bytes("a/c", b"2"),
        ):
            with pytest.raises(SnapshotError) as caught:
                await call
            assert not isinstance(caught.value, SnapshotNotFoundError)
        assert files(outside) == ["file 600"]
        assert (outside / "file").read_bytes() == b"precious"
        assert not (tmp_path / "target").exists()

    async def test_a_link_in_an_objects_place_is_replaced(self, storage: LocalStorage, tmp_path: Path):
        """Storing under its key puts the object there, and leaves what the link points to alone."""
        await storage.put_bytes("a/b", b"1")
        (tmp_path / "outside").write_bytes(b"precious")
        (storage.directory / "a" / "c").symlink_to(tmp_path / "outside")
        await storage.put_bytes("a/c", b"2")
        assert await storage.get_bytes("a/c", bytes_max=1) == b"2"
        assert (tmp_path / "outside").read_bytes() == b"precious"

    async def test_a_crash_leaves_the_object_as_it_was(self, storage: LocalStorage):
        """What a killed process left is in no list, and goes with the next object of that key."""
        await storage.put_bytes("a/b", b"old")
        with python(PUTS_AND_DIES, storage.directory, "a/b") as process:
            assert process.wait() == -9
        with python(PUTS_AND_DIES, storage.directory, "a/c") as process:
            assert process.wait() == -9
        drafts = [f"a/b{DRAFT_SUFFIX} 600", f"a/c{DRAFT_SUFFIX} 600"]
        assert files(storage.directory) == ["a 700", "a/b 600", *drafts]
        assert await storage.list("") == [StoredObject("a/b", 3)]
        assert await storage.get_bytes("a/b", bytes_max=3) == b"old"
        await storage.put_bytes("a/b", b"new")
        assert files(storage.directory) == ["a 700", "a/b 600", drafts[1]]
        await storage.delete("a/c")
        assert files(storage.directory) == ["a 700", "a/b 600"]
        assert await storage.get_bytes("a/b", bytes_max=3) == b"new"

    async def test_what_is_being_written_is_not_deleted(self, storage: LocalStorage):
        """Deleting an object that another call is storing takes neither its draft nor its directory away."""
        await storage.put_bytes("a/b", b"old")
        with DraftFile(storage.directory / "a" / "b") as draft:
            draft.write(b"new")
            await storage.delete("a/b")
            with pytest.raises(SnapshotError, match="try again") as caught:
                await storage.put_bytes("a/b", b"2")
            assert caught.value.is_retryable
        assert await storage.get_bytes("a/b", bytes_max=3) == b"new"

    async def test_storing_and_deleting_at_once(self, storage: LocalStorage):
        """A directory that a delete takes away is made again by whoever stores into it."""
        for round_number in range(50):
            old, new = f"a/b/{round_number}", f"a/b/{round_number + 1}"
            await storage.put_bytes(old, b"1")
            await asyncio.gather(storage.delete(old), storage.put_bytes(new, b"1"))
            assert await storage.list("") == [StoredObject(new, 1)]
            await storage.delete(new)
        assert files(storage.directory) == []

    async def test_other_peoples_files_are_no_objects(self, storage: LocalStorage):
        """What cannot be a key is in no list and in nobody's way."""
        await storage.put_bytes("a/b", b"1")
        (storage.directory / "README.txt").write_text("hands off")
        (storage.directory / "a" / "B").mkdir()
        (storage.directory / "a" / "B" / "c").touch()
        os.mkfifo(storage.directory / "a" / "pipe")
        assert await storage.list("") == [StoredObject("a/b", 1)]
        with pytest.raises(SnapshotNotFoundError):
            await storage.get_bytes("a/pipe", bytes_max=1)

    async def test_a_key_below_an_object_is_refused(self, storage: LocalStorage):
        """A file is no directory: the error says where, and both keys stay as they are."""
        await storage.put_bytes("a/b", b"1")
        with pytest.raises(SnapshotError, match=r"a/b is a link or not a directory"):
            await storage.put_bytes("a/b/c", b"2")
        with pytest.raises(SnapshotError):
            await storage.put_bytes("a", b"2")
        assert await storage.list("") == [StoredObject("a/b", 1)]

    async def test_a_full_disk(self, tmp_path: Path):
        """It is told as such, both ways; the object stays as it was and nothing is left."""
        (tmp_path / "source").write_bytes(bytes(2_000_000))
        with small_disk(tmp_path / "disk", "1m") as disk:
            storage = LocalStorage(disk / "objects")
            await storage.put_bytes("a/b", b"old")
            for store in (
                storage.put("a/b", tmp_path / "source"),
                storage.put_bytes("a/b", bytes(2_000_000)),
            ):
                with pytest.raises(StorageFullError):
                    await store
            assert files(disk) == ["objects 700", "objects/a 700", "objects/a/b 600"]
            assert await storage.get_bytes("a/b", bytes_max=3) == b"old"
            elsewhere = LocalStorage(tmp_path / "elsewhere")
            await elsewhere.put("a/b", tmp_path / "source")
            with pytest.raises(StorageFullError):
                await elsewhere.get("a/b", disk / "target")
            assert not (disk / "target").exists()
            assert open_files(disk) == []

    async def test_a_directory_that_cannot_be_used(self, tmp_path: Path):
        """The error names the path and says what to do."""
        (tmp_path / "file").touch()
        storage = LocalStorage(tmp_path / "file")
        with pytest.raises(SnapshotError, match="may read and write there") as caught:
            await storage.put_bytes("a/b", b"1")
        assert str(tmp_path / "file") in str(caught.value)
        assert not caught.value.is_retryable

    async def test_no_thread_is_left(self, storage: LocalStorage):
        """Its threads end with the calls."""
        await storage.put_bytes("a/b", b"1")
        await storage.list("")
        assert [each for each in threading.enumerate() if each.name.startswith("tenantry")] == []


class TestBucket:
    """Objects in a bucket of a real server."""

    async def test_keys_lie_below_the_prefix(self, bucket: S3Store):
        """Two prefixes share a bucket and do not see each other's objects, nor other people's."""
        one, other = ObstoreStorage(bucket, "one"), ObstoreStorage(bucket, "One-more")
        await one.put_bytes("a/b", b"1")
        await other.put_bytes("a/b", b"22")
        await bucket.put_async("one/a/NOT ours", b"3")
        assert await one.list("") == [StoredObject("a/b", 1)]
        assert await other.list("a") == [StoredObject("a/b", 2)]
        await one.delete("a/b")
        assert await other.get_bytes("a/b", bytes_max=2) == b"22"
        assert [each["path"] for each in await bucket.list().collect_async()] == [
            "One-more/a/b",
            "one/a/NOT ours",
        ]

    async def test_large_files_go_up_in_parts(self, bucket: S3Store, tmp_path: Path):
        """A file larger than a part is not read into memory, and the server puts the parts together."""
        (tmp_path / "source").write_bytes(os.urandom(2 * PART_BYTES + 1))
        await ObstoreStorage(bucket).put("a", tmp_path / "source")
        found = await bucket.head_async("a")
        assert found["e_tag"] is not None
        assert found["e_tag"].strip('"').endswith("-3")  # as S3 does: the number of parts

    async def test_a_cancelled_upload_is_not_seen(self, s3_url: str, tmp_path: Path):
        """Its parts may stay behind, unseen; the object is as it was."""
        name = f"bucket-{next(_numbers)}"
        storage = ObstoreStorage(make_bucket(s3_url, name))
        await storage.put_bytes("a", b"old")
        with (tmp_path / "source").open("wb") as source:
            source.truncate(200 * PART_BYTES)  # it is cancelled long before its end
        task = asyncio.ensure_future(storage.put("a", tmp_path / "source"))
        while not await asyncio.to_thread(unfinished_uploads, s3_url, name):
            assert not task.done(), "it was to be cancelled before its end"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await storage.list("") == [StoredObject("a", 3)]

    async def test_an_object_that_is_replaced_meanwhile(self, bucket: S3Store, tmp_path: Path):
        """The parts of two objects never become one file: the call fails and may be made again."""

        class Interrupted(ObstoreStorage):
            async def _part(self, *arguments: object) -> bytes:
                part = await super()._part(*arguments)  # type: ignore[arg-type]
                await self.put("a", tmp_path / "other")
                return part

        for name, content in (("source", b"1"), ("other", b"2")):
            (tmp_path / name).write_bytes(content * (2 * PART_BYTES))
        await ObstoreStorage(bucket).put("a", tmp_path / "source")
        with pytest.raises(SnapshotError) as caught:
            await Interrupted(bucket).get("a", tmp_path / "target")
        assert caught.value.is_retryable
        assert not isinstance(caught.value, SnapshotNotFoundError)
        assert not (tmp_path / "target").exists()
        assert len(files(tmp_path)) == 2

    async def test_a_missing_bucket_is_no_missing_snapshot(self, s3_url: str, tmp_path: Path):
        """Storing into a bucket that is not there says so: that it finds nothing would be no answer."""
        (tmp_path / "source").write_bytes(bytes(PART_BYTES + 1))
        storage = ObstoreStorage(open_bucket(s3_url, "nobody-made-it"))
        calls = storage.put("a", tmp_path / "source"), storage.put_bytes("a", b"1"), storage.list("")
        for call in calls:
            with pytest.raises(SnapshotError, match="bucket") as caught:
                await call
            assert not isinstance(caught.value, SnapshotNotFoundError)
        with pytest.raises(SnapshotNotFoundError, match="the bucket does not exist"):
            await storage.get_bytes("a", bytes_max=1)

    @pytest.mark.parametrize(
        ("status", "is_retryable"), [(403, False), (401, False), (503, True), (500, True)]
    )
    async def test_what_the_server_refuses(self, tmp_path: Path, status: int, is_retryable: bool):  # noqa: FBT001  # a parameter of the test
        """A lack of rights stays, a server's trouble may pass; the message tells no more of a URL than its path."""
        (tmp_path / "source").write_bytes(bytes(PART_BYTES + 1))
        with refusing_server(status) as url:
            storage = ObstoreStorage(open_bucket(url, "bucket", max_retries=0))
            for call in calls_of(storage, tmp_path):
                with pytest.raises(SnapshotError, match="has the rights") as caught:
                    await call()
                assert caught.value.is_retryable is is_retryable
                assert not isinstance(caught.value, SnapshotNotFoundError)
                assert "?" not in str(caught.value)
                assert "\n" not in str(caught.value)
        assert len(files(tmp_path)) == 1

    @pytest.mark.parametrize(
        ("status", "code", "message", "advice", "is_retryable"),
        [
            (403, "RequestTimeTooSkewed", "The difference is too large.", "machine's clock shows", False),
            (400, "ExpiredToken", "The provided token has expired.", "renew them", False),
            (403, "InvalidAccessKeyId", "The key you gave &quot;does&quot; not exist.", "rights", False),
            (409, "InvalidBucketState", "Not in this state.", "rights", False),
            (409, "OperationAborted", "A conflicting operation.", "rights", True),
            (400, "RequestTimeout", "Your socket was idle.", "rights", True),
        ],
    )
    async def test_what_the_store_says(  # parameters of the test
        self,
        tmp_path: Path,
        status: int,
        code: str,
        message: str,
        advice: str,
        is_retryable: bool,  # noqa: FBT001
    ):
        """Code and message reach the caller whole, with what to do, whichever call it was; a false clock or token stays one."""
        (tmp_path / "source").write_bytes(bytes(PART_BYTES + 1))
        with refusing_server(status, s3_error(code, message)) as url:
            storage = ObstoreStorage(open_bucket(url, "bucket", max_retries=0))
            for call in calls_of(storage, tmp_path):
                with pytest.raises(SnapshotError) as caught:
                    await call()
                told = f"{code}: {html.unescape(message)} (status {status})"
                assert told in str(caught.value)
                assert advice in str(caught.value)
                assert (caught.value.code, caught.value.is_retryable) == (code, is_retryable)

    async def test_the_time_at_the_store(self):
        """Where the clocks differ, both times are told."""
        more = "<ServerTime>2026-12-24T12:00:00Z</ServerTime>"
        with refusing_server(403, s3_error("RequestTimeTooSkewed", "Too large.", more)) as url:
            storage = ObstoreStorage(open_bucket(url, "bucket", max_retries=0))
            with pytest.raises(
                SnapshotError, match=r"clock shows 2\S+Z, and the store's clock shows 2026-12-24T12:00:00Z:"
            ):
                await storage.list("")

    async def test_an_object_under_a_lock(self):
        """S3 answers 200 to the deletion of several objects, and says of each why it was not deleted."""
        answer = (
            '<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Error><Key>a</Key><Code>AccessDenied</Code>'
            "<Message>Access Denied because object protected by object lock.</Message></Error></DeleteResult>"
        )
        with refusing_server(200, answer) as url:
            storage = ObstoreStorage(open_bucket(url, "bucket", max_retries=0))
            with pytest.raises(
                SnapshotError, match=r"AccessDenied: Access Denied .* object lock\."
            ) as caught:
                await storage.delete("a")
            assert not caught.value.is_retryable

    async def test_a_server_that_is_gone(self, tmp_path: Path):
        """No connection is worth another try."""
        (tmp_path / "source").write_bytes(b"1")
        with refusing_server(500) as url:
            pass
        storage = ObstoreStorage(open_bucket(url, "bucket", max_retries=0))
        for call in calls_of(storage, tmp_path):
            with pytest.raises(SnapshotError) as caught:
                await call()
            assert caught.value.is_retryable

    async def test_a_full_disk_leaves_nothing(self, bucket: S3Store, tmp_path: Path):
        """A download that does not fit is told as such and removed."""
        (tmp_path / "source").write_bytes(bytes(2_000_000))
        storage = ObstoreStorage(bucket)
        await storage.put("a", tmp_path / "source")
        with small_disk(tmp_path / "disk", "1m") as disk:
            with pytest.raises(StorageFullError):
                await storage.get("a", disk / "target")
            assert list(disk.iterdir()) == []
            assert open_files(disk) == []


def calls_of(storage: ObstoreStorage, directory: Path) -> list[Callable[[], object]]:
    """Return every call of a storage."""
    return [
        lambda: storage.put("a", directory / "source"),
        lambda: storage.put_bytes("a", b"1"),
        lambda: storage.get("a", directory / "target"),
        lambda: storage.get_bytes("a", bytes_max=1),
        lambda: storage.list(""),
        lambda: storage.delete("a"),
    ]


def s3_error(code: str, message: str, more: str = "") -> str:
    """Return the body of an error as S3 sends it."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>\n<Message>{message}</Message>{more}'
        "<RequestId>4442587FB7D0A2F9</RequestId></Error>"
    )


@contextmanager
def refusing_server(status: int, body: str | None = None) -> Iterator[str]:
    """Run a server that answers every request with this status, and give its URL."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if body is None:
                self.send_error(status)
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = refuse  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with another_server(Refusal) as url:
        yield url


class TestUrls:
    """What `open_storage` makes of a text."""

    @pytest.mark.parametrize(
        ("url", "directory"),
        [
            ("/srv/backups", "/srv/backups"),
            ("backups/here", "backups/here"),
            ("file:///srv/backups", "/srv/backups"),
            ("file:///srv/two%20words", "/srv/two words"),
            ("file://localhost/srv", "/srv"),
        ],
    )
    def test_directories(self, url: str, directory: str):
        """A path, and the URL of one."""
        storage = open_storage(url)
        assert isinstance(storage, LocalStorage)
        assert storage.directory == Path(directory)

    async def test_a_bucket_by_its_url(self, s3_url: str, bucket: S3Store, monkeypatch: pytest.MonkeyPatch):
        """Credentials and the endpoint come from the environment; what follows the bucket is the prefix."""
        for name, value in {**S3_SETTINGS, "AWS_ENDPOINT_URL": s3_url}.items():
            monkeypatch.setenv(name, value)
        storage = open_storage(f"s3://{bucket.config['bucket']}/Backups/of-tenants/")
        await storage.put_bytes("a/b", b"1")
        assert [each["path"] for each in await bucket.list().collect_async()] == ["Backups/of-tenants/a/b"]
        everything = open_storage(f"s3://{bucket.config['bucket']}")
        assert await everything.list("") == []
        await everything.put_bytes("c", b"1")
        assert await everything.list("") == [StoredObject("c", 1)]

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("gs://bucket/prefix", "<ObstoreStorage GCSStore 'prefix/'>"),
            ("az://container", "<ObstoreStorage AzureStore ''>"),
        ],
    )
    def test_other_clouds(self, url: str, shown: str, monkeypatch: pytest.MonkeyPatch):
        """Google's and Azure's are opened in the same way, without asking them."""
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        assert repr(open_storage(url)) == shown

    def test_a_missing_setting_is_told(self, monkeypatch: pytest.MonkeyPatch):
        """What the environment lacks is said when the storage is opened, not when the first snapshot is due."""
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
        with pytest.raises(SnapshotError, match="Account must be specified: set the missing value") as caught:
            open_storage("az://container")
        assert not caught.value.is_retryable

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "://",
            "s3://",
            "s3:///prefix",
            "s3://user:secret@bucket",
            "s3://bucket?secret",
            "file://",
            "file://host/srv",
            "http://secret/x",
            "memory://",
            "S3://bucket",
        ],
    )
    def test_anything_else_is_refused(self, url: str):
        """The message says what is possible, and does not repeat what may be a secret."""
        with pytest.raises(SnapshotError, match="s3://bucket/prefix") as caught:
            open_storage(url)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        "url", ["s3://bucket/../x", "s3://bucket//x", "s3://bucket/a b", "s3://bucket/x?y"]
    )
    def test_a_prefix_that_is_none(self, url: str):
        """A prefix is made of the parts of a key."""
        with pytest.raises(SnapshotError, match="is not a valid object key"):
            open_storage(url)

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        """A directory needs no more than tenantry; a bucket's error says what to install."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
            monkeypatch.setitem(sys.modules, name, None)
        assert isinstance(open_storage(str(tmp_path)), LocalStorage)
        with pytest.raises(SnapshotError, match=r"pip install 'tenantry\[object-store\]'"):
            open_storage("s3://bucket")

    def test_a_store_of_ones_own(self):
        """Any of obstore's stores will do, with the settings that its maker gave it."""
        assert repr(ObstoreStorage(MemoryStore(), "a/b")) == "<ObstoreStorage MemoryStore 'a/b/'>"
