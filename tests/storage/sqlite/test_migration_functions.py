"""Migrations in Python: the same runner, transaction, checksum, refusals and checks as those in SQL."""

import asyncio
import importlib
import sys
import zipfile
from pathlib import Path

import pytest

from stores import MakePack, content, make_store, migrate, reached, read_rows, run
from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import COMPANY
from tenantry.errors import ConstraintViolationError, MigrationError, TenantQuarantinedError
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenants import query, write_pack

NOTES = """
CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
INSERT INTO notes VALUES (1, 'one two'), (2, 'three');
"""
COUNT_WORDS = """
def migrate(session):
    session.execute("ALTER TABLE notes ADD COLUMN words INTEGER NOT NULL DEFAULT 0")
    notes = session.fetch_all("SELECT id, body FROM notes ORDER BY id")
    counted = session.execute_many(
        "UPDATE notes SET words = ?2 WHERE id = ?1", ((note.id, len(note.body.split())) for note in notes)
    )
    assert counted == len(notes)
    assert session.execute("INSERT INTO notes (body) VALUES (?)", ("",)) == 1
    assert session.execute("UPDATE notes SET body = body WHERE id = ?1 OR id = ?1 + 1", (1,)) == 2
    assert session.fetch_one("SELECT count(*) AS number FROM notes").number == len(notes) + 1
    assert session.fetch_one("SELECT 1 WHERE 0") is None
    assert session.fetch_one("INSERT INTO notes (body) VALUES ('gone') RETURNING body")["body"] == "gone"
    assert session.execute("DELETE FROM notes WHERE body IN ('', 'gone')") == 2
"""
INDEX = "CREATE INDEX notes_words ON notes (words);"


def body(*lines: str) -> str:
    """Return a step in Python with these lines in its function, which begins at line 2."""
    return "\n".join(["", "def migrate(session):", *(f"    {line}" for line in lines), ""])


class TestRun:
    """A step in Python between steps in SQL."""

    async def test_shares_numbers_and_the_history(self, make_pack: MakePack, tmp_path: Path):
        """The files run in the order of their numbers, once, and each has its row with the checksum of its bytes."""
        path, pack = tmp_path / "a.db", make_pack(NOTES, COUNT_WORDS, INDEX)
        assert await migrate(path, pack) == ["pack 0001_step", "pack 0002_step", "pack 0003_step"]
        assert query(path, "SELECT * FROM notes") == [(1, "one two", 2), (2, "three", 1)]
        before = content(path)
        assert await migrate(path, pack) == []
        assert content(path) == before
        assert query(path, "SELECT version, checksum FROM schema_migrations") == [
            (migration.version, migration.checksum) for migration in pack.migrations("sqlite")
        ]
        assert query(path, "PRAGMA user_version") == [(3,)]

    async def test_a_changed_file_is_refused(self, make_pack: MakePack, tmp_path: Path):
        """A file in Python that was changed after it was applied is found by its checksum."""
        path = tmp_path / "a.db"
        await migrate(path, make_pack(NOTES, COUNT_WORDS))
        with pytest.raises(MigrationError, match="pack 0002_step was changed after it was applied"):
            await migrate(path, make_pack(NOTES, f"{COUNT_WORDS}# a comment"))

    async def test_fresh_equals_step_by_step(self, make_pack: MakePack, tmp_path: Path):
        """A new database and one that was migrated release by release have the same tables."""
        steps = [NOTES, COUNT_WORDS, INDEX]
        for count in range(1, 4):
            await migrate(tmp_path / "grown.db", make_pack(*steps[:count]))
        await migrate(tmp_path / "fresh.db", make_pack(*steps))
        schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
        assert query(tmp_path / "grown.db", schema) == query(tmp_path / "fresh.db", schema)

    async def test_tenants_bundles_and_clones(self, make_pack: MakePack, data_dir: Path, tmp_path: Path):
        """A tenant gets its tables by a step in Python, and its bundle is compared with what the step makes."""
        schemas = (COMPANY, make_pack(NOTES, COUNT_WORDS, INDEX))
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            await registry.create("acme")
            await registry.export("acme", tmp_path / "acme.tar.gz")
            assert (await registry.import_bundle("globex", tmp_path / "acme.tar.gz")).schema_versions[
                "pack"
            ] == 3
            await registry.clone("acme", "umbrella")

    async def test_from_a_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A pack is read from an archive as from a directory."""
        write_pack(tmp_path / "unpacked", "zipped_pack", NOTES, COUNT_WORDS)
        with zipfile.ZipFile(tmp_path / "pack.whl", "w") as wheel:
            for file in (tmp_path / "unpacked").rglob("*.*"):
                wheel.write(file, file.relative_to(tmp_path / "unpacked"))
        monkeypatch.syspath_prepend(tmp_path / "pack.whl")
        assert len(await migrate(tmp_path / "a.db", Schema("pack", "zipped_pack"))) == 2

    async def test_is_imported_once(self, make_pack: MakePack):
        """An import of the file finds the module whose function runs."""
        pack = make_pack(NOTES, COUNT_WORDS)
        function = pack.migrations("sqlite")[1].function
        assert importlib.import_module(f"{pack.package}.migrations.sqlite.0002_step").migrate is function


class TestFailure:
    """A step in Python that fails leaves the database as it was."""

    @pytest.mark.parametrize(
        ("lines", "said", "code"),
        [
            (["int('secret')"], "at line 3 of 0002_step.py .*raised ValueError: its text may quote", "ValueError"),
            (
                ["from tenantry.errors import MigrationError", "raise MigrationError('two notes are empty')"],
                "at line 4 .*two notes are empty",
                "MigrationError",
            ),
            (["raise SystemExit('secret')"], "at line 3 .*raised SystemExit: its text may quote", "SystemExit"),
            (["session.execute('INSERT INTO notes VALUES (1, 2)')"], "at line 3 .*notes.id", "SQLITE_CONSTRAINT_PRIMARYKEY"),
            (["session.execute('SELECT 1')"], "returns rows: use fetch_one", "SQLITE_ROW"),
            (["session.fetch_all('DELETE FROM notes')"], "returns no rows: use execute", "SQLITE_DONE"),
            (["session.execute('SELECT ?', (object(),))"], "type 'object' is not supported", "ProgrammingError"),
            (["session.execute('DELETE FROM notes WHERE id = ?', (2**63,))"], "raised OverflowError", "OverflowError"),
            (["session.execute('DELETE FROM notes WHERE id = ?1', ())"], "takes 1 values", "ProgrammingError"),
            (["session.execute('this is not SQL')"], "at line 3 .*syntax error", "SQLITE_ERROR"),
            (["session.execute('COMMIT')"], "at line 3 .*BEGIN, COMMIT or ROLLBACK", "SQLITE_AUTH"),
            (["session.execute('SAVEPOINT s')"], "a savepoint", "SQLITE_AUTH"),
            (["session.execute('PRAGMA synchronous = OFF')"], "PRAGMA synchronous", "SQLITE_AUTH"),
            (["session.execute('ATTACH ? AS x', ('x.db',))"], "ATTACH", "SQLITE_AUTH"),
            (["session.execute('DELETE FROM schema_migrations')"], "the table schema_migrations", "SQLITE_AUTH"),
            (["session.execute('INSERT INTO tags VALUES (1, 9)')"], "row 1 of tags has no row in notes", "SQLITE_CONSTRAINT_FOREIGNKEY"),
        ],
    )  # fmt: skip
    async def test_leaves_the_database_as_it_was(
        self, make_pack: MakePack, tmp_path: Path, lines: list[str], said: str, code: str
    ):
        """Whatever the function raises or is refused, the error names the migration and the line, and nothing of the step is kept."""
        path = tmp_path / "a.db"
        first = f"{NOTES} CREATE TABLE tags (id INTEGER PRIMARY KEY, note_id INTEGER REFERENCES notes);"
        await migrate(path, make_pack(first))
        before = content(path)
        step = body("session.execute('DELETE FROM notes WHERE id = 2')", *lines).replace("\n", "", 1)
        with pytest.raises(MigrationError, match=said) as caught:
            await migrate(path, make_pack(first, step))
        assert str(caught.value).startswith("migration pack 0002_step failed")
        assert "secret" not in str(caught.value)
        assert (caught.value.code, caught.value.version, caught.value.is_step_failure) == (code, 2, True)
        assert content(path) == before

    @pytest.mark.parametrize(
        "statement", ["nonsense", "COMMIT", "INSERT OR ROLLBACK INTO notes VALUES (1, 'x')"]
    )
    async def test_a_caught_error_still_fails_the_step(
        self, make_pack: MakePack, tmp_path: Path, statement: str
    ):
        """A function that catches the error of a statement cannot go on: SQLite may have ended the transaction."""
        path = tmp_path / "a.db"
        await migrate(path, make_pack(NOTES))
        before = content(path)
        catching = body(
            f"for sql in ({statement!r}, 'DELETE FROM notes'):",
            "    try:",
            "        session.execute(sql)",
            "    except Exception:",
            "        pass",
        )
        with pytest.raises(MigrationError, match="at line 5 of 0002_step"):
            await migrate(path, make_pack(NOTES, catching))
        assert content(path) == before

    async def test_the_session_ends_with_the_function(self, make_pack: MakePack, tmp_path: Path):
        """A session that the function kept runs nothing afterwards."""
        pack = make_pack(NOTES, body("global kept", "kept = session"))
        await migrate(tmp_path / "a.db", pack)
        kept = sys.modules[f"{pack.package}.migrations.sqlite.0002_step"].kept
        with pytest.raises(RuntimeError, match="the migration has ended"):
            kept.execute("DELETE FROM notes")

    async def test_settings_and_temporary_tables_end_with_the_step(self, make_pack: MakePack, tmp_path: Path):
        """A function may set the pragmas that a script may set, and make temporary tables; both end with it."""
        first = f"{NOTES} CREATE TABLE tags (id INTEGER PRIMARY KEY, note_id INTEGER REFERENCES notes);"
        step = body(
            "session.execute('PRAGMA legacy_alter_table = ON')",
            "session.execute('CREATE TEMP TABLE kept AS SELECT * FROM notes')",
        )
        store = make_store(SQLiteOptions(path=tmp_path / "a.db"), [make_pack(first, step)])
        await store.connect()
        try:
            await store.migrate()
            (orphan,) = await store.write([(run("INSERT INTO tags VALUES (1, 9)"),)])
            assert isinstance(orphan, ConstraintViolationError)
            assert await read_rows(store, "PRAGMA legacy_alter_table") == [(0,)]
            assert await read_rows(store, "SELECT name FROM sqlite_temp_schema") == []
        finally:
            await store.disconnect()

    async def test_ends_with_its_caller(self, make_pack: MakePack, tmp_path: Path):
        """A caller that is cancelled ends a function that runs short statements without an end, and nothing of it is kept."""
        path = tmp_path / "a.db"
        await migrate(path, make_pack(NOTES))
        before = content(path)
        endless = body(
            "global is_running",
            "while True:",
            "    session.execute('UPDATE notes SET body = body')",
            "    is_running = True",
        )
        pack = make_pack(NOTES, endless)
        store = make_store(SQLiteOptions(path=path), [pack])
        await store.connect()
        try:
            migrating = asyncio.ensure_future(store.migrate())
            name = f"{pack.package}.migrations.sqlite.0002_step"
            await reached(lambda: getattr(sys.modules.get(name), "is_running", False))
            migrating.cancel()
            await asyncio.wait([migrating])
            assert migrating.cancelled()
        finally:
            await store.disconnect()
        assert content(path) == before

    async def test_quarantines_its_tenant(self, make_pack: MakePack, data_dir: Path):
        """A function that fails on a tenant's rows is the tenant's matter, and the error names tenant, migration and line."""
        config = RegistryConfig(data_dir=data_dir)
        async with TenantRegistry(config, schemas=[make_pack(NOTES)]) as registry:
            await registry.create("acme")
        async with TenantRegistry(config, schemas=[make_pack(NOTES, body("{}['x']"))]) as registry:
            with pytest.raises(
                TenantQuarantinedError, match=r"acme.*pack 0002_step failed at line 3.*KeyError"
            ):
                async with registry.tenant("acme").transaction():
                    pass


class TestReading:
    """A file that cannot run is refused when the pack is read, before any tenant is touched."""

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("def other(session): ...  # no def migrate(", "has no function migrate: add def migrate"),
            ("migrate = 1  # no def migrate(", "has no function"),
            ("async def migrate(session): ...", "has a function with async or yield"),
            ("def migrate(session):\n    yield", "has a function with async or yield"),
            ("def migrate(session) return", "cannot be imported: SyntaxError"),
            ("raise SystemExit(7)  # def migrate(", "cannot be imported: SystemExit: 7"),
            ("import tenantry_no_such_module  # def migrate(", "cannot be imported: ModuleNotFoundError"),
        ],
    )
    def test_unusable_files(self, make_pack: MakePack, text: str, said: str):
        """The error names the pack, the file and the reason."""
        pack = make_pack(NOTES, text)
        with pytest.raises(
            MigrationError, match=f"schema 'pack': the migration .*0002_step.py {said}"
        ) as caught:
            pack.migrations("sqlite")
        assert caught.value.version == 2
        assert f"{pack.package}.migrations.sqlite.0002_step" not in sys.modules
