"""What type checkers find: `make check` checks the types of this file, and its tests run too."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import assert_type

from pydantic import BaseModel

from tenantry import Fetch, Repository, Row, Statement, TenantRegistry
from tenantry.sql.statements import TupleRow

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


class Note(BaseModel):
    """A model."""

    id: int


@dataclass
class Total:
    """A dataclass."""

    total: int


async def test_queries_have_the_type_of_their_row(registry: TenantRegistry) -> None:
    """Without `row` it is a `Row`, and else what was given, on a handle, a transaction and an idempotent write."""
    await registry.create("acme")
    tenant = registry.tenant("acme")
    sql = "SELECT 1 AS id, 2 AS total"
    assert_type(await tenant.execute("CREATE TABLE t (n)"), int)
    assert_type(await tenant.execute_many("INSERT INTO t VALUES (?)", [[1]]), int)
    assert_type(await tenant.fetch_one(sql), Row | None)
    assert_type(await tenant.fetch_one(sql, row=Note), Note | None)
    assert_type(await tenant.fetch_all(sql), list[Row])
    assert_type(await tenant.fetch_all(sql, (), row=Total, name="any.all"), list[Total])
    assert_type(tenant.stream(sql, key=["id"]), AsyncIterator[Row])
    assert_type(tenant.stream(sql, key=["id"], row=Note), AsyncIterator[Note])
    assert_type(await tenant.idempotent("key").fetch_all(sql, row=Note), list[Note])
    async with tenant.transaction() as tx:
        assert_type(await tx.fetch_one(sql, row=Total), Total | None)
    repository = tenant.repository(Repository)
    assert_type(await repository.read(Statement("any.count", sql, (), Fetch.NAMED_ALL)), list[Row])
    assert_type(
        await repository.write(Statement("any.count", "DELETE FROM t", (), Fetch.ROWCOUNT)), list[int]
    )
