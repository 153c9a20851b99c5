"""Migrations of a tenant's schema on PostgreSQL: each step is all or nothing, and one process migrates at a time."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from postgres_servers import Database
from postgres_stores import admin, open_stores, rows
from stores import MakePack, connected, reached
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.errors import (
    MigrationError,
    PersistenceConnectionError,
    QueryError,
    TenantOwnedElsewhereError,
    TenantQuarantinedError,
)
from tenantry.eventlog import EventLog
from tenantry.schemas.schema import Schema
from tenantry.storage.migrations import plan_migrations
from tenantry.storage.postgres.migrations.migrator import CREATE_SQL, MigratedSchema, migrate
from tenantry.storage.protocol import MigrationReport

NOTES = "CREATE TABLE notes (id bigint PRIMARY KEY, body text COLLATE \"C\" NOT NULL);\nINSERT INTO notes VALUES (1, 'one two'), (2, 'three');"

SLEEPING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
"""Finds a statement that sleeps."""

OBJECTS = """
SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class AS c
LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'acme'::regnamespace ORDER BY 1, a.attnum
"""


class Tenant:
    """A tenant's schema, with tenantry's tables, and connections to it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.schema = MigratedSchema("acme", "uid-1", 1, tenant_id="acme")
        with psycopg.connect(database.direct_url, autocommit=True) as connection:
            connection.execute(
                "CREATE SCHEMA acme; SET search_path TO acme; "
                "CREATE TABLE tenantry_owner (id int PRIMARY KEY, tenant_uid text, epoch bigint); "
                f"INSERT INTO tenantry_owner VALUES (1, 'uid-1', 1); {CREATE_SQL}".encode()
            )

    @asynccontextmanager
    async def connected(self, **parameters: str) -> AsyncIterator[psycopg.AsyncConnection]:
        """Open a connection as a store has it."""
        connection = await psycopg.AsyncConnection.connect(
            self.database.url.replace("&tenantry_pooled=true", ""),
            autocommit=True,
            prepare_threshold=None,
            **parameters,
        )
        async with connection:
            yield connection

    async def migrate(self, *packs: Schema) -> list[str]:
        """Migrate, and return what was applied."""
        async with self.connected() as connection:
            return list(map(str, (await migrate_on(connection, self.schema, *packs)).applied))

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Return what a query finds in the schema."""
        with psycopg.connect(self.database.direct_url, autocommit=True) as connection:
            connection.execute("SET search_path TO acme; SET TimeZone TO 'UTC'")
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def content(self) -> list[tuple[object, ...]]:
        """Return all tables and columns, the applied migrations, and the notes."""
        has_notes = self.query("SELECT 1 FROM pg_tables WHERE schemaname = 'acme' AND tablename = 'notes'")
        return [
            *self.query(OBJECTS),
            *self.query("SELECT * FROM schema_migrations"),
            *(self.query("SELECT * FROM notes ORDER BY 1") if has_notes else []),
        ]


async def migrate_on(
    connection: psycopg.AsyncConnection, schema: MigratedSchema, *packs: Schema
) -> MigrationReport:
    """Migrate on a connection."""
    return await migrate(
        connection,
        schema,
        lambda applied: plan_migrations(packs, "postgres", applied, len(applied)),
        clock=SystemClock(),
        log=EventLog(),
    )


@pytest.fixture
def tenant(postgres_database: Database) -> Tenant:
    """A tenant's schema on the newest server."""
    return Tenant(postgres_database)


class TestRun:
    """What a migration does."""

    async def test_on_every_server(self, each_postgres_database: Database, make_pack: MakePack):
        """The built-in pack and a pack of one's own are applied once, in order, with their rows."""
        tenant = Tenant(each_postgres_database)
        pack = make_pack(postgres=[NOTES, "CREATE INDEX notes_body ON notes (body);"])
        assert await tenant.migrate(COMPANY, pack) == [
            "company 0001_company",
            "pack 0001_step",
            "pack 0002_step",
        ]
        before = tenant.content()
        assert await tenant.migrate(COMPANY, pack) == []
        assert tenant.content() == before
        assert tenant.query(
            "SELECT schema, version, name, checksum FROM schema_migrations ORDER BY 1, 2"
        ) == [
            (m.schema, m.version, m.name, m.checksum)
            for m in (*COMPANY.migrations("postgres"), *pack.migrations("postgres"))
        ]
        ((applied_at, duration_ms),) = tenant.query(
            "SELECT max(applied_at), min(duration_ms) FROM schema_migrations"
        )
        assert isinstance(applied_at, datetime)
        assert applied_at <= datetime.now(UTC)
        assert isinstance(duration_ms, float)
        assert duration_ms > 0

    async def test_versions_are_reported(self, tenant: Tenant, make_pack: MakePack):
        """The report has the versions of all packs, and only the migrations of this call."""
        await tenant.migrate(COMPANY)
        async with tenant.connected() as connection:
            report = await migrate_on(connection, tenant.schema, COMPANY, make_pack(postgres=[NOTES]))
        assert report.versions == {"company": 1, "pack": 1}
        assert [str(migration) for migration in report.applied] == ["pack 0001_step"]

    async def test_a_script_with_quotes(self, tenant: Tenant, make_pack: MakePack):
        """Strings, dollar quotes, comments and functions reach the server as they were written."""
        script = """
        CREATE TABLE notes (id bigint PRIMARY KEY, body text);
        CREATE FUNCTION twice(n bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN 2 * n; END $$;
        CREATE FUNCTION thrice(n bigint) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT 3 * n; SELECT 3 * n; END;
        INSERT INTO notes VALUES (twice(2), 'it''s; COMMIT'), (thrice(3), E'a\\'b; SET x = 1'), (1, $a$ $tenantry_0$ $$ COMMIT; $a$);
        SET LOCAL work_mem = '8MB'; SET CONSTRAINTS ALL DEFERRED;
        -- COMMIT; the comment's end is the script's"""
        await tenant.migrate(make_pack(postgres=[script]))
        assert tenant.query("SELECT * FROM notes ORDER BY id") == [
            (1, " $tenantry_0$ $$ COMMIT; "),
            (4, "it's; COMMIT"),
            (9, "a'b; SET x = 1"),
        ]

    async def test_an_empty_script(self, tenant: Tenant, make_pack: MakePack):
        """A script without statements is recorded."""
        assert await tenant.migrate(make_pack(postgres=["-- nothing\n"])) == ["pack 0001_step"]

    async def test_temporary_tables_end_with_the_step(self, tenant: Tenant, make_pack: MakePack):
        """A temporary table would hide the table of the next tenant that the connection serves."""
        pack = make_pack(
            postgres=[f"{NOTES} CREATE TEMP TABLE kept AS SELECT * FROM notes; SELECT * FROM kept;"]
        )
        async with tenant.connected() as connection:
            await migrate_on(connection, tenant.schema, pack)
            with pytest.raises(psycopg.errors.UndefinedTable):
                await connection.execute("SELECT * FROM kept")
            # Neither do the settings of the step remain.
            shown = await (await connection.execute("SHOW search_path")).fetchone()
            assert shown is not None
            assert "acme" not in shown[0]


class TestFunction:
    """A step in Python has the session of SQLite's steps."""

    async def test_rows_and_counts(self, each_postgres_database: Database, make_pack: MakePack):
        """The methods of the session count, fetch and change as on SQLite, and values are those of a store."""
        tenant = Tenant(each_postgres_database)
        step = """
def migrate(session):
    session.execute("ALTER TABLE notes ADD COLUMN words bigint NOT NULL DEFAULT 0")
    notes = session.fetch_all("SELECT id, body FROM notes ORDER BY id")
    counted = session.execute_many(
        "UPDATE notes SET words = ?2 WHERE id = ?1", ((note.id, len(note.body.split())) for note in notes)
    )
    assert counted == len(notes)
    assert session.execute("INSERT INTO notes (id, body) VALUES (?, ?)", (3, "")) == 1
    assert session.execute("UPDATE notes SET body = body WHERE id = ?1 OR id = ?1 + 1", (1,)) == 2
    assert session.fetch_one("SELECT count(*) AS number FROM notes").number == len(notes) + 1
    assert session.fetch_one("SELECT 1 WHERE false") is None
    assert session.fetch_one("INSERT INTO notes (id, body) VALUES (4, 'gone?') RETURNING body")["body"] == "gone?"
    assert session.execute("DELETE FROM notes WHERE body IN ('', 'gone?')") == 2
    assert session.execute_many("INSERT INTO notes VALUES (?, ?, ?)", ((n, "x", n) for n in range(10, 2510))) == 2500
    assert session.execute("DELETE FROM notes WHERE id >= 10") == 2500
    session.execute("CREATE TABLE kinds (a bytea, b uuid, c boolean, d timestamptz, e jsonb, f double precision, g numeric)")
    values = (b"x", bytes(16), True, "2026-01-31T09:30:00.500000Z", '{"a": 1}', 0.1, 7)
    session.execute("INSERT INTO kinds VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    found = session.fetch_one("SELECT * FROM kinds")
    assert tuple(found) == (b"x", bytes(16), 1, "2026-01-31T09:30:00.500000Z", '{"a": 1}', 0.1, 7), found
"""
        assert await tenant.migrate(make_pack(postgres=[NOTES, step])) == ["pack 0001_step", "pack 0002_step"]
        assert tenant.query("SELECT * FROM notes ORDER BY id") == [(1, "one two", 2), (2, "three", 1)]

    @pytest.mark.parametrize(
        ("lines", "said", "code"),
        [
            (["int('secret')"], "at line 3 of 0002_step.py .*raised ValueError: its text may quote", "ValueError"),
            (["from tenantry.errors import MigrationError", "raise MigrationError('two are empty')"], "at line 4 .*two are empty", "MigrationError"),
            (["raise SystemExit('secret')"], "at line 3 .*raised SystemExit: its text may quote", "SystemExit"),
            (["session.execute(\"INSERT INTO notes VALUES (1, 'x')\")"], "at line 3 .*duplicate key", "23505"),
            (["session.execute('SELECT 1')"], "returns rows: use fetch_one", "42601"),
            (["session.fetch_all('DELETE FROM notes')"], "returns no rows: use execute", "42601"),
            (["session.execute('SELECT ?', (object(),))"], "parameter 1 is of type object", "QueryError"),
            (["session.execute('DELETE FROM notes WHERE id = ?', (2**63,))"], "out of range", "22003"),
            (["session.execute('DELETE FROM notes WHERE id = ?', ())"], "there is no parameter", "42P02"),
            (["session.execute('this is not SQL')"], "at line 3 .*syntax error", "42601"),
            (["session.execute('SELECT 1; SELECT 2')"], "several statements at once", "42601"),
            (["session.execute('COMMIT')"], "at line 3 .*may not use COMMIT", "QueryError"),
            (["session.execute('SAVEPOINT s')"], "may not use SAVEPOINT", "QueryError"),
            (["session.execute('SET work_mem = 1')"], "may not use SET", "QueryError"),
            (["session.execute('DELETE FROM schema_migrations')"], "the table schema_migrations", "QueryError"),
            (["for sql in ('nonsense', 'DELETE FROM notes'):", "    try:", "        session.execute(sql)", "    except Exception: pass"], "at line 5", "42601"),
        ],
    )  # fmt: skip
    async def test_leaves_the_schema_as_it_was(
        self, tenant: Tenant, make_pack: MakePack, lines: list[str], said: str, code: str
    ):
        """Whatever the function raises or is refused, the error names the migration and the line, and nothing of the step is kept."""
        await tenant.migrate(make_pack(postgres=[NOTES]))
        before = tenant.content()
        step = "\n".join(
            [
                "def migrate(session):",
                "    session.execute('DELETE FROM notes WHERE id = 2')",
                *(f"    {line}" for line in lines),
            ]
        )
        with pytest.raises(MigrationError, match=said) as caught:
            await tenant.migrate(make_pack(postgres=[NOTES, step]))
        assert str(caught.value).startswith("migration pack 0002_step failed")
        assert "secret" not in str(caught.value)
        assert (caught.value.code, caught.value.version) == (code, 2)
        assert tenant.content() == before

    @pytest.mark.parametrize("statement", ["SELECT pg_sleep(600)", "SELECT pg_sleep(0.01)"])
    async def test_ends_with_its_caller(self, tenant: Tenant, make_pack: MakePack, statement: str):
        """A cancelled caller ends the running statement, or the loop of short statements, and nothing of the step is kept."""
        await tenant.migrate(make_pack(postgres=[NOTES]))
        before = tenant.content()
        endless = f"""
def migrate(session):
    session.execute("DELETE FROM notes")
    while True:
        session.fetch_all("{statement}")
"""
        migrating = asyncio.ensure_future(tenant.migrate(make_pack(postgres=[NOTES, endless])))
        await reached(lambda: tenant.query(SLEEPING))
        migrating.cancel()
        await asyncio.wait([migrating])
        assert migrating.cancelled()
        assert tenant.content() == before


class TestFailure:
    """A step that fails leaves the schema as it was."""

    @pytest.mark.parametrize(
        ("step", "said", "code"),
        [
            ("SELECT 1;\n\nSELECT * FROM nowhere", 'at line 3 of 0002_step.sql .*relation "nowhere" does not exist', "42P01"),
            ("SELECT 1;\nthis is not SQL", "at line 2 of 0002_step.sql .*syntax error", "42601"),
            ("INSERT INTO notes VALUES (1, 'secret')", "duplicate key value", "23505"),
            ("SELECT (body || 'secret')::bigint FROM notes", r"syntax for type bigint: \(a value\)", "22P02"),
            ("UPDATE tags SET note_id = 9", "violates foreign key constraint", "23503"),
            ("COMMIT", "may not use COMMIT: tenantry runs it in a transaction", "42501"),
            ("INSERT INTO notes VALUES (3, ''); BEGIN; SELECT 1", "may not use BEGIN", "42501"),
            ("SELECT 1; END", "transaction commands", "0A000"),
            ("DO $$ BEGIN COMMIT; END $$", "invalid transaction termination", "2D000"),
            ("SAVEPOINT s", "may not use SAVEPOINT", "42501"),
            ("SET search_path TO public", "may not use SET SEARCH_PATH", "42501"),
            ("SET LOCAL search_path TO public", "may not use SET LOCAL SEARCH_PATH", "42501"),
            ("SET LOCAL ROLE postgres", "may not use SET LOCAL ROLE", "42501"),
            ("DISCARD ALL", "may not use DISCARD", "42501"),
            ("COPY notes TO STDOUT", "may not use COPY", "42501"),
            ("CREATE INDEX CONCURRENTLY notes_body ON notes (body)", "cannot run inside a transaction", "25001"),
            ('DELETE FROM "schema_migrations"', "may not use the table schema_migrations", "42501"),
            ("UPDATE tenantry_owner SET epoch = 7", "may not use the table tenantry_owner", "42501"),
            ("SELECT '\0'", "line 1 of the script contains the character NUL", "22021"),
            ("SELECT set_config('search_path', 'public', true); CREATE TABLE escaped (id int)", None, None),
        ],
    )  # fmt: skip
    async def test_leaves_the_schema_as_it_was(
        self, tenant: Tenant, make_pack: MakePack, step: str, said: str | None, code: str | None
    ):
        """The error names the migration, the line if the server knows it, and the server's error, and nothing of the step is kept."""
        first = (
            f"{NOTES} CREATE TABLE tags (id bigint PRIMARY KEY, "
            "note_id bigint REFERENCES notes DEFERRABLE INITIALLY DEFERRED); INSERT INTO tags VALUES (1, 1);"
        )
        await tenant.migrate(make_pack(postgres=[first]))
        before = tenant.content()
        again = make_pack(postgres=[first, f"DELETE FROM notes WHERE id = 2; {step}"])
        if said is None:
            assert await tenant.migrate(again) == ["pack 0002_step"]
            assert len(tenant.query("SELECT * FROM schema_migrations")) == 2
            return
        with pytest.raises(MigrationError, match=said) as caught:
            await tenant.migrate(again)
        assert str(caught.value).startswith("migration pack 0002_step failed")
        assert "secret" not in str(caught.value)
        assert (caught.value.code, caught.value.version, caught.value.schema) == (code, 2, "pack")
        assert caught.value.is_step_failure
        assert tenant.content() == before

    async def test_earlier_migrations_stay(self, tenant: Tenant, make_pack: MakePack):
        """Each step commits on its own, so a failure keeps the steps before it."""
        with pytest.raises(MigrationError, match="pack 0002_step failed"):
            await tenant.migrate(make_pack(postgres=[NOTES, "nonsense"]))
        assert tenant.query("SELECT version FROM schema_migrations") == [(1,)]
        assert await tenant.migrate(make_pack(postgres=[NOTES, "SELECT 1"])) == ["pack 0002_step"]

    async def test_a_database_that_does_not_match(self, tenant: Tenant, make_pack: MakePack):
        """A changed migration, a newer database and a missing migration are refused as on SQLite."""
        await tenant.migrate(make_pack(postgres=[NOTES, "SELECT 1"]))
        with pytest.raises(MigrationError, match="pack 0002_step was changed after it was applied"):
            await tenant.migrate(make_pack(postgres=[NOTES, "SELECT 2"]))
        with pytest.raises(MigrationError, match="has migration 0002, which is newer than the code"):
            await tenant.migrate(make_pack(postgres=[NOTES]))
        tenant.query("DELETE FROM schema_migrations WHERE version = 1")
        with pytest.raises(MigrationError, match="0002 was applied, but migration 0001 was not"):
            await tenant.migrate(make_pack(postgres=[NOTES, "SELECT 1"]))

    async def test_another_owner(self, tenant: Tenant, make_pack: MakePack):
        """A process that has lost the tenant, or whose schema was exchanged, migrates nothing."""
        pack, before = make_pack(postgres=[NOTES]), tenant.content()
        for stranger in ({"epoch": 2}, {"tenant_uid": "uid-2"}, {"name": "gone"}):
            async with tenant.connected() as connection:
                with pytest.raises(TenantOwnedElsewhereError, match="did not run"):
                    await migrate_on(connection, tenant.schema._replace(**stranger), pack)
        assert tenant.content() == before

    async def test_a_lost_connection(self, tenant: Tenant, make_pack: MakePack):
        """The error says that the connection ended, and the migrations run at the next try."""
        pack = make_pack(postgres=["SELECT pg_terminate_backend(pg_backend_pid())"])
        with pytest.raises(PersistenceConnectionError, match="the connection ended during the migrations"):
            await tenant.migrate(pack)
        assert tenant.query("SELECT * FROM schema_migrations") == []

    async def test_a_store_migrates_again(self, postgres_database: Database, make_pack: MakePack):
        """A connection that ends while a tenant is opened is no error of the caller: the step ran once, or not at all."""
        ends = "SELECT CASE WHEN nextval('public.tries') = 1 THEN pg_terminate_backend(pg_backend_pid()) END;"
        pack = make_pack(postgres=[NOTES, f"INSERT INTO notes VALUES (3, 'four'); {ends}"])
        await admin(postgres_database, "CREATE SEQUENCE public.tries")
        async with open_stores(postgres_database) as stores, connected(stores.make([pack])) as store:
            assert await rows(store, "SELECT id FROM notes ORDER BY id") == [(1,), (2,), (3,)]
        assert await admin(postgres_database, "SELECT last_value FROM public.tries") == [(2,)]

    async def test_a_cancelled_caller(self, tenant: Tenant, make_pack: MakePack):
        """The running statement is cancelled, and nothing of the step is kept."""
        before = tenant.content()
        migrating = asyncio.ensure_future(
            tenant.migrate(make_pack(postgres=[f"{NOTES} SELECT pg_sleep(600);"]))
        )
        await reached(lambda: tenant.query(SLEEPING))
        migrating.cancel()
        await asyncio.wait([migrating])
        assert migrating.cancelled()
        assert tenant.content() == before


async def test_a_failed_migration_quarantines_its_tenant(
    postgres_database: Database, make_pack: MakePack, data_dir: Path
):
    """The error names the tenant and the migration; the other tenants serve, and so does the tenant after a repair with a corrected pack."""
    config = RegistryConfig(
        data_dir=data_dir, databases={"server": postgres_database.url}, default_backend="server"
    )
    sqlite = "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT NOT NULL)"
    columns = "ALTER TABLE notes ADD COLUMN words bigint"
    first = NOTES.partition("\n")[0]
    async with TenantRegistry(config, schemas=[make_pack(sqlite, postgres=[first])]) as registry:
        for tenant_id, body in (("acme", "not a number"), ("globex", "7")):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).execute("INSERT INTO notes VALUES (1, ?)", [body])
    wrong = make_pack(sqlite, columns, postgres=[first, f"{columns}; UPDATE notes SET words = body::bigint"])
    async with TenantRegistry(config, schemas=[wrong]) as registry:
        assert await registry.tenant("globex").fetch_value("SELECT words FROM notes") == 7
        with pytest.raises(TenantQuarantinedError, match=r"acme.*pack 0002_step failed") as caught:
            await registry.tenant("acme").fetch_value("SELECT 1")
        assert "not a number" not in str(caught.value)
        assert (await registry.get("acme")).state is TenantState.QUARANTINED
    async with TenantRegistry(
        config, schemas=[make_pack(sqlite, columns, postgres=[first, columns])]
    ) as registry:
        await registry.repair("acme")
        assert await registry.tenant("acme").fetch_value("SELECT count(words) FROM notes") == 0


async def test_two_processes_migrate_one_tenant(tenant: Tenant, make_pack: MakePack):
    """The second process waits for the first, sees its migrations, and applies only what is left."""
    pack = make_pack(postgres=[NOTES, *("SELECT 1",) * 6])
    applied = await asyncio.gather(*(tenant.migrate(pack) for _ in range(4)))
    assert sorted(itertools.chain(*applied)) == sorted(map(str, pack.migrations("postgres")))


async def test_a_table_that_somebody_reads_for_long(tenant: Tenant, make_pack: MakePack):
    """The step fails after a time, which is no failure of the tenant's data, and succeeds at the next try."""
    change = "ALTER TABLE notes ADD COLUMN words bigint"
    await tenant.migrate(make_pack(postgres=[NOTES]))
    with psycopg.connect(tenant.database.direct_url) as reader:
        reader.execute("SELECT * FROM acme.notes")
        async with tenant.connected() as connection:
            with pytest.raises(MigrationError, match="lock timeout") as caught:
                await migrate_on(
                    connection,
                    tenant.schema._replace(lock_seconds_max=0.1),
                    make_pack(postgres=[NOTES, change]),
                )
    assert (caught.value.is_retryable, caught.value.is_step_failure, caught.value.code) == (
        True,
        False,
        "55P03",
    )
    assert await tenant.migrate(make_pack(postgres=[NOTES, change])) == ["pack 0002_step"]


async def test_a_wait_for_another_migration(tenant: Tenant, make_pack: MakePack):
    """A process waits for another process's migration longer than lock_timeout, and then has nothing to do."""
    slow = make_pack(postgres=[f"{NOTES} SELECT pg_sleep(0.5);"])

    async def second() -> MigrationReport:
        async with tenant.connected(options="-c lock_timeout=100") as connection:
            return await migrate_on(connection, tenant.schema, slow)

    first = asyncio.ensure_future(tenant.migrate(slow))
    await reached(lambda: first.done() or tenant.query(SLEEPING))
    assert ((await second()).applied, await first) == ((), ["pack 0001_step"])


async def test_a_role_without_rights(tenant: Tenant, make_pack: MakePack):
    """The error is the server's, and not that of a lost connection."""
    tenant.query("REVOKE ALL ON schema_migrations FROM CURRENT_USER; CREATE ROLE reader_of_nothing")
    try:
        async with tenant.connected() as connection:
            await connection.execute("SET ROLE reader_of_nothing")
            with pytest.raises(QueryError, match=r"cannot read the migrations of the schema acme.*42501"):
                await migrate_on(connection, tenant.schema, make_pack(postgres=[NOTES]))
    finally:
        tenant.query("DROP ROLE reader_of_nothing")


async def test_the_servers_timeouts_do_not_end_a_migration(tenant: Tenant, make_pack: MakePack):
    """A step may take longer than a statement of a caller."""
    async with tenant.connected() as connection:
        await connection.execute("SET statement_timeout = '1s'; SET transaction_timeout = '1s'")
        report = await migrate_on(
            connection, tenant.schema, make_pack(postgres=[f"SELECT pg_sleep(1.2); {NOTES}"])
        )
    assert len(report.applied) == 1
