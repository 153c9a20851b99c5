"""What type checkers find: `make check` checks the types of this file, and its tests run too."""

from typing import assert_type

from tenantry import Fetch, Row, Statement
from tenantry.statements import TupleRow

SQL = "SELECT 1"


def test_a_statement_has_the_type_of_its_fetch() -> None:
    """Every `Fetch` gives its own type, and one that is known only at run time gives any."""
    assert_type(Statement("any.none", SQL), Statement[None])
    assert_type(Statement("any.none", SQL, (1,), Fetch.NONE), Statement[None])
    assert_type(Statement("any.count", SQL, (), Fetch.ROWCOUNT), Statement[int])
    assert_type(Statement("any.one", SQL, fetch=Fetch.ONE), Statement[TupleRow | None])
    assert_type(Statement("any.all", SQL, (), Fetch.ALL), Statement[list[TupleRow]])
    assert_type(Statement("any.named", SQL, (), Fetch.NAMED_ONE), Statement[Row | None])
    assert_type(Statement("any.named", SQL, (), Fetch.NAMED_ALL), Statement[list[Row]])
    for fetch in Fetch:
        statement = Statement("any.fetch", SQL, (), fetch)
        assert (statement.name, statement.sql, statement.parameters, statement.fetch) == (
            *("any.fetch", SQL, ()),
            fetch,
        )
