"""Databases that other programs made become tenants: what is copied, what is compared, and that nothing else is touched."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from stores import MakePack, content, left_open
from tenantry import RegistryConfig, Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    DatabaseCorruptError,
    ForeignSchemaError,
    MigrationError,
    SnapshotError,
    TenantExistsError,
    TenantNotFoundError,
    TenantryError,
)
from tenantry.storage import PersistenceConfig, SQLiteConfig, create_backend
from tenantry.storage.sqlite.maintenance.outside_copy import copy_outside
from tenants import database_path, make_message, python, query, read_line

HISTORY = (
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT NOT NULL, author_id INTEGER REFERENCES authors);",
    "CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (name <> ''));",
    """CREATE INDEX notes_author ON notes (author_id); CREATE VIEW bodies AS SELECT body FROM notes;
    CREATE TRIGGER cleaned AFTER DELETE ON authors BEGIN DELETE FROM notes WHERE author_id = old.id; END;""",
    "ALTER TABLE notes ADD COLUMN words INTEGER NOT NULL DEFAULT 0; UPDATE notes SET words = length(body);",
)
# As the application wrote them: other space, case and quotes.
APPLICATION = """
create table "notes" ( -- the notes
    id integer primary key, body text not null, author_id integer references [authors]);
CREATE TABLE authors (id INTEGER PRIMARY KEY, `name` TEXT NOT NULL UNIQUE CHECK (name <> ''));
CREATE INDEX notes_author ON notes(author_id);
CREATE VIEW bodies AS SELECT body FROM notes;
CREATE TRIGGER cleaned AFTER DELETE ON authors BEGIN DELETE FROM notes WHERE author_id = old.id; END;
INSERT INTO authors VALUES (1, 'ada');
INSERT INTO notes VALUES (1, 'one', 1), (2, 'three', 1);
PRAGMA user_version = 17;
"""
AT_3 = {"notes": 3}

HOLDING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("INSERT INTO notes VALUES (3, 'in the log', 1)")
print("written", flush=True)
sys.stdin.readline()
connection.execute("INSERT INTO notes VALUES (4, 'later', 1)")
print(connection.execute("SELECT count(*) FROM notes").fetchone()[0], flush=True)
sys.stdin.readline()
"""

LOCKING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("UPDATE notes SET body = 'locked'")
print("locked", flush=True)
sys.stdin.readline()
"""

CHANGES: dict[str, tuple[str, str, str]] = {
    "a missing table": ("DROP TABLE notes; DROP VIEW bodies", "table 'notes'", "the file lacks it: name an earlier"),
    "a missing index": ("DROP INDEX notes_author", "index 'notes_author'", "the file lacks it"),
    "a missing view": ("DROP VIEW bodies", "view 'bodies'", "the file lacks it"),
    "a missing trigger": ("DROP TRIGGER cleaned", "trigger 'cleaned'", "the file lacks it"),
    "a table of its own": (
        "CREATE TABLE tags (t UNIQUE); CREATE INDEX tags_t ON tags (t)",
        "table 'tags'",
        "no pack creates it up to the named migrations: accept the table",
    ),
    "an index of its own": ("CREATE INDEX own_index ON notes (body)", "index 'own_index'", "add the object to a pack's migration"),
    "a view of its own": ("CREATE VIEW own AS SELECT 1", "view 'own'", "add the object to a pack"),
    "a trigger of its own": (
        "CREATE TRIGGER own AFTER INSERT ON notes BEGIN SELECT 1; END", "trigger 'own'", "add the object to a pack",
    ),
    "another column": ("ALTER TABLE notes ADD COLUMN extra", "table 'notes'", "column 'extra' is not in the packs"),
    "a later column": ("ALTER TABLE notes ADD COLUMN words INTEGER NOT NULL DEFAULT 0", "table 'notes'", "column 'words' is not"),
    "a missing column": ("DROP VIEW bodies; ALTER TABLE notes DROP COLUMN body", "table 'notes'", "column 'body' is missing"),
    "another type": (
        "DROP TABLE authors; CREATE TABLE authors (id INTEGER PRIMARY KEY, name VARCHAR(9) NOT NULL UNIQUE CHECK (name <> ''))",
        "table 'authors'",
        r"column 'name' is VARCHAR\(9\) NOT NULL, and in the packs TEXT NOT NULL",
    ),
    "another constraint": (
        "DROP TABLE authors; CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (name > ''))",
        "table 'authors'",
        r"the file has 'name > '' \) \)', and the packs have 'name < > '' \) \)'",
    ),
    "no unique constraint": (
        "DROP TABLE authors; CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL CHECK (name <> ''))",
        "table 'authors'",
        "the packs have 'null unique check",
    ),
    "another order": (
        "DROP TABLE authors; CREATE TABLE authors (name TEXT NOT NULL UNIQUE CHECK (name <> ''), id INTEGER PRIMARY KEY)",
        "table 'authors'",
        "the columns have another order",
    ),
    "another index": (
        "DROP INDEX notes_author; CREATE UNIQUE INDEX notes_author ON notes (author_id, id)", "index 'notes_author'", "create unique",
    ),
    "an index of another table": (
        "DROP INDEX notes_author; CREATE INDEX notes_author ON authors (name)", "index 'notes_author'", "its table is 'authors'",
    ),
    "a name of tenantry's": (
        "CREATE TABLE schema_migrations (version TEXT PRIMARY KEY)", "table 'schema_migrations'", "tenantry needs the name",
    ),
}  # fmt: skip


@pytest.fixture
def schemas(make_pack: MakePack) -> tuple[Schema, ...]:
    """Return the company's pack and that of the notes."""
    return (COMPANY, make_pack(*HISTORY, name="notes"))


def make_database(path: Path, *statements: str, journal: str = "DELETE") -> Path:
    """Make the application's database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.executescript(APPLICATION)
        for statement in statements:
            connection.executescript(statement)
    return path


def beside(path: Path) -> dict[str, bytes]:
    """Return the files with the path's name, with their content."""
    return {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}


async def notes(registry: TenantRegistry, tenant_id: str) -> list[tuple[object, ...]]:
    """Return a tenant's notes."""
    return [
        tuple(row) for row in await registry.tenant(tenant_id).fetch_all("SELECT * FROM notes ORDER BY id")
    ]


async def assert_nothing_left(registry: TenantRegistry) -> None:
    """Check that there is neither a tenant nor a file of one."""
    with pytest.raises(TenantNotFoundError):
        await registry.get("acme")
    data_dir = registry.config.data_dir
    assert not database_path(data_dir, "acme").parent.exists()
    assert not [path for path in (data_dir / "scratch").glob("*/*") if path.is_dir()]


class TestAdopt:
    """A database whose tables are those of the pack."""

    @pytest.mark.parametrize("journal", ["DELETE", "WAL"])
    async def test_becomes_a_tenant(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path, journal: str
    ):
        """The named migrations are marked as applied, the later ones are applied, and the original stays as it is, byte for byte."""
        path = make_database(tmp_path / "app.db", journal=journal)
        before = beside(path)
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            assert await registry.compare_database(path, at=AT_3) == []
            tenant = await registry.adopt("acme", path, at=AT_3, display_name="Acme", by="ada")
            assert (tenant.state, tenant.display_name) == (TenantState.ACTIVE, "Acme")
            assert tenant.schema_versions == {"company": len(COMPANY.migrations("sqlite")), "notes": 4}
            assert await notes(registry, "acme") == [(1, "one", 1, 3), (2, "three", 1, 5)]
            await registry.tenant("acme").messages.save(make_message("hello"))
            (entry,) = [one for one in await registry.audit.list(tenant_id="acme") if one.action == "adopt"]
            assert (entry.principal, entry.outcome) == ("ada", "ok")
            assert (entry.detail["at"], len(entry.detail["sha256"])) == (AT_3, 64)
            await registry.export("acme", tmp_path / "acme.tar.gz")
            await registry.import_bundle("globex", tmp_path / "acme.tar.gz")
        assert beside(path) == before
        assert query(database_path(data_dir, "acme"), "SELECT version FROM schema_migrations WHERE schema = 'notes'") == [
            (1,), (2,), (3,), (4,),
        ]  # fmt: skip

    @pytest.mark.parametrize("journal", ["DELETE", "WAL"])
    async def test_beside_a_program_that_has_it_open(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path, journal: str
    ):
        """The copy has all that the other program committed, also what is only in its log, and the program goes on."""
        path = make_database(tmp_path / "app.db", journal=journal)
        with python(HOLDING, path) as program:
            assert read_line(program) == "written"
            async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
                await registry.adopt("acme", path, at=AT_3)
                assert [row[0] for row in await notes(registry, "acme")] == [1, 2, 3]
            program.stdin.write("go on\n")
            program.stdin.flush()
            assert read_line(program) == "4"
        assert [row[0] for row in query(path, "SELECT id FROM notes")] == [1, 2, 3, 4]

    async def test_with_the_log_of_a_killed_program(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path
    ):
        """What a killed program left in its write-ahead log is in the copy, and the log stays as it is."""
        path = make_database(tmp_path / "app.db", journal="WAL")
        left_open(path, "INSERT INTO notes VALUES (3, 'in the log', 1)")
        before = {name: data for name, data in beside(path).items() if not name.endswith("-shm")}
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            await registry.adopt("acme", path, at=AT_3)
            assert [row[0] for row in await notes(registry, "acme")] == [1, 2, 3]
        assert {name: data for name, data in beside(path).items() if not name.endswith("-shm")} == before

    async def test_through_a_link(self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path):
        """A link leads to the database, and neither beside it nor beside the link a file is made."""
        (tmp_path / "app").mkdir()
        path = make_database(tmp_path / "app" / "a?b#%20.db", journal="WAL")
        (tmp_path / "link.db").symlink_to(path)
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            await registry.adopt("acme", tmp_path / "link.db", at=AT_3)
        assert list(beside(path)) == [path.name]
        assert list(beside(tmp_path / "link.db")) == ["link.db"]

    async def test_tables_that_are_accepted(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path
    ):
        """A table of no pack is kept with its rows and indexes if the caller names it."""
        path = make_database(
            tmp_path / "app.db",
            "CREATE TABLE tags (t UNIQUE); CREATE INDEX tags_t ON tags (t); INSERT INTO tags VALUES ('x')",
        )
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            await registry.adopt("acme", path, at=AT_3, accepted_tables=["tags"])
            assert (await registry.tenant("acme").fetch_one("SELECT t FROM tags")).t == "x"

    async def test_a_database_of_one_company(self, data_dir: Path, tmp_path: Path):
        """A database that `create_backend` made lists its migrations itself."""
        path = tmp_path / "one.db"
        backend = create_backend(PersistenceConfig(backend="sqlite", sqlite=SQLiteConfig(path=path)))
        await backend.connect()
        await backend.migrate()
        await backend.messages.save(make_message("hello"))
        await backend.disconnect()
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            listed = f"company {len(COMPANY.migrations('sqlite')):04d}"
            with pytest.raises(
                MigrationError,
                match=rf"already lists applied migrations \({listed}\): pass no migrations",
            ):
                await registry.adopt("acme", path, at={"company": 0})
            await registry.adopt("acme", path)
            assert [one.content for one in await registry.tenant("acme").messages.get_history("general")] == [
                "hello"
            ]


class TestRefusal:
    """A database that cannot become a tenant: the reason is named, and nothing is left."""

    @pytest.mark.parametrize("how", CHANGES)
    async def test_every_difference_is_named(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path, how: str
    ):
        """An object that differs is named with what differs and what to do, in the error and in the comparison."""
        change, name, said = CHANGES[how]
        path = make_database(tmp_path / "app.db", change)
        before = content(path)
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            found = await registry.compare_database(path, at=AT_3)
            with pytest.raises(ForeignSchemaError, match=f"{name}: .*{said}") as caught:
                await registry.adopt("acme", path, at=AT_3)
            assert caught.value.objects == tuple(one.object for one in found)
            await assert_nothing_left(registry)
        assert content(path) == before

    async def test_all_differences_at_once(self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path):
        """The error names all that differ, so that one look is enough."""
        path = make_database(
            tmp_path / "app.db", *(change for change, *_ in CHANGES.values() if change.startswith("CREATE"))
        )
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            found = await registry.compare_database(path, at=AT_3)
            assert [(one.kind, one.object) for one in found] == [
                ("taken", "table 'schema_migrations'"),
                ("unknown", "table 'tags'"),
                ("unknown", "index 'own_index'"),
                ("unknown", "view 'own'"),
                ("unknown", "trigger 'own'"),
            ]

    @pytest.mark.parametrize(
        ("make", "error", "said"),
        [
            (bool, SnapshotError, "does not exist"),
            (lambda path: path.symlink_to(path), SnapshotError, "not the path of a file|too many|Too many"),
            (lambda path: path.mkdir(), SnapshotError, "is not a regular file"),
            (lambda path: path.touch(), DatabaseCorruptError, "is empty"),
            (lambda path: path.write_text("id;name\n" * 100), DatabaseCorruptError, "is not an SQLite database, or is encrypted"),
            (lambda path: path.write_bytes(bytes(range(256)) * 16), DatabaseCorruptError, "encrypted"),
            (lambda path: damage(make_database(path)), DatabaseCorruptError, "damaged|malformed|cannot be read"),
        ],
        ids=["missing", "loop", "directory", "empty", "text", "encrypted", "damaged"],
    )  # fmt: skip
    async def test_files_that_are_no_databases(
        self,
        schemas: tuple[Schema, ...],
        data_dir: Path,
        tmp_path: Path,
        make: Callable[[Path], object],
        error: type[TenantryError],
        said: str,
    ):
        """A file that is missing, damaged, encrypted or something else is refused in words that name it."""
        path = tmp_path / "app.db"
        make(path)
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            with pytest.raises(error, match=said) as caught:
                await registry.adopt("acme", path, at=AT_3)
            assert "app.db" in str(caught.value)
            await assert_nothing_left(registry)

    async def test_a_tenants_own_database(self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path):
        """The database of a tenant is refused, and the error says what to do with it."""
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            await registry.create("globex")
            await registry.suspend("globex")
            path = Path(shutil.copy(database_path(data_dir, "globex"), tmp_path / "app.db"))
            with pytest.raises(ForeignSchemaError, match="already belongs to a tenant: use 'tenant import'"):
                await registry.adopt("acme", path, at=AT_3)
            await assert_nothing_left(registry)

    @pytest.mark.parametrize(
        ("at", "said"),
        [
            ({"notes": 5}, "schema 'notes' has no migration 5, its last is 0004"),
            ({"notes": -1}, "schema 'notes' has no migration -1"),
            ({"notes": "3"}, "schema 'notes' has no migration '3'"),
            ({"notes": True}, "schema 'notes' has no migration True"),
            ({"nota": 1}, r"schema 'nota' is not one of the registry's packs \(company, notes\)"),
        ],
    )
    async def test_migrations_that_no_pack_has(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path, at: dict[str, int], said: str
    ):
        """A number beyond the pack, or a pack that the registry does not have, is refused with what there is."""
        path = make_database(tmp_path / "app.db")
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            with pytest.raises(MigrationError, match=said):
                await registry.adopt("acme", path, at=at)
            await assert_nothing_left(registry)

    async def test_a_later_migration_that_fails(self, make_pack: MakePack, data_dir: Path, tmp_path: Path):
        """A later migration that fails on the database's rows is named, and nothing is left."""
        failing = make_pack(*HISTORY[:3], "CREATE UNIQUE INDEX one ON notes (author_id);", name="notes")
        path = make_database(tmp_path / "app.db")
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=[failing]) as registry:
            with pytest.raises(MigrationError, match=r"migration notes 0004_step failed.*UNIQUE"):
                await registry.adopt("acme", path, at=AT_3)
            await assert_nothing_left(registry)

    async def test_an_earlier_migration_is_named(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path
    ):
        """If the file has what a later migration makes, the advice is to name that migration."""
        path = make_database(tmp_path / "app.db")
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            found = await registry.compare_database(path, at={"notes": 2})
        assert {one.object for one in found} == {"index 'notes_author'", "view 'bodies'", "trigger 'cleaned'"}
        assert all("a later migration creates it: name that migration" in one.advice for one in found)

    async def test_tables_with_functions_of_a_pack(self, make_pack: MakePack, data_dir: Path, tmp_path: Path):
        """Tables that use the functions of a pack's connect hook are compared, checked and adopted."""

        def add_shout(connection: sqlite3.Connection) -> None:
            connection.create_function("shout", 1, str.upper, deterministic=True)

        made = "CREATE TABLE words (word TEXT, loud TEXT AS (shout(word)) STORED CHECK (loud <> ''));"
        pack = replace(make_pack(made), on_connect=add_shout)
        path = tmp_path / "app.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            add_shout(connection)
            connection.executescript(f"{made} INSERT INTO words VALUES ('ab');")
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=[pack]) as registry:
            await registry.adopt("acme", path, at={"pack": 1})
            assert (await registry.tenant("acme").fetch_one("SELECT loud FROM words")).loud == "AB"
            query(path, "ALTER TABLE words ADD COLUMN more TEXT")
            (found,) = await registry.compare_database(path, at={"pack": 1})
            assert (found.object, found.detail) == ("table 'words'", "column 'more' is not in the packs")

    @pytest.mark.parametrize("table", ["authors", "extra"])
    async def test_a_row_that_breaks_a_check_constraint(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path, table: str
    ):
        """A row that a CHECK constraint of a pack's table or of an accepted table forbids is refused, and the table is named."""
        made = "CREATE TABLE extra (id INTEGER PRIMARY KEY, name TEXT CHECK (name <> ''));"
        row = f"PRAGMA ignore_check_constraints = ON; INSERT INTO {table} VALUES (99, '')"
        path = make_database(tmp_path / "app.db", made, row)
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            with pytest.raises(DatabaseCorruptError, match=f"{path}.*CHECK constraint failed in {table}"):
                await registry.adopt("acme", path, at=AT_3, accepted_tables=["extra"])
            await assert_nothing_left(registry)

    async def test_an_id_that_is_taken(self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path):
        """The tenant that has the id stays as it is."""
        path = make_database(tmp_path / "app.db")
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            before = await registry.create("acme")
            with pytest.raises(TenantExistsError):
                await registry.adopt("acme", path, at=AT_3)
            assert await registry.get("acme") == before

    def test_a_locked_database(self, tmp_path: Path):
        """A database that another program locks for itself is refused, and the caller may try again."""
        path = make_database(tmp_path / "app.db")
        with python(LOCKING, path) as program:
            assert read_line(program) == "locked"
            with pytest.raises(SnapshotError, match=r"app\.db is locked by another program") as caught:
                copy_outside(path, tmp_path / "copy.db", busy_seconds=0.0)
        assert caught.value.is_retryable
        assert not (tmp_path / "copy.db").exists()

    async def test_a_killed_programs_rollback_journal(
        self, schemas: tuple[Schema, ...], data_dir: Path, tmp_path: Path
    ):
        """A database that a killed program left in the middle of a commit is refused, because only a writer can undo that."""
        path = make_database(tmp_path / "app.db", "CREATE TABLE large (x)")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA cache_size = 1")
            connection.execute("BEGIN")
            connection.execute(
                "INSERT INTO large SELECT zeroblob(4096) FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8))"
            )
            connection.execute("UPDATE notes SET body = 'half'")
            connection.execute("INSERT INTO large SELECT x FROM large")
            files = beside(path)
            connection.execute("ROLLBACK")
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            with pytest.raises(
                SnapshotError, match=r"a killed program left app.db-journal: open the database once"
            ):
                await registry.adopt("acme", path, at=AT_3)
            await assert_nothing_left(registry)
        assert beside(path) == files


def damage(path: Path) -> None:
    """Overwrite a page in the middle of a database."""
    data = bytearray(path.read_bytes())
    page = len(data) // 2 // 4096 * 4096
    data[page : page + 4096] = b"\xff" * 4096
    path.write_bytes(data)
