"""Databases that came from elsewhere are hostile until their schema was compared with what the schema packs make."""

import asyncio
import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from forgeries import forged, running
from registries import limited
from stores import HANG_SECONDS, reached
from tenantry import RegistryConfig, Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    DatabaseCorruptError,
    ForeignSchemaError,
    MigrationError,
    QueryError,
    RegistryClosedError,
    SnapshotError,
    StorageFullError,
    TenantNotFoundError,
)
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.archive.bundle import read_bundle
from tenantry.storage.archive.manifest import Manifest
from tenantry.storage.sqlite.foreign.foreign import STATISTICS_BYTES_MAX, STATISTICS_ROWS_MAX, check_foreign
from tenantry.storage.sqlite.foreign.schema_pages import check_schema_size
from tenantry.storage.sqlite.limits import SQLiteLimits
from tenantry.storage.sqlite.maintenance import integrity
from tenantry.tenancy.transfers import import_bundle
from tenants import database_path, make_message, open_files, query, stored_contents, write_pack

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
SLOW_COLUMN = ", slow TEXT AS (hex(zeroblob(1000000 + n))) NOT NULL"
"""It takes ``quick_check`` milliseconds for each row."""

LARGE_STATISTICS = (
    (
        "INSERT INTO sqlite_stat1 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        f"LIMIT {STATISTICS_ROWS_MAX + 1}) SELECT 'messages', NULL, i FROM n"
    ),
    f"UPDATE sqlite_stat1 SET stat = zeroblob({STATISTICS_BYTES_MAX}) WHERE rowid = 1",
)

HOSTILE = {
    "a trigger": (
        f"CREATE TRIGGER bad AFTER INSERT ON tenantry_owner BEGIN {ENDLESS}; END",
        "trigger 'bad'",
    ),
    "a view": (f"CREATE VIEW bad AS {ENDLESS}", "view 'bad'"),
    "a table with a CHECK": (
        "CREATE TABLE bad (n CHECK (instr(zeroblob(n), zeroblob(n)) > 0))",
        "table 'bad'",
    ),
    "a generated column": (
        f"CREATE TABLE bad (n {SLOW_COLUMN})",
        "table 'bad'",
    ),
    "a virtual table": ("CREATE VIRTUAL TABLE bad USING fts5(n)", "table 'bad'"),
    "an index": ("CREATE INDEX bad ON messages (hex(zeroblob(9)))", "index 'bad'"),
    "a name that no terminal should print": (
        'CREATE TABLE "\x1b[2Jbad\u202e" (n)',
        r"table '\\x1b\[2Jbad\\u202e'",
    ),
}


def pack(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, *migrations: str) -> Schema:
    """Return a schema pack of a test's own."""
    monkeypatch.syspath_prepend(str(directory))
    return Schema(name, write_pack(directory, name, *migrations))


async def exported(registry: TenantRegistry, path: Path) -> Path:
    """Return the bundle of a tenant with a message."""
    await registry.create("acme")
    await registry.tenant("acme").messages.save(make_message("one"))
    await registry.export("acme", path / "acme.tar.gz")
    return path / "acme.tar.gz"


def writing_without(table: str, part: str, statement: str) -> Callable[[sqlite3.Connection], object]:
    """Return what runs a statement while a part of a table's definition is not there."""

    def write(connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA schema_version").fetchone()
        (sql,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        assert part in sql
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ?, '') WHERE name = ?", (part, table))
        connection.execute(f"PRAGMA schema_version = {version + 1}")
        connection.execute(statement)
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, table))

    return write


async def assert_refused(
    registry: TenantRegistry, bundle: Path, names: str, accepted_tables: Sequence[str] = ()
) -> ForeignSchemaError:
    """Check that a bundle is refused with these names, and that nothing is left of it."""
    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(ForeignSchemaError, match=names) as caught:
            await registry.import_bundle("globex", bundle, accepted_tables=accepted_tables)
    with pytest.raises(TenantNotFoundError):
        await registry.get("globex")
    assert not [path for path in (registry.config.data_dir / "scratch").glob("*/*") if path.is_dir()]
    return caught.value


class TestImport:
    """Bundles may come from anybody."""

    @pytest.mark.parametrize("how", HOSTILE)
    async def test_objects_that_no_pack_makes(self, registry: TenantRegistry, tmp_path: Path, how: str):
        """They are refused with their names before any of their SQL has run, also where the table's name is accepted."""
        statement, name = HOSTILE[how]
        bundle = forged(await exported(registry, tmp_path), running(statement))
        error = await assert_refused(registry, bundle, name)
        assert len(error.objects) >= 1
        if how != "a name that no terminal should print":
            await assert_refused(
                registry, bundle, name, accepted_tables=["bad", "messages", "tenantry_owner"]
            )

    @pytest.mark.parametrize("table", ["messages", "tenantry_owner", "schema_migrations"])
    async def test_a_known_table_with_another_definition(
        self, registry: TenantRegistry, tmp_path: Path, table: str
    ):
        """A CHECK that somebody wrote into a table of a pack, or of tenantry's own, is found."""
        bundle = forged(
            await exported(registry, tmp_path),
            running(
                "PRAGMA writable_schema = ON",
                "UPDATE sqlite_schema SET sql = substr(sql, 1, instr(sql, '(')) || 'bad INT CHECK (bad <> 1), ' || "
                f"substr(sql, instr(sql, '(') + 1) WHERE name = '{table}'",
            ),
        )
        await assert_refused(registry, bundle, table, accepted_tables=[table])

    @pytest.mark.parametrize("tail", [" /*", "\0[", "\0'", '\0"', "\0`"])
    async def test_a_definition_without_an_end(self, registry: TenantRegistry, tmp_path: Path, tail: str):
        """Comparing definitions takes time in proportion to their length, also where a comment or a name has no end."""

        def extend(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA writable_schema = ON")
            sql = "UPDATE sqlite_schema SET sql = sql || ? WHERE name = 'messages'"
            connection.execute(sql, (tail + f"{tail[-1]} /* " * 100_000,))

        bundle = forged(await exported(registry, tmp_path), extend)
        if tail == " /*":  # SQLite takes it for a comment
            await registry.import_bundle("globex", bundle)
        else:
            await assert_refused(registry, bundle, "table 'messages'")

    @pytest.mark.parametrize("statement", LARGE_STATISTICS, ids=["rows", "bytes"])
    async def test_statistics_too_large_to_be_loaded(
        self, registry: TenantRegistry, tmp_path: Path, statement: str
    ):
        """Every connection loads a database's statistics: those that ANALYZE did not make are refused, its own are not."""
        analyzed = forged(await exported(registry, tmp_path), running("ANALYZE"))
        await registry.import_bundle("analyzed", analyzed)
        enlarged = forged(analyzed, running(statement))
        with pytest.raises(DatabaseCorruptError, match="its sqlite_stat1 has more than"):
            await registry.import_bundle("globex", enlarged)

    async def test_a_cache_as_large_as_the_header_says(self, registry: TenantRegistry, tmp_path: Path):
        """A file's header cannot let its connections hold the whole database in memory."""
        bundle = forged(await exported(registry, tmp_path), running("PRAGMA default_cache_size = 2000000000"))
        await registry.import_bundle("globex", bundle)
        (header,) = query(database_path(registry.config.data_dir, "globex"), "PRAGMA default_cache_size")
        session, cached = (
            registry.tenant("globex")._session,
            Statement("test.cache", "PRAGMA cache_size", fetch=Fetch.ONE),
        )
        immutable, (writing,), reading = (
            await session.read(cached),
            await session.write(cached),
            await session.read(cached),
        )
        assert header == (2000000000,)
        assert immutable == writing == (-2000,)
        assert reading in [(-2000,), (8,)]  # the engine lets a new reader keep less

    async def test_a_bundle_that_is_unpacked_for_long(
        self, registry: TenantRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Others are imported meanwhile: a bundle of some megabytes can become gigabytes of zeros."""
        path = await exported(registry, tmp_path)
        slow, going_on = threading.Event(), threading.Event()

        def wait(*args: Any, **options: Any) -> tuple[Manifest, Path]:
            if not slow.is_set():
                slow.set()
                going_on.wait(HANG_SECONDS)
            return read_bundle(*args, **options)

        monkeypatch.setattr(import_bundle, "read_bundle", wait)
        first = asyncio.ensure_future(registry.import_bundle("slow", path))
        try:
            await reached(slow.is_set)
            assert (await registry.import_bundle("globex", path)).id == "globex"
            assert not first.done()
        finally:
            going_on.set()
        assert (await first).id == "slow"

    async def test_a_disk_that_others_fill_while_a_bundle_is_unpacked(
        self, registry: TenantRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The import is given up as soon as the space is needed by tenants that write, and nothing is left of it."""
        path = await exported(registry, tmp_path)
        monkeypatch.setattr(import_bundle, "read_bundle", partial(read_bundle, room=lambda _: 0))
        with pytest.raises(StorageFullError, match="only the space that tenants need"):
            await registry.import_bundle("globex", path)
        assert not [path for path in (registry.config.data_dir / "scratch").glob("*/*") if path.is_dir()]

    async def test_a_name_that_only_looks_known(self, registry: TenantRegistry, tmp_path: Path):
        """SQLite folds the case of ASCII alone: a table with a Kelvin sign in its name is not ``tasks``."""
        bundle = forged(
            await exported(registry, tmp_path), running("ALTER TABLE tasks RENAME TO tas\N{KELVIN SIGN}s")
        )
        await assert_refused(registry, bundle, r"table 'tas\\u212as'")

    async def test_an_object_that_is_missing(self, registry: TenantRegistry, tmp_path: Path):
        """A database without one of its packs' indexes is not what the code believes it to be."""
        bundle = forged(await exported(registry, tmp_path), running("DROP INDEX messages_channel"))
        await assert_refused(registry, bundle, "lacks.*'messages_channel'")

    async def test_tables_that_are_accepted(self, registry: TenantRegistry, tmp_path: Path):
        """A plain table is imported with its rows and indexes if it is named, and only then."""
        columns = (
            "id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT DEFAULT (strftime('%s', 'now')), "
            "message TEXT REFERENCES messages (id), word TEXT CHECK (length(trim(word)) > 0) UNIQUE"
        )
        statements = (
            f"CREATE TABLE Notes ({columns})",
            "CREATE INDEX notes_word ON Notes (lower(word)) WHERE word IS NOT NULL",
            "INSERT INTO Notes (word) VALUES ('kept')",
            "ANALYZE",
        )
        bundle = forged(await exported(registry, tmp_path), running(*statements))
        error = await assert_refused(registry, bundle, "table 'Notes'")
        assert error.objects == ("table 'Notes'", "index 'sqlite_autoindex_Notes_1'", "index 'notes_word'")
        tenant = await registry.import_bundle("globex", bundle, accepted_tables=["notes"])
        assert tenant.id == "globex"
        assert query(database_path(registry.config.data_dir, "globex"), "SELECT word FROM notes") == [
            ("kept",)
        ]

    @pytest.mark.parametrize(
        "column",
        [
            "n CHECK (instr(n, 'x') > 0)",
            "n DEFAULT (hex(randomblob(1000000000)))",
            "n, m AS (n) STORED",
            "n CHECK (n LIKE '%a%a%a%')",
        ],
    )
    async def test_an_accepted_table_that_computes(
        self, registry: TenantRegistry, tmp_path: Path, column: str
    ):
        """What a name was accepted for is a plain table: no generated columns and no functions that can be expensive."""
        bundle = forged(await exported(registry, tmp_path), running(f"CREATE TABLE notes ({column})"))
        await assert_refused(registry, bundle, "table 'notes'", accepted_tables=["notes"])

    async def test_a_trigger_on_an_accepted_table(self, registry: TenantRegistry, tmp_path: Path):
        """It is refused, for nobody has accepted it."""
        statements = (
            "CREATE TABLE notes (n)",
            f"CREATE TRIGGER bad AFTER INSERT ON notes BEGIN {ENDLESS}; END",
        )
        bundle = forged(await exported(registry, tmp_path), running(*statements))
        await assert_refused(registry, bundle, "trigger 'bad'", accepted_tables=["notes"])

    async def test_a_schema_too_large_to_be_read(self, registry: TenantRegistry, tmp_path: Path):
        """Its size is found without SQLite, which would hold all of it in memory."""
        names = [f"CREATE TABLE t{number} (n)" for number in range(300)]
        bundle = forged(await exported(registry, tmp_path), running("BEGIN", *names, "COMMIT"))
        await assert_refused(registry, bundle, "and 2.. more")
        _, database = read_bundle(bundle, tmp_path, bytes_max=2**30)
        with pytest.raises(DatabaseCorruptError, match="300 objects"):
            check_schema_size(database, rows_max=300)

    async def test_migrations_that_are_none(self, registry: TenantRegistry, tmp_path: Path):
        """The types of what a file lists as its migrations are looked at: only SQLite's own writer keeps to them."""
        forge = writing_without(
            "schema_migrations", "STRICT,", "UPDATE schema_migrations SET version = 'one'"
        )
        bundle = forged(await exported(registry, tmp_path), forge)
        with pytest.raises(DatabaseCorruptError, match="the list of applied migrations in"):
            await registry.import_bundle("globex", bundle)

    async def test_flipped_bits(self, registry: TenantRegistry, data_dir: Path, tmp_path: Path):
        """Whatever a file holds, comparing and checking it end soon, with nothing but tenantry's own errors."""
        await registry.create("acme")
        await registry.suspend("acme")
        sound = database_path(data_dir, "acme").read_bytes()
        path = tmp_path / "test.db"
        seed = random.randrange(2**32)
        generator = random.Random(seed)
        for _ in range(150):
            content = bytearray(sound)
            for _ in range(generator.choice([1, 2, 8])):
                place = generator.choice([generator.randrange(4096), generator.randrange(len(content))])
                content[place] = generator.choice([0, 255, content[place] ^ 1 << generator.randrange(8)])
            path.write_bytes(content)
            try:
                check_foreign(path, [COMPANY])
                integrity.check(path)
            except (DatabaseCorruptError, ForeignSchemaError, MigrationError):
                continue
            except Exception as error:
                error.add_note(f"seed {seed}")
                raise

    async def test_all_that_packs_and_tenantry_make(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A tenant with altered and virtual tables, triggers and views of its packs, and idempotency keys, is imported."""
        own = pack(
            tmp_path,
            monkeypatch,
            "notes",
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, old TEXT, gone TEXT CHECK (json_valid(gone)));",
            'ALTER TABLE notes RENAME old TO word; ALTER TABLE notes DROP gone; ALTER TABLE notes ADD "when" TEXT;'
            "CREATE VIRTUAL TABLE words USING fts5 (word); CREATE VIEW all_notes AS SELECT word FROM notes;"
            "CREATE TRIGGER noted AFTER INSERT ON notes BEGIN INSERT INTO words VALUES (new.word); END;"
            "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, sha TEXT AS (word) STORED, word TEXT);",
        )
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=[COMPANY, own]) as registry:
            bundle = await exported(registry, tmp_path)
            await registry.tenant("acme").idempotent("key").messages.save(make_message("two"))
            (tmp_path / "acme.tar.gz").unlink()
            await registry.export("acme", bundle)
            await registry.import_bundle("globex", bundle)
            assert stored_contents(data_dir, "globex") == ["one", "two"]
        async with TenantRegistry(RegistryConfig(data_dir=tmp_path / "other")) as registry:
            await assert_refused(registry, bundle, "table 'notes'")

    async def test_a_slow_check_holds_up_nobody_and_ends_with_the_registry(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Other bundles are imported while a database is checked for very long, and closing the registry stops that check."""
        slow = pack(tmp_path, monkeypatch, "slow", f"CREATE TABLE slow (n INTEGER{SLOW_COLUMN});")
        config = RegistryConfig(data_dir=data_dir, shutdown_timeout_seconds=0.01)
        async with asyncio.timeout(HANG_SECONDS), TenantRegistry(config, schemas=[COMPANY, slow]) as registry:
            quick = await exported(registry, tmp_path)
            rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
            forge = writing_without("slow", SLOW_COLUMN, f"INSERT INTO slow {rows} SELECT i FROM n")
            endless = forged(quick, forge)
            stuck = asyncio.ensure_future(registry.import_bundle("stuck", endless))
            # A writer of its own would be there already, but for the check.
            await reached(lambda: any("tenant.db" in path for path in open_files(data_dir / "scratch")))
            assert (await registry.import_bundle("globex", quick)).id == "globex"
            assert not stuck.done()
        with pytest.raises(RegistryClosedError, match="prepared"):
            await stuck


class TestSnapshots:
    """The storage of snapshots may be written by others."""

    @pytest.mark.parametrize("how", ["endless", "growing"])
    async def test_a_trigger_that_a_migration_meets(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
    ):
        """A restore whose migration never ends, or takes the disk, is given up, and the tenant is as it was."""
        tables = "CREATE TABLE t (n); CREATE TABLE seq (n); CREATE TABLE filled (content);"
        actions = {
            "endless": "SELECT max(a.n + b.n + c.n + d.n) FROM seq a, seq b, seq c, seq d, seq e",
            "growing": "INSERT INTO filled SELECT zeroblob(a.n * b.n) FROM seq a, seq b",
        }
        monkeypatch.syspath_prepend(str(tmp_path))
        first = Schema("pack", write_pack(tmp_path, f"first_{how}", tables))
        config = RegistryConfig(data_dir=data_dir)
        async with TenantRegistry(config, schemas=[COMPANY, first]) as registry:
            await registry.create("acme")
            await registry.suspend("acme")
            path = database_path(data_dir, "acme")
            query(
                path,
                "INSERT INTO seq WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999) "
                "SELECT i FROM n",
            )
            query(path, f"CREATE TRIGGER bad AFTER INSERT ON t BEGIN {actions[how]}; END")
            snapshot = await registry.snapshots.create("acme")
        second = Schema("pack", write_pack(tmp_path, f"second_{how}", tables, "INSERT INTO t VALUES (1);"))
        limits = SQLiteLimits(
            prepare_seconds_min=0.5 if how == "endless" else HANG_SECONDS, prepare_growth_bytes_max=10 * 2**20
        )
        restoring = limited(TenantRegistry(config, schemas=[COMPANY, second]), limits)
        async with asyncio.timeout(HANG_SECONDS), restoring as registry:
            expected = SnapshotError if how == "endless" else MigrationError
            with pytest.raises(
                expected, match="look for a trigger or a migration" if how == "endless" else "full"
            ):
                await registry.snapshots.restore("acme", snapshot.id)
            assert (await registry.get("acme")).state is TenantState.SUSPENDED


class TestWatch:
    """Statements on a foreign database end."""

    def test_a_check_has_a_deadline(self, tmp_path: Path):
        """A check that lasts too long for a database of its size is stopped, and that is not taken for damage."""
        path = tmp_path / "test.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE t (n)")
            connection.execute(
                "INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                "WHERE i < 20000) SELECT i FROM n"
            )
            connection.commit()
        integrity.check(path)
        with pytest.raises(QueryError, match="took too long") as caught:
            integrity.check(path, seconds_min=-1.0)
        assert caught.value.is_transient
