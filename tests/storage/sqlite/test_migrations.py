"""Migrations: which are pending, how a script is split, and that a step is all or nothing."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores import MakePack, content, make_store, migrate
from tenantry.company import COMPANY
from tenantry.errors import DatabaseCorruptError, MigrationError, QueryError
from tenantry.schemas.migration import Migration
from tenantry.schemas.schema import Schema
from tenantry.storage.migrations import AppliedMigration, plan_migrations
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.migrations import migrator
from tenantry.storage.sqlite.migrations.migration_script import split_statements
from tenants import python, query, read_line

FIRST = "CREATE TABLE first (n INTEGER);"

_RACES = 40
_RACER = """
import asyncio, sys
from pathlib import Path
from stores import make_store
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.opening import SQLiteOptions

async def migrate(path, schema, is_wal):
    store = make_store(SQLiteOptions(path=path, is_wal=is_wal, is_read_by_writer=not is_wal), [schema])
    await store.connect()
    report = await store.migrate()
    assert report.versions == {"pack": 8}
    await store.disconnect()
    print(len(report.applied), flush=True)

schema, is_wal = Schema("pack", sys.argv[1]), sys.argv[2] == "wal"
schema.migrations("sqlite")
print("ready", flush=True)
for line in sys.stdin:
    asyncio.run(migrate(Path(line.rstrip()), schema, is_wal))
    print("ready", flush=True)
"""


class Pack:
    """A pack of so many migrations that never was a directory."""

    def __init__(self, name: str, length: int) -> None:
        self.name = name
        self._migrations = tuple(
            Migration(name, version, "step", "", f"{name}{version}") for version in range(1, length + 1)
        )

    def migrations(self, _: str) -> tuple[Migration, ...]:
        """Return them all, for any back end."""
        return self._migrations

    def applied(self, length: int) -> list[AppliedMigration]:
        """Return the rows of the first of them."""
        return [AppliedMigration(self.name, m.version, m.checksum) for m in self._migrations[:length]]


def after_another(monkeypatch: pytest.MonkeyPatch, path: Path, schema: Schema) -> list[str]:
    """Let another store migrate the file between the next one's plan and its first step; return what that applied."""
    applied: list[str] = []
    real = migrator.apply_migrations

    def apply(*args: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.syspath_prepend(path.parent)
        applied.extend(asyncio.run(migrate(path, schema)))
        return real(*args)

    monkeypatch.setattr(migrator, "apply_migrations", apply)
    return applied


class TestPlan:
    """The decision, without a database."""

    @given(
        st.lists(st.integers(0, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=4)
    )
    def test_plans_what_is_missing_in_order(self, lengths: list[tuple[int, int]]):
        """Whatever part of each pack was applied, the rest is planned: the packs in order, each by number."""
        packs = [Pack(f"pack{n}", known) for n, (known, _) in enumerate(lengths)]
        applied = [row for pack, (_, done) in zip(packs, lengths, strict=True) for row in pack.applied(done)]
        planned = plan_migrations(packs, "sqlite", applied[::-1], len(applied))
        assert [(m.schema, m.version) for m in planned] == [
            (pack.name, version)
            for pack, (known, done) in zip(packs, lengths, strict=True)
            for version in range(done + 1, known + 1)
        ]

    def test_leaves_unknown_packs_alone(self):
        """A pack that the code was not given stays as it is: packs do not touch each other's tables."""
        applied = Pack("other", 3).applied(3)
        assert [m.schema for m in plan_migrations([Pack("mine", 1)], "sqlite", applied, 3)] == ["mine"]

    @pytest.mark.parametrize(
        ("applied", "file_version", "said", "version"),
        [
            (2, 3, "newer", 3),
            (2, 1, "older", 1),
            (0, 1, "newer", 1),
        ],
    )
    def test_file_version_counts_what_is_applied(
        self, applied: int, file_version: int, said: str, version: int
    ):
        """A database whose number is not that of its rows was changed by something else, and is refused."""
        pack = Pack("pack", 5)
        with pytest.raises(MigrationError, match=said) as caught:
            plan_migrations([pack], "sqlite", pack.applied(applied), file_version)
        assert (caught.value.schema, caught.value.version) == (None, version)
        assert not caught.value.is_step_failure

    @pytest.mark.parametrize(
        ("rows", "said", "version"),
        [
            ([AppliedMigration("pack", 2, "pack2")], "0001 was not", 1),
            (
                [AppliedMigration("pack", 1, "pack1"), AppliedMigration("pack", 3, "pack3")],
                "0002 was not",
                2,
            ),
            ([AppliedMigration("pack", 1, "other")], "was changed after it was applied", 1),
            (Pack("pack", 3).applied(3), "newer than the code", 3),
        ],
        ids=["no-first", "gap", "changed", "newer"],
    )
    def test_refuses_what_it_does_not_know(self, rows: list[AppliedMigration], said: str, version: int):
        """A gap, a changed text and a version that the code lacks are the deployment's matter, and named."""
        with pytest.raises(MigrationError, match=said) as caught:
            plan_migrations([Pack("pack", 2)], "sqlite", rows, len(rows))
        assert (caught.value.schema, caught.value.version) == ("pack", version)
        assert not caught.value.is_step_failure


class TestSplit:
    """SQLite's own tokenizer says where a statement ends."""

    @pytest.mark.parametrize(
        ("script", "count"),
        [
            ("", 0),
            ("  \n", 0),
            ("SELECT 1", 1),
            ("SELECT 1;", 1),
            ("SELECT 1; SELECT 2;\n", 2),
            ("SELECT ';'; SELECT \"a;b\", [c;d], `e;f`;", 2),
            ("SELECT 1 -- one; two\n; SELECT /* ; ; */ 2;", 2),
            ("SELECT 'it''s; fine'; SELECT 2", 2),
            (
                "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT CASE WHEN 1 THEN 2 END; END; SELECT 3;",
                2,
            ),
            ("create temp trigger t after insert on a begin select 1; end; SELECT 3", 2),
        ],
    )
    def test_splits_at_the_ends_of_statements(self, script: str, count: int):
        """Semicolons in strings, names, comments and triggers end nothing; the pieces are the script."""
        pieces = list(split_statements(script))
        assert len(pieces) == count
        assert "".join(pieces).rstrip("; \n") == script.rstrip("; \n")

    @given(
        st.lists(
            st.sampled_from(["SELECT ';'", "SELECT 1 -- ;\n", "/* ; */ SELECT 2", 'SELECT ";"']), max_size=8
        )
    )
    def test_any_statements(self, statements: list[str]):
        """Joined by semicolons and split again, they are what they were."""
        script = "".join(f"{statement};" for statement in statements)
        assert list(split_statements(script)) == [f"{statement};" for statement in statements]


class TestApply:
    """Steps on a real file."""

    async def test_applies_packs_in_order_and_once(self, make_pack: MakePack, tmp_path: Path):
        """The first run applies all, the second nothing; the file says what was applied, and when."""
        path = tmp_path / "a.db"
        script = """
            CREATE TABLE log (said TEXT); -- a comment; with a semicolon
            CREATE TRIGGER logged AFTER INSERT ON first BEGIN
                INSERT INTO log VALUES ('one; two'); INSERT INTO log VALUES ('three');
            END;
            INSERT INTO first VALUES (1)
            -- and a last one"""
        pack = make_pack(FIRST, script)
        assert await migrate(path, COMPANY, pack) == [
            *(str(migration) for migration in COMPANY.migrations("sqlite")),
            "pack 0001_step",
            "pack 0002_step",
        ]
        before = content(path)
        assert await migrate(path, COMPANY, pack) == []
        assert content(path) == before
        assert query(path, "SELECT said FROM log") == [("one; two",), ("three",)]
        applied = query(
            path, "SELECT checksum, applied_at LIKE '20__-%', duration_ms >= 0 FROM schema_migrations"
        )
        expected = [*COMPANY.migrations("sqlite"), *pack.migrations("sqlite")]
        assert applied == [(migration.checksum, 1, 1) for migration in expected]
        assert query(path, "PRAGMA user_version") == [(len(expected),)]

    async def test_fresh_equals_step_by_step(self, make_pack: MakePack, tmp_path: Path):
        """A new database and one that was migrated release by release have the same tables."""
        steps = [FIRST, "ALTER TABLE first ADD COLUMN m TEXT;", "CREATE INDEX first_m ON first (m);"]
        for count in range(1, 4):
            await migrate(tmp_path / "grown.db", make_pack(*steps[:count]))
        await migrate(tmp_path / "fresh.db", make_pack(*steps))
        schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
        assert query(tmp_path / "grown.db", schema) == query(tmp_path / "fresh.db", schema)

    @pytest.mark.parametrize(
        "failing",
        [
            "CREATE TABLE second (n); CREATE TABLE first (n);",
            "INSERT INTO first VALUES (2); INSERT INTO nowhere VALUES (1);",
            "INSERT INTO first VALUES (2); this is not SQL",
            "INSERT INTO first VALUES (2); INSERT INTO first SELECT 'text' FROM first WHERE abs('x;y') = 1 / 0 AND;",
            "DROP TABLE first; CREATE TRIGGER t AFTER INSERT ON first BEGIN SELECT 1;",
            "INSERT INTO first VALUES (2); SELECT \0;",
            "CREATE TABLE second (n INTEGER PRIMARY KEY); INSERT OR ROLLBACK INTO second VALUES (1), (1);",
            "DROP TABLE schema_migrations;  CREATE TABLE schema_migrations (n);",
        ],
    )
    async def test_failing_step_leaves_the_file_as_it_was(
        self, make_pack: MakePack, tmp_path: Path, failing: str
    ):
        """Wherever a step fails, its tables, rows and number are as before it; the steps before it stay."""
        path = tmp_path / "a.db"
        await migrate(path, make_pack(FIRST))
        query(path, "INSERT INTO first VALUES (1)")
        before = content(path)
        with pytest.raises(MigrationError, match="pack 0002_step failed") as caught:
            await migrate(path, make_pack(FIRST, failing, "CREATE TABLE third (n);"))
        assert content(path) == before
        assert (caught.value.schema, caught.value.version) == ("pack", 2)
        assert caught.value.is_step_failure
        assert caught.value.code
        assert await migrate(path, make_pack(FIRST, "CREATE TABLE second (n);")) == ["pack 0002_step"]

    @pytest.mark.parametrize(
        ("statement", "named"),
        [
            ("COMMIT", "BEGIN, COMMIT"),
            ("ROLLBACK", "BEGIN, COMMIT"),
            ("BEGIN", "BEGIN, COMMIT"),
            ("END", "BEGIN, COMMIT"),
            ("SAVEPOINT s", "a savepoint"),
            ("RELEASE s", "a savepoint"),
            ("ATTACH ':memory:' AS other", "ATTACH"),
            ("DETACH main", "DETACH"),
            ("PRAGMA user_version = 7", "PRAGMA user_version"),
        ],
    )
    async def test_transaction_control_is_refused(
        self, make_pack: MakePack, tmp_path: Path, statement: str, named: str
    ):
        """A step cannot end the transaction that holds it and its number together, and is told what it tried."""
        path = tmp_path / "a.db"
        with pytest.raises(MigrationError, match=f"may not use {named}"):
            await migrate(path, make_pack(f"{FIRST} {statement}; CREATE TABLE second (n);"))
        assert query(path, "SELECT name FROM sqlite_schema") == []
        assert query(path, "PRAGMA user_version") == [(0,)]

    async def test_a_machines_failure_is_not_the_steps(self, make_pack: MakePack, tmp_path: Path):
        """A lock or a full disk may pass: the tenant is not to blame, and would not be quarantined."""
        path = tmp_path / "a.db"
        await migrate(path, make_pack(FIRST))
        store = make_store(
            SQLiteOptions(path=path, busy_timeout_seconds=0.0), [make_pack(FIRST, "SELECT 1;")]
        )
        await store.connect()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(MigrationError) as caught:
                await store.migrate()
        assert (caught.value.is_step_failure, caught.value.code) == (False, "SQLITE_BUSY")
        assert caught.value.is_retryable
        await store.migrate()
        await store.disconnect()

    async def test_full_database_is_not_the_steps(self, make_pack: MakePack, tmp_path: Path):
        """A step that runs out of space is undone, and can be run again."""
        path = tmp_path / "a.db"
        big = "CREATE TABLE second (b); INSERT INTO second VALUES (zeroblob(200000));"
        store = make_store(SQLiteOptions(path=path), [make_pack(FIRST, big)])
        await store.connect()
        await store._connections.writer.run(
            lambda connection: connection.execute("PRAGMA max_page_count = 12").close()
        )
        with pytest.raises(MigrationError, match="0002") as caught:
            await store.migrate()
        assert (caught.value.is_step_failure, caught.value.code) == (False, "SQLITE_FULL")
        await store._connections.writer.run(
            lambda connection: connection.execute("PRAGMA max_page_count = 1000").close()
        )
        assert [str(migration) for migration in (await store.migrate()).applied] == ["pack 0002_step"]
        await store.disconnect()

    async def test_file_that_may_not_be_written_is_not_the_steps(self, make_pack: MakePack, tmp_path: Path):
        """A read-only mount or a changed owner is for an operator; the tenant would be quarantined for nothing."""
        store = make_store(SQLiteOptions(path=tmp_path / "a.db"), [make_pack(FIRST)])
        await store.connect()
        await store._connections.writer.run(
            lambda connection: connection.execute("PRAGMA query_only = ON").close()
        )
        with pytest.raises(MigrationError, match="pack 0001_step failed") as caught:
            await store.migrate()
        assert (caught.value.is_step_failure, caught.value.code) == (False, "SQLITE_READONLY")
        assert not caught.value.is_retryable
        await store._connections.writer.run(
            lambda connection: connection.execute("PRAGMA query_only = OFF").close()
        )
        assert [str(migration) for migration in (await store.migrate()).applied] == ["pack 0001_step"]
        await store.disconnect()


class TestRace:
    """Several processes may open one file that has no owner, and all find the same migrations pending."""

    @pytest.mark.parametrize("won", [1, 2, 3])
    async def test_loser_finds_the_winners_work_done(
        self, make_pack: MakePack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, won: int
    ):
        """Between one's plan and its lock another applies some or all steps: the rest is applied, and each once."""
        path = tmp_path / "a.db"
        steps = [FIRST, "CREATE TABLE second (n);", "CREATE TABLE third (n);"]
        loser, winners = make_pack(*steps), make_pack(*steps[:won])
        won_by_other = after_another(monkeypatch, path, winners)
        assert len(await migrate(path, loser)) == 3 - won
        assert len(won_by_other) == won
        assert query(path, "SELECT version FROM schema_migrations") == [(1,), (2,), (3,)]
        assert query(path, "PRAGMA user_version") == [(3,)]

    async def test_loser_with_older_code_is_refused(
        self, make_pack: MakePack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """What the other made of the file meanwhile is judged like any file: one newer than the code is refused."""
        path = tmp_path / "a.db"
        older, newer = make_pack(FIRST), make_pack(FIRST, "CREATE TABLE second (n);")
        after_another(monkeypatch, path, newer)
        with pytest.raises(MigrationError, match="newer than the code"):
            await migrate(path, older)
        assert query(path, "PRAGMA user_version") == [(2,)]

    @pytest.mark.parametrize("journal", ["wal", "delete"])
    async def test_processes_on_fresh_and_older_files(
        self, make_pack: MakePack, tmp_path: Path, journal: str
    ):
        """Two processes connect and migrate at the same moment, round after round: both succeed, each step runs once."""
        steps = [f"CREATE TABLE t{number} (n);" for number in range(8)]
        pack, older = make_pack(*steps), make_pack(*steps[:3])
        env = {"PYTHONPATH": str(tmp_path)}
        with (
            python(_RACER, pack.package, journal, env=env) as one,
            python(_RACER, pack.package, journal, env=env) as other,
        ):
            for race in range(_RACES):
                path = tmp_path / f"{race}.db"
                found = len(await migrate(path, older, is_wal=journal == "wal")) if race % 2 else 0
                for racer in (one, other):
                    assert read_line(racer) == "ready"
                for racer in (one, other):
                    assert racer.stdin is not None
                    racer.stdin.write(f"{path}\n")
                    racer.stdin.flush()
                assert found + int(read_line(one)) + int(read_line(other)) == len(steps)
                assert query(path, "SELECT COUNT(*) FROM schema_migrations") == [(8,)]
                assert query(path, "PRAGMA user_version") == [(8,)]
                assert query(path, "PRAGMA journal_mode") == [(journal,)]


class TestRefusedFiles:
    """What is not ours to migrate is not touched."""

    async def test_newer_file_is_refused_and_unchanged(self, make_pack: MakePack, tmp_path: Path):
        """A file of a newer release stays as it is, to the byte, WAL header included."""
        path = tmp_path / "a.db"
        await migrate(path, make_pack(FIRST, "CREATE TABLE second (n);"))
        query(path, "PRAGMA journal_mode = DELETE")
        before = path.read_bytes()
        with pytest.raises(MigrationError, match="newer than the code"):
            await migrate(path, make_pack(FIRST))
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.glob("a.db*")] == ["a.db"]

    async def test_changed_migration_is_refused_and_unchanged(self, make_pack: MakePack, tmp_path: Path):
        """A migration whose text is no longer what was applied is found out, and nothing is applied."""
        path = tmp_path / "a.db"
        await migrate(path, make_pack(FIRST))
        before = path.read_bytes()
        with pytest.raises(MigrationError, match="changed after it was applied"):
            await migrate(path, make_pack(f"{FIRST} -- better", "CREATE TABLE second (n);"))
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "text", [b"this is no database " * 100, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 4080]
    )
    async def test_no_database_is_refused_and_unchanged(self, tmp_path: Path, text: bytes):
        """A file of something else is not overwritten."""
        path = tmp_path / "a.db"
        path.write_bytes(text)
        with pytest.raises(DatabaseCorruptError):
            await migrate(path, COMPANY)
        assert path.read_bytes() == text
        assert [file.name for file in path.parent.glob("a.db*")] == ["a.db"]

    async def test_damaged_list_of_migrations_is_an_error_of_ours(self, tmp_path: Path):
        """A `schema_migrations` of another shape is a QueryError, not the driver's."""
        path = tmp_path / "a.db"
        query(path, "CREATE TABLE schema_migrations (n)")
        with pytest.raises(QueryError):
            await migrate(path, COMPANY)
