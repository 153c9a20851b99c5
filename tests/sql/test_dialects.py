"""SQL: one text for all dialects, an `Sql` where they differ, and no SQLite-only words anywhere else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tenantry
from tenantry.errors import QueryError
from tenantry.sql.statements import Sql, Statement

SOURCE = Path(tenantry.__file__).parent
# Words of SQLite that PostgreSQL does not have, or in which it means something else.
SQLITE_WORDS = re.compile(
    r"\bGLOB\b|\bjson_\w+\(|\biif\(|\brandom\(|\bchanges\(|\bPRAGMA\b|\bpragma_|\bINSERT OR\b|\bsqlite_\w+|\browid\b"
    r"|\bexact_sum\(|\bsha256\(|\bAS BLOB\b|\bIS \?|\?[0-9]|\bWHERE [01](?! =)",
    re.IGNORECASE,
)

TOTAL = Sql({"sqlite": "exact_sum(n)", "postgres": "sum(n)"})


def common_texts(path: Path) -> Iterator[ast.Constant]:
    """Yield the texts of a module that every dialect gets: all but docstrings and what an `Sql` holds for one dialect."""
    tree = ast.parse(path.read_text())
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Sql":
            left_out.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node


def test_a_text_is_the_text_of_every_dialect():
    """Most SQL is a plain text."""
    assert Statement("any.read", "SELECT 1").text("postgres") == "SELECT 1"


def test_each_dialect_gets_its_text():
    """What is joined to an `Sql`, before it, behind it or as another `Sql`, is in the text of each dialect."""
    sql = (
        "SELECT " + TOTAL + " FROM t WHERE " + Sql({"sqlite": "a GLOB ?", "postgres": "a ~ ?"}) + " AND b = ?"
    )
    assert Statement("any.read", sql).text("sqlite") == "SELECT exact_sum(n) FROM t WHERE a GLOB ? AND b = ?"
    assert Statement("any.read", sql).text("postgres") == "SELECT sum(n) FROM t WHERE a ~ ? AND b = ?"


@pytest.mark.parametrize("sql", [TOTAL, TOTAL + Sql({"mysql": "", "postgres": ""})])
def test_a_missing_dialect_is_named(sql: Sql):
    """The error names the dialects that the statement is for, and the one that it lacks."""
    with pytest.raises(QueryError, match=r"has SQL for .*postgres, but this database needs mysql"):
        sql.text("mysql")


@pytest.mark.parametrize("room", ["company", "tenancy"])
def test_sqlite_stays_inside_its_branch(room: str):
    """The SQL of the company pack and the catalog is common to SQLite and PostgreSQL, but for what an `Sql` holds."""
    found = {
        f"{path.relative_to(SOURCE)}:{text.lineno}: {match[0]}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for text in common_texts(path)
        if (match := SQLITE_WORDS.search(text.value))
    }
    assert found == set()
