"""What a migration's own SQL may do: change a table without loss, set a few pragmas, and nothing that outlives the step."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stores import MakePack, content, make_store, migrate, reached, read_rows, rows, run
from tenantry import RegistryConfig, Repository, TenantRegistry
from tenantry.company import COMPANY
from tenantry.errors import ConstraintViolationError, MigrationError, TenantryError
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.store import SQLiteStore
from tenants import held_writer, query

USERS = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE log (said TEXT);
"""
POSTS = "CREATE TABLE posts (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users {action});"
VIEWS = """
CREATE VIEW names AS SELECT name FROM users;
CREATE TRIGGER posted AFTER INSERT ON posts BEGIN
    INSERT INTO log SELECT name FROM users WHERE id = new.user_id;
END;
"""
NEW_FIRST = """
CREATE TABLE new_users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO new_users SELECT id, name FROM users;
DROP TABLE users;
ALTER TABLE new_users RENAME TO users;
"""
"""SQLite's own procedure."""
OLD_FIRST = """
ALTER TABLE users RENAME TO old_users;
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO users SELECT id, name FROM old_users;
DROP TABLE old_users;
"""
"""The procedure that SQLite's manual warns of."""
THROUGH_A_TEMPORARY_TABLE = """
CREATE TEMP TABLE kept AS SELECT id, name FROM users;
DROP TABLE users;
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO users SELECT id, name FROM kept;
"""
"""The procedure of SQLite's FAQ."""
LEGACY = "PRAGMA legacy_alter_table = ON;"
REBUILDS = {
    "manual": NEW_FIRST,
    "manual-with-its-pragmas": f"PRAGMA foreign_keys=OFF; {NEW_FIRST} PRAGMA foreign_key_check; PRAGMA foreign_keys=ON;",
    "foreign-keys-on": f"PRAGMA foreign_keys = ON; {NEW_FIRST}",
    "legacy": f"{LEGACY} {NEW_FIRST}",
    "old-first-legacy": f"{LEGACY} {OLD_FIRST}",
    "temporary": THROUGH_A_TEMPORARY_TABLE,
}
REFUSED_PRAGMAS = [
    "PRAGMA case_sensitive_like = ON",
    "PRAGMA ignore_check_constraints = ON",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA main.max_page_count = 10",
    "PRAGMA optimize",
    "PRAGMA recursive_triggers(1)",
    "PRAGMA synchronous = OFF",
    "PRAGMA user_version = 9",
    "PRAGMA wal_checkpoint",
    "EXPLAIN PRAGMA query_only = ON",
    "/* a comment */ explain query plan pragma WRITABLE_SCHEMA = ON",
]


@asynccontextmanager
async def migrated(path: Path, schema: Schema) -> AsyncIterator[SQLiteStore]:
    """Open the file and migrate it; what the migration raised does not close it."""
    store = make_store(SQLiteOptions(path=path), [schema])
    await store.connect()
    try:
        yield store
    finally:
        await store.disconnect()


async def make_parents(path: Path, schema: Schema, posts: int = 2) -> None:
    """Make a database with two users and so many posts."""
    await migrate(path, schema)
    query(path, "INSERT INTO users VALUES (1, 'ada'), (2, 'bob')")
    for number in range(1, posts + 1):
        query(path, "INSERT INTO posts VALUES (?, ?)", number, 1 + number % 2)
    query(path, "DELETE FROM log")


class TestRebuild:
    """A table is changed by making it anew."""

    @pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
    @pytest.mark.parametrize("rebuild", REBUILDS.values(), ids=REBUILDS)
    async def test_keeps_the_rows_of_children(
        self, make_pack: MakePack, tmp_path: Path, rebuild: str, action: str
    ):
        """Every way to make the parent anew keeps its children, whatever their action says, and the keys hold again after."""
        path, first = tmp_path / "a.db", USERS + POSTS.format(action=action)
        await make_parents(path, make_pack(first))
        before = content(path)[1:]
        async with migrated(path, make_pack(first, rebuild)) as store:
            assert len((await store.migrate()).applied) == 1
            (orphan, deletion) = await store.write(
                [(run("INSERT INTO posts VALUES (9, 9)"),), (run("DELETE FROM users WHERE id = 2"),)]
            )
            assert isinstance(orphan, ConstraintViolationError)
            assert (deletion == [None]) is ("CASCADE" in action)
        kept = [line for line in content(path)[1:] if "posts" in line]
        expected = [line for line in before if "posts" in line]
        if "CASCADE" in action:
            expected = [line for line in expected if "VALUES(1,2)" not in line]
        assert kept == expected
        assert "NOT NULL" in query(path, "SELECT sql FROM sqlite_schema WHERE name = 'users'")[0][0]

    @pytest.mark.parametrize("is_legacy", [True, False], ids=["legacy", "dropped-views"])
    async def test_views_and_triggers_over_the_table(
        self, make_pack: MakePack, tmp_path: Path, *, is_legacy: bool
    ):
        """Views and triggers that name the table work as before, with SQLite's older renaming or made again by the step."""
        path, first = tmp_path / "a.db", USERS + POSTS.format(action="") + VIEWS
        await make_parents(path, make_pack(first))
        step = (
            LEGACY + NEW_FIRST if is_legacy else f"DROP VIEW names; DROP TRIGGER posted; {NEW_FIRST} {VIEWS}"
        )
        await migrate(path, make_pack(first, step))
        query(path, "INSERT INTO posts VALUES (3, 2)")
        assert query(path, "SELECT name FROM names") == [("ada",), ("bob",)]
        assert query(path, "SELECT said FROM log") == [("bob",)]

    async def test_views_in_the_way_are_named(self, make_pack: MakePack, tmp_path: Path):
        """SQLite refuses the rename while a view lacks its table; the error names the view and says what helps."""
        path, first = tmp_path / "a.db", USERS + POSTS.format(action="") + VIEWS
        await make_parents(path, make_pack(first))
        before = content(path)
        with pytest.raises(MigrationError, match=r"error in view names.*legacy_alter_table = ON") as caught:
            await migrate(path, make_pack(first, NEW_FIRST))
        assert caught.value.code == "SQLITE_ERROR"
        assert content(path) == before

    async def test_a_column_without_a_type_needs_no_other_table(self, make_pack: MakePack, tmp_path: Path):
        """A column without a type in a STRICT table is refused with SQLite's reason, and without advice to rebuild the table."""
        step = "ALTER TABLE t ADD COLUMN x;"
        with pytest.raises(MigrationError, match=r"missing datatype for t\.x") as caught:
            await migrate(
                tmp_path / "a.db", make_pack("CREATE TABLE t (id INTEGER PRIMARY KEY) STRICT;", step)
            )
        assert "under a new name" not in str(caught.value)

    @pytest.mark.parametrize("posts", [0, 2])
    @pytest.mark.parametrize(
        ("more", "named"), [("", "table posts"), (VIEWS, "view names, trigger posted, table posts")]
    )
    async def test_old_table_renamed_first(
        self, make_pack: MakePack, tmp_path: Path, more: str, named: str, posts: int
    ):
        """SQLite leaves children, views and triggers with the old table: the step fails, with rows in them or without."""
        path, first = tmp_path / "a.db", USERS + POSTS.format(action="ON DELETE CASCADE") + more
        await make_parents(path, make_pack(first), posts)
        before = content(path)
        with pytest.raises(MigrationError, match=r"reference to the dropped table old_users") as caught:
            await migrate(path, make_pack(first, OLD_FIRST))
        assert all(name in str(caught.value) for name in named.split(", "))
        assert caught.value.is_step_failure
        assert content(path) == before

    async def test_a_scratch_table_with_the_name_of_a_column(self, make_pack: MakePack, tmp_path: Path):
        """A table that a step makes and drops is not looked for in the names of columns."""
        first = f"""{USERS} CREATE TABLE items (id INTEGER PRIMARY KEY, "old" TEXT);
            CREATE VIEW olds AS SELECT "old" FROM items;"""
        step = "CREATE TABLE old AS SELECT * FROM users; ALTER TABLE items ADD COLUMN n; DROP TABLE old;"
        assert len(await migrate(tmp_path / "a.db", make_pack(first, step))) == 2

    async def test_a_table_that_refers_to_itself(self, make_pack: MakePack, tmp_path: Path):
        """Rows that are each other's parents are copied in any order."""
        path = tmp_path / "a.db"
        first = "CREATE TABLE nodes (id INTEGER PRIMARY KEY, up INTEGER REFERENCES nodes ON DELETE CASCADE);"
        step = """
            CREATE TABLE new_nodes (id INTEGER PRIMARY KEY, up INTEGER REFERENCES nodes ON DELETE CASCADE, label TEXT);
            INSERT INTO new_nodes (id, up) SELECT id, up FROM nodes ORDER BY id;
            DROP TABLE nodes;
            ALTER TABLE new_nodes RENAME TO nodes;"""
        await migrate(path, make_pack(first))
        query(path, "INSERT INTO nodes VALUES (1, 2), (2, 1), (3, NULL)")
        await migrate(path, make_pack(first, step))
        assert query(path, "SELECT id, up FROM nodes ORDER BY id") == [(1, 2), (2, 1), (3, None)]
        assert query(path, "PRAGMA foreign_key_list(nodes)")[0][2] == "nodes"

    async def test_a_tenant_that_is_migrated_stays_active(self, make_pack: MakePack, data_dir: Path):
        """A tenant with child rows is migrated by its first call, is not quarantined, and keeps every row."""
        first = USERS + POSTS.format(action="ON DELETE CASCADE")
        unit = [run("INSERT INTO users VALUES (1, 'ada')"), run("INSERT INTO posts VALUES (1, 1), (2, 1)")]
        async with TenantRegistry(
            RegistryConfig(data_dir=data_dir), schemas=[COMPANY, make_pack(first)]
        ) as registry:
            await registry.create("acme")
            await registry.tenant("acme").repository(Repository).write(*unit)
        async with TenantRegistry(
            RegistryConfig(data_dir=data_dir), schemas=[COMPANY, make_pack(first, NEW_FIRST)]
        ) as registry:
            assert await registry.tenant("acme").repository(Repository).read(
                rows("SELECT id FROM posts")
            ) == [(1,), (2,)]
            with pytest.raises(ConstraintViolationError):
                await (
                    registry.tenant("acme")
                    .repository(Repository)
                    .write(run("INSERT INTO posts VALUES (3, 3)"))
                )
            assert (await registry.get("acme")).state == "active"


class TestOrphans:
    """Rows without a parent."""

    async def test_new_ones_fail_the_step(self, make_pack: MakePack, tmp_path: Path):
        """A step that leaves some is undone and told which, not more than a few of them."""
        path, first = tmp_path / "a.db", USERS + POSTS.format(action="ON DELETE CASCADE")
        await make_parents(path, make_pack(first), posts=20)
        before = content(path)
        with pytest.raises(
            MigrationError, match="row 1 of posts has no row in users; row 3 of posts"
        ) as caught:
            await migrate(path, make_pack(first, "DELETE FROM users WHERE id = 2;"))
        assert str(caught.value).count("of posts") == 5
        assert "and more" in str(caught.value)
        assert (caught.value.code, caught.value.is_step_failure) == ("SQLITE_CONSTRAINT_FOREIGNKEY", True)
        assert content(path) == before

    async def test_old_ones_do_not(self, make_pack: MakePack, tmp_path: Path):
        """Rows that had no parent before are not the step's failure; a further one is, also where an old one went."""
        path = tmp_path / "a.db"
        first = (
            USERS
            + POSTS.format(action="")
            + "CREATE TABLE tags (t TEXT PRIMARY KEY, user_id REFERENCES users) WITHOUT ROWID;"
        )
        await make_parents(path, make_pack(first))
        query(path, "INSERT INTO posts VALUES (7, 70), (8, 80)")
        query(path, "INSERT INTO tags VALUES ('a', 70), ('b', 80)")
        harmless = f"{NEW_FIRST} DELETE FROM tags WHERE t = 'a'; DELETE FROM posts WHERE id = 7;"
        for worse, named in (
            ("DELETE FROM posts WHERE id = 8; INSERT INTO posts VALUES (9, 90);", "row 9 of posts"),
            ("INSERT INTO tags VALUES ('c', 90), ('d', 90);", "a row of tags has no row in users"),
        ):
            with pytest.raises(MigrationError, match=named):
                await migrate(path, make_pack(first, harmless + worse))
        assert await migrate(path, make_pack(first, harmless)) == ["pack 0002_step"]
        assert query(path, "SELECT id FROM posts") == [(1,), (2,), (8,)]

    async def test_parents_and_keys_may_come_later(self, make_pack: MakePack, tmp_path: Path):
        """A step may refer to a table, or to a unique key, that a later step makes."""
        steps = [
            "CREATE TABLE posts (id INTEGER PRIMARY KEY, author TEXT REFERENCES users (name));",
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);",
            "CREATE UNIQUE INDEX users_name ON users (name);",
        ]
        assert len(await migrate(tmp_path / "a.db", make_pack(*steps))) == 3

    async def test_a_lost_key_fails_the_step(self, make_pack: MakePack, tmp_path: Path):
        """A parent that loses the key that its children refer to could not be written any more."""
        path = tmp_path / "a.db"
        first = """
            CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
            CREATE UNIQUE INDEX users_name ON users (name);
            CREATE TABLE posts (id INTEGER PRIMARY KEY, author TEXT REFERENCES users (name));"""
        await migrate(path, make_pack(first))
        with pytest.raises(MigrationError, match='foreign key mismatch - "posts" referencing "users"'):
            await migrate(path, make_pack(first, "DROP INDEX users_name;"))


class TestSettings:
    """Nothing that a step sets outlives it."""

    @pytest.mark.parametrize("statement", REFUSED_PRAGMAS)
    async def test_other_pragmas_are_refused_by_name(
        self, make_pack: MakePack, tmp_path: Path, statement: str
    ):
        """A step that sets another pragma, also through EXPLAIN, fails and is told which ones it may set."""
        name = re.search(r"pragma (?:main\.)?(\w+)", statement.lower())[1]
        with pytest.raises(
            MigrationError, match=f"may not use PRAGMA {name}: a migration may set .*foreign_keys"
        ):
            await migrate(tmp_path / "a.db", make_pack(f"{USERS} {statement};"))
        assert query(tmp_path / "a.db", "SELECT name FROM sqlite_schema") == []

    async def test_reading_pragmas_are_allowed(self, make_pack: MakePack, tmp_path: Path):
        """A step may look at the database through pragmas."""
        step = f"""{USERS}
            PRAGMA table_info(users); PRAGMA foreign_key_check; PRAGMA synchronous; PRAGMA main.user_version;
            INSERT INTO log SELECT name FROM pragma_table_info('users');
            PRAGMA defer_foreign_keys = ON; PRAGMA integrity_check(1);"""
        await migrate(tmp_path / "a.db", make_pack(step))
        assert query(tmp_path / "a.db", "SELECT said FROM log") == [("id",), ("name",)]

    @pytest.mark.parametrize(
        "last", ["", "SELECT * FROM nowhere;", "DELETE FROM users;"], ids=["ok", "failed", "orphans"]
    )
    async def test_settings_end_with_the_step(self, make_pack: MakePack, tmp_path: Path, last: str):
        """After a step that succeeded or failed, foreign keys hold, renaming is SQLite's own, and checks are as before."""
        path, first = tmp_path / "a.db", USERS + POSTS.format(action="")
        await make_parents(path, make_pack(first))
        steps = [f"{LEGACY} PRAGMA foreign_keys = OFF; {OLD_FIRST} {last}", OLD_FIRST]
        async with migrated(path, make_pack(first, *steps)) as store:
            with pytest.raises(MigrationError, match="0002_step" if last else "0003_step.*old_users"):
                await store.migrate()
            (orphan,) = await store.write([(run("INSERT INTO posts VALUES (9, 9)"),)])
            assert isinstance(orphan, ConstraintViolationError)
            await store.write([(run("ALTER TABLE users RENAME TO people"),)])
            assert (
                "people"
                in (await read_rows(store, "SELECT sql FROM sqlite_schema WHERE name = 'posts'"))[0][0]
            )

    async def test_settings_end_with_a_cancelled_migration(self, make_pack: MakePack, tmp_path: Path):
        """A caller that is cancelled while the step waits for the file leaves foreign keys on."""
        path, first = tmp_path / "a.db", USERS + POSTS.format(action="")
        await make_parents(path, make_pack(first))
        async with migrated(path, make_pack(first, NEW_FIRST)) as store:
            with held_writer(path):
                migrating = asyncio.ensure_future(store.migrate())
                await reached(lambda: store._connections.writer.backlog)
                migrating.cancel()
                await asyncio.wait([migrating])
            (orphan,) = await store.write([(run("INSERT INTO posts VALUES (9, 9)"),)])
            assert isinstance(orphan, ConstraintViolationError)

    async def test_temporary_tables_end_with_the_step(self, make_pack: MakePack, tmp_path: Path):
        """What a step leaves in the temporary database hides no table of the tenant, whatever it is."""
        path = tmp_path / "a.db"
        step = """
            CREATE TEMP TABLE users AS SELECT 1 AS id, 'nobody' AS name;
            CREATE VIRTUAL TABLE temp.found USING fts5 (body);
            CREATE TABLE temp."odd "" name" (n);
            CREATE TEMP VIEW log AS SELECT 'hidden' AS said;
            CREATE TEMP TRIGGER posted AFTER INSERT ON main.users BEGIN DELETE FROM log; END;"""
        # It alone: SQLite tells of it as of a trigger of the main database.
        qualified = "CREATE TRIGGER temp.posted BEFORE INSERT ON users BEGIN SELECT RAISE(IGNORE); END;"
        async with migrated(path, make_pack(USERS, step, qualified)) as store:
            await store.migrate()
            unit = (run("INSERT INTO users VALUES (1, 'ada')"), run("INSERT INTO log VALUES ('it')"))
            outcomes = await store.write([unit])
            assert not isinstance(outcomes[0], TenantryError), outcomes
        assert query(path, "SELECT name, said FROM users, log") == [("ada", "it")]
