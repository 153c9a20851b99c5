"""What kind of statement a text is: comments, strings, parentheses and WITH do not mislead it."""

import sqlite3
from contextlib import closing

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_servers import PostgresServer
from tenantry.sql.tokens import shape_of

# The verb, and whether the statement returns rows.
STATEMENTS = {
    "SELECT 1": ("SELECT", True),
    "VALUES (1)": ("VALUES", True),
    "PRAGMA table_info(t)": ("PRAGMA", True),
    "EXPLAIN DELETE FROM t": ("EXPLAIN", True),
    "INSERT INTO t VALUES ('x RETURNING id')": ("INSERT", False),
    "INSERT INTO t (n) VALUES ('1') RETURNING n": ("INSERT", True),
    "REPLACE INTO t (n) VALUES (replace('a', 'a', 'b'))": ("REPLACE", False),
    "UPDATE t SET n = (SELECT max(n) FROM t) -- RETURNING n": ("UPDATE", False),
    "DELETE FROM t /* for ever */ RETURNING *": ("DELETE", True),
    "CREATE TABLE u (n)": ("CREATE", False),
    'SELECT n AS "returning" FROM t': ("SELECT", True),
    "UPDATE t SET n = :returning": ("UPDATE", False),
}
BEFORE = [
    "",
    " \n\t",
    "; ;",
    "-- a comment\n",
    "/* DELETE FROM t */",
    "WITH few AS (SELECT 'DELETE' AS n) ",
    "WITH few (n) AS (SELECT 1), more AS NOT MATERIALIZED (SELECT n FROM few WHERE n IN (1, 2)) ",
    "with recursive few(n) as (values (1) union all select n + 1 from few where n < 3) ",
    "WITH replace AS (SELECT 1), [select] AS (SELECT 2) ",
    "WITH few AS (SELECT 1) -- SELECT\n",
]
AFTER = ["", ";", " ; -- done", "/* RETURNING */", "\n--", " /* never ends"]


@given(
    statement=st.sampled_from(sorted(STATEMENTS)),
    before=st.sampled_from(BEFORE),
    after=st.sampled_from(AFTER),
    is_lower=st.booleans(),
)
def test_the_main_verb(*, statement: str, before: str, after: str, is_lower: bool):
    """The verb and RETURNING are found whatever is before and behind them; the end is that of the last token."""
    verb, returns_rows = STATEMENTS[statement]
    text = f"{before}{statement.lower() if is_lower else statement}{after}"
    shape = shape_of(text)
    assert (shape.verb, shape.returns_rows) == (verb, returns_rows)
    assert shape_of(text[: shape.end]) == shape
    assert not text[: shape.end].rstrip().endswith((";", "*/"))


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT n FROM t",
        "DELETE FROM t",
        "INSERT INTO t (n) VALUES ('1') RETURNING n",
        "UPDATE t SET n = 'x'",
    ],
)
def test_sqlite_agrees(before: str, statement: str):
    """SQLite runs the text, and returns rows if and only if it is said to."""
    sql = before + statement
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (n TEXT)")
        assert (connection.execute(sql).description is not None) is shape_of(sql).returns_rows


# Statements of PostgreSQL: the verb, whether the statement is a write, and whether it returns rows.
POSTGRES: dict[str, tuple[str, bool, bool]] = {
    "SELECT $$ DELETE FROM t $$, $a$ ' $$ $a$": ("SELECT", False, True),
    "UPDATE t SET n = E'it\\'s RETURNING' WHERE n = E'\\\\'": ("UPDATE", True, False),
    "UPDATE t SET n = E'\\'' WHERE true RETURNING n": ("UPDATE", True, True),
    "UPDATE t SET n = (ARRAY['x]', 'y'])[1] RETURNING n": ("UPDATE", True, True),
    "UPDATE t SET n = (ARRAY[['x]']])[1][1] RETURNING n": ("UPDATE", True, True),
    "WITH gone AS (DELETE FROM t RETURNING n) SELECT n FROM gone": ("SELECT", True, True),
    "WITH a AS NOT MATERIALIZED (SELECT 1), gone AS MATERIALIZED (UPDATE t SET n = n RETURNING n) SELECT n FROM gone": ("SELECT", True, True),
    "WITH few AS (VALUES (replace('a', 'a', 'b'))) SELECT * FROM few": ("SELECT", False, True),
    "WITH new AS (SELECT 'x' AS n) INSERT INTO t SELECT n FROM new": ("INSERT", True, False),
    "MERGE INTO t USING (SELECT 'a' AS n) AS s ON t.n = s.n WHEN NOT MATCHED THEN INSERT VALUES (s.n)": ("MERGE", True, False),
    "TABLE t": ("TABLE", False, True),
    "SHOW search_path": ("SHOW", False, True),
    "TRUNCATE t": ("TRUNCATE", False, False),
    "COMMENT ON TABLE t IS 'RETURNING'": ("COMMENT", False, False),
    "CREATE FUNCTION a$b$c() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$": ("CREATE", False, False),
}  # fmt: skip


@pytest.mark.parametrize("before", ["", "/* DELETE */ ", "-- '\n"])
@pytest.mark.parametrize("sql", POSTGRES)
def test_postgres_agrees(postgres_server: PostgresServer, before: str, sql: str):
    """PostgreSQL runs the text, returns rows if and only if it is said to, and runs a read in a read-only transaction."""
    verb, is_write, returns_rows = POSTGRES[sql]
    shape = shape_of(before + sql)
    assert (shape.verb, shape.is_write, shape.returns_rows) == (verb, is_write, returns_rows)
    assert shape.returns_nothing is not returns_rows
    with psycopg.connect(postgres_server.base_url) as connection:
        connection.execute("CREATE TEMP TABLE t (n text)")
        assert (connection.execute((before + sql).encode()).description is not None) is returns_rows
        connection.rollback()
        connection.execute("CREATE TABLE pg_temp.t (n text)")
        connection.execute("SET LOCAL transaction_read_only = on")
        if returns_rows and not is_write:
            connection.execute((before + sql).encode())
        connection.rollback()


@pytest.mark.parametrize(
    ("sql", "has_order"),
    [
        ("SELECT n FROM t", False),
        ("SELECT n FROM t ORDER BY n", True),
        ("SELECT n FROM t LIMIT 3", True),
        ("SELECT n FROM (SELECT n FROM t ORDER BY n LIMIT 3)", False),
        ("SELECT row_number() OVER (ORDER BY n) FROM t", False),
        ("SELECT n FROM t WHERE n = 'ORDER BY' -- LIMIT 1", False),
        ('SELECT "order", t."limit" FROM t', False),
        ("SELECT t.limit, n AS order FROM t WHERE n = :limit", False),
        ("WITH few AS (SELECT n FROM t LIMIT 1) SELECT n FROM few", False),
    ],
)
def test_an_order_of_its_own(*, sql: str, has_order: bool):
    """ORDER BY and LIMIT count where they are the statement's own."""
    assert shape_of(sql).has_order is has_order


@given(sql=st.text(st.sampled_from("();'\"`[]-/*\n aWITHas.:?1,"), max_size=40))
def test_any_text_has_a_shape(sql: str):
    """No text makes it fail, and the end is inside of the text."""
    assert 0 <= shape_of(sql).end <= len(sql)


def test_a_text_without_words():
    """A text of comments has no verb."""
    assert shape_of(" ; -- nothing\n /* at all */").verb == ""
