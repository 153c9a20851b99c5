"""Work on databases that nobody has open: compact, check, repair, copy; each leaves one whole file or what was there."""

import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stores import content, left_open, open_owned_store, run
from tenantry.errors import DatabaseCorruptError, PersistenceConnectionError, QueryError, SnapshotError
from tenantry.storage.sqlite.database_files import database_file
from tenantry.storage.sqlite.maintenance import integrity, maintenance, online_backup
from tenants import damage_index, held_writer, query

ROWS = 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a write-ahead log, an index, rows, and the space of rows that were deleted."""
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, word TEXT NOT NULL)")
        connection.execute("CREATE INDEX t_word ON t (word)")
        connection.execute("BEGIN")
        words = ((f"word {n} " + "x" * 100,) for n in range(ROWS))
        connection.executemany("INSERT INTO t (word) VALUES (?)", words)
        connection.execute("COMMIT")
        connection.execute("DELETE FROM t WHERE n > 10")
    return path


def files(path: Path) -> list[str]:
    """Return the names of what lies where the database does."""
    return sorted(found.name for found in path.parent.iterdir())


def spoil(path: Path) -> None:
    """Overwrite everything of a database but its first page."""
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))


class TestCompact:
    """One small file."""

    def test_gives_space_back(self, path: Path):
        """All that was in it is in it, in a fraction of the space, and nothing lies beside it."""
        before, size_bytes = content(path), path.stat().st_size
        left_open(path, "INSERT INTO t VALUES (11, 'in the log')")
        maintenance.compact(path)
        assert files(path) == ["test.db"]
        assert path.stat().st_size < size_bytes / 10
        assert [line for line in content(path) if "in the log" not in line] == before
        assert query(path, "SELECT word FROM t WHERE n = 11") == [("in the log",)]
        assert query(path, "PRAGMA journal_mode") == [("wal",)]

    def test_a_checkpoint_alone(self, path: Path):
        """What was in the log is in the file; the space stays."""
        left_open(path, "INSERT INTO t VALUES (11, 'in the log')")
        size_bytes = path.stat().st_size
        maintenance.checkpoint(path)
        assert files(path) == ["test.db"]
        assert path.stat().st_size >= size_bytes
        assert query(path, "SELECT word FROM t WHERE n = 11") == [("in the log",)]

    @pytest.mark.parametrize("work", [maintenance.compact, maintenance.checkpoint, maintenance.repair])
    def test_what_is_no_database(self, path: Path, work: Callable[[Path], object]):
        """Damage, another file and no file at all are one kind of error, and nothing is changed or made."""
        path.write_bytes(b"no database " * 500)
        with pytest.raises(DatabaseCorruptError):
            work(path)
        assert path.read_bytes() == b"no database " * 500
        path.write_bytes(b"")
        with pytest.raises(DatabaseCorruptError, match="missing or empty"):
            work(path)
        path.unlink()
        with pytest.raises(DatabaseCorruptError, match="missing or empty"):
            work(path)
        assert files(path) == []

    @pytest.mark.parametrize("work", [maintenance.compact, maintenance.repair])
    def test_a_file_that_is_in_use(self, path: Path, work: Callable[..., object]):
        """Somebody holds it after all: that is the moment's failure and no damage; the file is as it was."""
        damage_index(path, "t_word", b"word 3")
        with held_writer(path), pytest.raises(QueryError, match="SQLITE_BUSY") as caught:
            work(path, busy_seconds=0.0)
        assert caught.value.is_transient

    def test_a_path_that_cannot_be_opened(self, path: Path):
        """A directory in the file's place."""
        (path.parent / "directory").mkdir()
        for work in (maintenance.compact, maintenance.checkpoint, maintenance.repair):
            with pytest.raises(PersistenceConnectionError):
                work(path.parent / "directory")


class TestCheck:
    """What is in a file."""

    async def test_reports_what_is_in_it(self, tmp_path: Path):
        """Versions, rows, whose it is and size, of a tenant's own database."""
        directory = tmp_path / "data"
        directory.mkdir()
        async with open_owned_store(directory, uid="uid-7") as store:
            await store.write(
                [(run('CREATE TABLE "odd "" name" (n)'),), (run('INSERT INTO "odd "" name" VALUES (1)'),)]
            )
        path = directory / "tenants" / "acme" / "tenant.db"
        report = integrity.check(path, is_thorough=True)
        assert report.schema_versions == {"company": 1}
        assert report.tenant_uid == "uid-7"
        assert (report.row_counts['odd " name'], report.row_counts["messages"]) == (1, 0)
        assert report.size_bytes == path.stat().st_size

    def test_a_database_that_is_not_a_tenants(self, path: Path):
        """It has no versions and says of nobody that it is his; an owner's table without a row says as little."""
        report = integrity.check(path)
        assert (report.schema_versions, report.tenant_uid, report.row_counts) == ({}, None, {"t": 10})
        query(path, "CREATE TABLE tenantry_owner (id, tenant_uid)")
        assert integrity.check(path).tenant_uid is None

    def test_changes_nothing(self, path: Path):
        """The file may be read-only and another's: it is neither locked nor written, and nothing is made beside it."""
        before = path.read_bytes()
        with held_writer(path, "EXCLUSIVE"):
            integrity.check(path, is_thorough=True)
        assert path.read_bytes() == before
        assert files(path) == ["test.db"]

    def test_finds_damage(self, path: Path):
        """A spoilt page, a file that is cut short, none, and one that is empty."""
        whole = path.read_bytes()
        for spoilt in (
            whole[:4096] + b"\xa5" * (len(whole) - 4096),
            whole[:5000],
            b"no database " * 500,
            b"",
        ):
            path.write_bytes(spoilt)
            with pytest.raises(DatabaseCorruptError, match=str(path)):
                integrity.check(path)
        path.unlink()
        with pytest.raises(DatabaseCorruptError):
            integrity.check(path)

    def test_a_virtual_table_without_its_table(self, path: Path):
        """A sound database with a table that cannot be read is not called damaged: the table is named."""
        query(path, "CREATE VIRTUAL TABLE found USING fts5 (word, content = 't', content_rowid = 'n')")
        query(path, "ALTER TABLE t RENAME TO words")
        with pytest.raises(
            SnapshotError, match=r"table 'found' .* cannot be read \(no such table: main.t\)"
        ) as caught:
            integrity.check(path)
        assert (caught.value.code, caught.value.is_retryable) == ("SQLITE_ERROR", False)
        integrity.check_closed(path, is_thorough=True)

    def test_an_index_is_compared_on_request(self, path: Path):
        """A row that its index does not know is found by the thorough check, and named."""
        damage_index(path, "t_word", b"word 3")
        integrity.check(path)
        with pytest.raises(DatabaseCorruptError, match="row 4 missing from index t_word"):
            integrity.check(path, is_thorough=True)


class TestRepair:
    """An index is built anew; no more is promised."""

    def test_a_sound_database(self, path: Path):
        """Nothing changes but that the log is gone."""
        before = content(path)
        maintenance.repair(path)
        assert content(path) == before
        assert files(path) == ["test.db"]

    def test_an_index(self, path: Path):
        """Its rows are found by it again."""
        damage_index(path, "t_word", b"word 3")
        lookup = "SELECT n FROM t INDEXED BY t_word WHERE word GLOB 'word 3 *'"
        assert query(path, lookup) == []
        maintenance.repair(path)
        assert query(path, lookup) == [(4,)]
        integrity.check(path, is_thorough=True)

    def test_beyond_repair(self, path: Path):
        """A damaged table stays as it is, and the error says what helps."""
        spoil(path)
        before = path.read_bytes()
        with pytest.raises(DatabaseCorruptError, match="restore a snapshot"):
            maintenance.repair(path)
        assert path.read_bytes() == before

    def test_rows_that_break_the_schema(self, path: Path):
        """What is wrong with the rows themselves no index cures: it is told, and nothing is changed."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE name = 't'")
        query(path, "INSERT INTO t VALUES (12, NULL)")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "UPDATE sqlite_schema SET sql = replace(sql, 'word TEXT', 'word TEXT NOT NULL') WHERE name = 't'"
            )
        with pytest.raises(
            DatabaseCorruptError, match=r"NULL value in t\.word: restore a snapshot, or correct"
        ):
            maintenance.repair(path)
        assert query(path, "SELECT count(*) FROM t") == [(11,)]


class TestCopy:
    """A copy of an open database."""

    def test_is_one_private_file(self, path: Path):
        """The copy has all that the database has, and nothing beside it; nobody else may read it."""
        target = path.parent / "copy.db"
        umask = os.umask(0)
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as source:
                online_backup.copy_database(source, target)
                assert not source.in_transaction
        finally:
            os.umask(umask)
        assert files(path) == ["copy.db", "test.db"]
        assert target.stat().st_mode & 0o777 == 0o600
        assert content(target) == content(path)
        integrity.check(target, is_thorough=True)

    def test_is_of_one_moment(self, path: Path):
        """While another connection moves a sum from row to row, and waits for nobody, the copy's sum is the sum."""
        query(path, "CREATE TABLE accounts (n INTEGER PRIMARY KEY, amount INTEGER NOT NULL, filler BLOB)")
        query(path, "INSERT INTO accounts SELECT n, 100, zeroblob(3000) FROM t")
        for _ in range(7):
            query(
                path,
                "INSERT INTO accounts SELECT n + (SELECT max(n) FROM accounts), 100, filler FROM accounts",
            )
        [(total,)] = query(path, "SELECT sum(amount) FROM accounts")
        moved, is_over = threading.Event(), threading.Event()
        moves = []

        def move() -> None:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                while not is_over.is_set():
                    connection.executescript(
                        "BEGIN IMMEDIATE; UPDATE accounts SET amount = amount - 1 WHERE n = 1;"
                        "UPDATE accounts SET amount = amount + 1 WHERE n = (SELECT max(n) FROM accounts); COMMIT;"
                    )
                    moves.append(1)
                    moved.set()

        steps = []

        def progress(left: int, total_pages: int) -> None:
            steps.append((left, total_pages))
            moved.clear()
            assert moved.wait(60)  # a commit falls between each two steps of the copy

        thread = threading.Thread(target=move)
        thread.start()
        try:
            assert moved.wait(60)
            with closing(sqlite3.connect(path, isolation_level=None)) as source:
                online_backup.copy_database(source, path.parent / "copy.db", progress)
        finally:
            is_over.set()
            thread.join()
        assert len(moves) >= len(steps) > 2
        assert steps[-1][0] == 0
        assert [left for left, _ in steps] == sorted((left for left, _ in steps), reverse=True)
        assert query(path.parent / "copy.db", "SELECT sum(amount) FROM accounts") == [(total,)]
        integrity.check(path.parent / "copy.db", is_thorough=True)

    def test_a_target_that_exists(self, path: Path):
        """It is another's, and is not overwritten."""
        target = path.parent / "copy.db"
        target.write_text("mine")
        with closing(sqlite3.connect(path)) as source, pytest.raises(FileExistsError):
            online_backup.copy_database(source, target)
        assert target.read_text() == "mine"

    def test_an_end_that_the_caller_wants(self, path: Path):
        """Progress that raises ends the copy; no file is left, and the source can be used."""
        target = path.parent / "copy.db"

        def stop(_left: int, _total: int) -> None:
            raise KeyboardInterrupt

        with closing(sqlite3.connect(path, isolation_level=None)) as source:
            with pytest.raises(KeyboardInterrupt):
                online_backup.copy_database(source, target, stop)
            assert not source.in_transaction
            assert source.execute("SELECT count(*) FROM t").fetchone() == (10,)
        assert not target.exists()

    def test_a_transaction_that_has_ended(self, path: Path):
        """What ended the copy, an error of the disk for example, may have ended its transaction: it is not masked by that."""
        with closing(sqlite3.connect(path, isolation_level=None)) as source:

            def stop(_left: int, _total: int) -> None:
                source.execute("ROLLBACK")
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                online_backup.copy_database(source, path.parent / "copy.db", stop)
        assert files(path) == ["test.db"]

    def test_a_source_that_is_damaged(self, path: Path):
        """The error is SQLite's own, not that there is no transaction to roll back; no file is left."""
        path.write_bytes(b"no database " * 500)
        with (
            closing(sqlite3.connect(path, isolation_level=None)) as source,
            pytest.raises(sqlite3.DatabaseError, match="not a database"),
        ):
            online_backup.copy_database(source, path.parent / "copy.db")
        assert files(path) == ["test.db"]

    def test_a_file_that_cannot_be_made_durable(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        """A copy that may be lost is none."""

        def fail(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched:
            patched.setattr(online_backup.os, "fsync", fail)
            with closing(sqlite3.connect(path)) as source, pytest.raises(OSError, match="Input/output"):
                online_backup.copy_database(source, path.parent / "copy.db")
        assert files(path) == ["test.db"]


def test_removing_a_database(path: Path):
    """All that belongs to it goes; what is missing is no error, and others stay."""
    left_open(path, "INSERT INTO t VALUES (11, 'x')")
    Path(f"{path}-journal").touch()
    (path.parent / "test.db.other").touch()
    for _ in range(2):
        database_file.remove_database(path)
        assert files(path) == ["test.db.other"]


def test_a_machine_that_fails_is_not_damage(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A check that cannot read the file says so, and that it may be tried again: the database may be sound."""

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(integrity, "_row_counts", fail)
    with pytest.raises(PersistenceConnectionError, match="Too many open files") as caught:
        integrity.check(path)
    assert caught.value.is_retryable
    monkeypatch.undo()
    (path.parent / "directory").mkdir()
    with pytest.raises(PersistenceConnectionError, match="SQLITE_IOERR_READ"):
        integrity.check_closed(path.parent / "directory")
