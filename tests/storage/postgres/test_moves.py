"""A schema of PostgreSQL as the original and as the replica of a move: the journal, the passes, and what is left of them."""

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from postgres_servers import Database
from tenantry.clock import SystemClock
from tenantry.errors import SnapshotError
from tenantry.eventlog import EventLog
from tenantry.postgres_config import PostgresConfig
from tenantry.storage.moves import MovedTable, Position, follow
from tenantry.storage.postgres.connections.lifecycle_tools import LifecycleTools
from tenantry.storage.postgres.moves.original import PostgresOriginal
from tenantry.storage.postgres.moves.replica import PostgresReplica
from tenantry.storage.postgres.owner import CONTROL_TABLES
from tenantry.threads import run_in_thread

TABLES = """
CREATE TABLE plain (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text COLLATE "C", b double precision, at timestamptz, doc jsonb,
    flag boolean, twice text GENERATED ALWAYS AS (a || a) STORED
);
CREATE TABLE pairs ("the key" bytea, n bigint, value uuid, PRIMARY KEY ("the key", n));
CREATE TABLE names (id bigint PRIMARY KEY, name text UNIQUE, boss bigint REFERENCES names (id) ON DELETE SET NULL);
CREATE TABLE children (id bigint PRIMARY KEY, parent bigint REFERENCES names (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE log (id serial PRIMARY KEY, text text);
CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO log (text) VALUES ('inserted ' || NEW.id); RETURN NULL; END $$;
CREATE TRIGGER logged AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION logged();
"""
NAMES = ["plain", "pairs", "names", "children", "log", "tenantry_idempotency"]


def few(chance: random.Random) -> int:
    """Return one of a few numbers, so that the statements meet each other's rows."""
    return chance.randrange(12)


def write_at_random(connection: Connection[Any], chance: random.Random, count: int) -> None:
    """Insert, change and delete rows; change keys; swap unique values; and empty a table."""
    statements: list[tuple[str, Any]] = [
        ("INSERT INTO plain (a, b, at, doc, flag) VALUES (%s, %s / 7.0, now(), '{\"b\": 1e5, \"a\": [1]}', true)", "an"),
        ("UPDATE plain SET a = %s, doc = '[]', at = NULL WHERE id = %s", "an"),
        ("DELETE FROM plain WHERE id = %s", "n"),
        ("INSERT INTO pairs VALUES (%s, %s, gen_random_uuid()) ON CONFLICT DO NOTHING", "bn"),
        ('UPDATE pairs SET "the key" = %s, n = %s WHERE n = %s', "bnn"),
        ("INSERT INTO names VALUES (%s, %s, (SELECT min(id) FROM names))", "na"),
        ("UPDATE names SET id = %s, name = %s WHERE id = %s", "nan"),
        ("DELETE FROM names WHERE id = %s", "n"),
        ("INSERT INTO children SELECT %s, id FROM names LIMIT 1", "n"),
        ("INSERT INTO tenantry_idempotency VALUES (%s, %s, '[]', now()) ON CONFLICT (key) DO UPDATE SET results = '[1]'", "ab"),
        ("UPDATE names SET name = CASE id WHEN 1 THEN 'x' ELSE name END", ""),
        ("TRUNCATE log", ""),
    ]  # fmt: skip
    values = {
        "n": lambda: few(chance),
        "a": lambda: f"t{few(chance)}",
        "b": lambda: bytes([few(chance)]),
    }
    for _ in range(count):
        sql, kinds = chance.choice(statements)
        try:
            connection.execute(sql.encode(), [values[kind]() for kind in kinds])
        except psycopg.IntegrityError:
            continue  # some of the statements break a constraint, and then change nothing


class Schemas:
    """Two schemas with the same tables, the original and the replica.

    Attributes:
        writer: A connection whose search path is the original.
    """

    def __init__(self, url: str, tools: LifecycleTools) -> None:
        self.writer = psycopg.connect(url, autocommit=True)
        self.original = PostgresOriginal(tools, "one")
        self.replica = PostgresReplica(tools, "two")
        for schema in ("two", "one"):
            self.writer.execute(f"CREATE SCHEMA {schema}".encode())
            self.writer.execute(f"SET search_path = {schema}".encode())
            for statement in CONTROL_TABLES:
                self.writer.execute(statement.encode())
            self.writer.execute(TABLES.encode())

    def copy(self) -> None:
        """Copy the rows of the original, as they are now."""
        with self.writer.transaction():
            for name in NAMES:
                columns = "id, a, b, at, doc, flag" if name == "plain" else "*"
                if name == "plain":
                    self.writer.execute(b"ALTER TABLE two.plain DISABLE TRIGGER USER")
                self.writer.execute(
                    f"INSERT INTO two.{name} {f'({columns})' if name == 'plain' else ''} OVERRIDING SYSTEM VALUE SELECT {columns} FROM "
                    f"one.{name} ORDER BY 1".encode()
                )
            self.writer.execute(b"ALTER TABLE two.plain ENABLE TRIGGER USER")

    def contents(self, schema: str) -> dict[str, list[tuple[Any, ...]]]:
        """Return the rows of all tables."""
        return {
            name: sorted(self.writer.execute(f"SELECT * FROM {schema}.{name}".encode()).fetchall(), key=repr)
            for name in NAMES
        }

    def objects(self, schema: str) -> list[tuple[Any, ...]]:
        """Return the tables, functions, triggers and constraints of a schema, and the state of each."""
        sql = """
            SELECT 'table', relname, '', '' FROM pg_class WHERE relnamespace = %(schema)s::regnamespace
            UNION ALL SELECT 'function', proname, '', '' FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
            UNION ALL SELECT 'trigger', tgname, tgenabled::text, '' FROM pg_trigger JOIN pg_class AS c ON c.oid = tgrelid
                WHERE c.relnamespace = %(schema)s::regnamespace AND NOT tgisinternal
            UNION ALL SELECT 'constraint', conname, convalidated::text, replace(pg_get_constraintdef(oid), %(schema)s || '.', '')
                FROM pg_constraint WHERE connamespace = %(schema)s::regnamespace
            ORDER BY 1, 2
        """
        return self.writer.execute(sql, {"schema": schema}).fetchall()

    async def follow(
        self, pairs: list[tuple[MovedTable, MovedTable]], after: Position, *, is_counted: bool = True
    ) -> Position:
        """Make one pass."""
        async with self.original.connected(), self.replica.connected():
            done = await run_in_thread(
                follow, self.original, self.replica, pairs, after, is_open=True, is_counted=is_counted
            )
        return done.position


@pytest.fixture
def schemas(postgres_database: Database) -> Iterator[Schemas]:
    """Return two schemas."""
    config = PostgresConfig.model_validate(postgres_database.url)
    tools = LifecycleTools.of(config, (), clock=SystemClock(), log=EventLog(), wait_seconds_max=30.0)
    tools.open()
    found = Schemas(postgres_database.direct_url, tools)
    with closing(found.writer):
        yield found
    tools.close()


@pytest.mark.parametrize("seed", range(8))
async def test_the_replica_follows_whatever_is_written(schemas: Schemas, seed: int):
    """After each pass the replica equals the original; at the end its objects do, too, and both have no journal."""
    chance = random.Random(seed)
    write_at_random(schemas.writer, chance, 60)
    before = schemas.objects("one")
    assert before == schemas.objects("two")
    tables = await schemas.original.install()
    assert {one.refusal for one in tables} == {None}
    schemas.copy()
    pairs = list(zip(tables, await schemas.replica.suspend_rules(), strict=True))
    position: Position = {}
    for _ in range(4):
        write_at_random(schemas.writer, chance, chance.choice([0, 5, 60]))
        position = await schemas.follow(pairs, position)
        assert schemas.contents("one") == schemas.contents("two")
    await schemas.replica.restore_rules(await schemas.original.sequences(tables))
    await schemas.replica.validate_rules()
    await schemas.original.remove()
    assert schemas.objects("one") == schemas.objects("two") == before
    schemas.writer.execute(b"INSERT INTO one.plain (a) VALUES ('next')")
    schemas.writer.execute(b"SET search_path = two")
    schemas.writer.execute(b"INSERT INTO two.plain (a) VALUES ('next')")
    assert schemas.contents("one")["plain"][-1][0] == schemas.contents("two")["plain"][-1][0]


async def test_what_cannot_move_has_a_reason(schemas: Schemas):
    """A table without a primary key is named; tables of tenantry are not listed."""
    schemas.writer.execute(b"CREATE TABLE keyless (a text)")
    tables = {one.name: one for one in await schemas.original.tables()}
    assert tables.keys() == {*NAMES, "keyless"}
    assert tables["keyless"].refusal == "it has no primary key"
    assert tables["pairs"] == MovedTable(
        "pairs", ("the key", "n", "value"), ("bytea", "int8", "uuid"), ("the key", "n")
    )
    assert "twice" not in tables["plain"].columns


async def test_a_copy_that_differs_is_found(schemas: Schemas):
    """A replica that lost a row fails the pass that counts, and a replica that keeps another value fails any pass."""
    tables = await schemas.original.install()
    pairs = list(zip(tables, await schemas.replica.suspend_rules(), strict=True))
    schemas.writer.execute(b"INSERT INTO pairs VALUES ('a', 1, gen_random_uuid())")
    position = await schemas.follow(pairs, {})
    schemas.writer.execute(b"DELETE FROM two.pairs")
    await schemas.follow(pairs, position, is_counted=False)
    with pytest.raises(SnapshotError, match="the copy of table 'pairs' has 0 rows, but the original has 1"):
        await schemas.follow(pairs, position)
    schemas.writer.execute(
        b"CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.value = NULL; RETURN NEW; END';"
        b"CREATE TRIGGER other BEFORE INSERT ON two.pairs FOR EACH ROW EXECUTE FUNCTION other()"
    )
    schemas.writer.execute(b"UPDATE pairs SET value = gen_random_uuid()")
    with pytest.raises(SnapshotError, match="table 'pairs' has changed rows that differ"):
        await schemas.follow(pairs, position)
    assert schemas.contents("two")["pairs"] == []


async def test_a_table_that_is_dropped_and_created_again(schemas: Schemas):
    """Its changes are not recorded any more, so the next pass fails."""
    tables = await schemas.original.install()
    pairs = list(zip(tables, await schemas.replica.suspend_rules(), strict=True))
    schemas.writer.execute(b"DROP TABLE pairs; CREATE TABLE pairs (id bigint PRIMARY KEY)")
    with pytest.raises(SnapshotError, match="a table was dropped during the move"):
        await schemas.follow(pairs, {})


async def test_a_foreign_key_that_the_original_did_not_enforce(schemas: Schemas):
    """Rows without a parent move too; the key stays as it was for them, and is enforced for new rows."""
    schemas.writer.execute(
        b"ALTER TABLE children DISABLE TRIGGER ALL; INSERT INTO children VALUES (1, 99); ALTER TABLE children ENABLE TRIGGER ALL"
    )
    await schemas.original.install()
    await schemas.replica.suspend_rules()
    schemas.writer.execute(b"INSERT INTO two.children SELECT * FROM one.children")
    await schemas.replica.restore_rules({})
    await schemas.replica.validate_rules()
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        schemas.writer.execute(b"INSERT INTO two.children VALUES (2, 99)")


async def test_removing_a_journal_can_be_repeated(schemas: Schemas):
    """Without a journal, and without a schema, there is nothing to remove."""
    before = schemas.objects("one")
    await schemas.original.install()
    await schemas.original.remove()
    await schemas.original.remove()
    assert schemas.objects("one") == before
    schemas.writer.execute(b"DROP SCHEMA one CASCADE")
    await schemas.original.remove()
