"""Checks the results that another process sent, so that a caller never gets a result of a wrong kind."""

from typing import Any, TypeGuard

from tenantry.errors import QueryError, ResultLostError
from tenantry.sql.statements import Fetch, Result, Statement
from tenantry.storage.plain_results import as_fetched
from tenantry.storage.protocol import Request


def unit_results(statements: Request, results: Any) -> list[Result]:
    """Return the results of a unit.

    Args:
        statements: The unit.
        results: The results as they were sent; None for a unit without results.

    Raises:
        ResultLostError: The owner sent other results than the statements have; the unit was committed.
    """
    if type(results) is list and len(results) == len(statements):
        # A call of a function for each of the usual results would take longer than this loop.
        fetched: list[Result] = []
        for statement, result in zip(statements, results, strict=True):
            fetch = statement.fetch
            if fetch is Fetch.NONE and result is None:
                fetched.append(None)
            elif _fits(fetch, result):
                fetched.append(as_fetched(fetch, result))
            else:
                break
        else:
            return fetched
    elif results is None and all(statement.fetch is Fetch.NONE for statement in statements):
        return [None] * len(statements)
    raise ResultLostError(
        f"{statements[0].name} was done, but the process that has the tenant open sent results of another kind: read the rows instead of "
        "repeating the write, and run the same release in all processes"
    )


def read_result(statement: Statement, result: Any) -> Result:
    """Return the result of a read.

    Raises:
        QueryError: The owner sent another result than the statement has.
    """
    if _fits(statement.fetch, result):
        return as_fetched(statement.fetch, result)
    raise QueryError(
        f"the process that has the tenant open sent a result of another kind for {statement.name}: run the same release in all processes"
    )


def _fits(fetch: Fetch, result: Any) -> bool:
    match fetch:
        case Fetch.NONE:
            return result is None
        case Fetch.ROWCOUNT:
            return type(result) is int
        case Fetch.ONE:
            return result is None or type(result) is list
        case Fetch.ALL:
            return _are_rows(result)
        case Fetch.NAMED_ONE:
            return result is None or (_are_named(result) and len(result) == _NAMES_AND_ROW)
        case Fetch.NAMED_ALL:
            return result == [] or _are_named(result)


_NAMES_AND_ROW = 2


def _are_rows(result: Any) -> TypeGuard[list[list[Any]]]:
    return type(result) is list and all(type(row) is list for row in result)


def _are_named(result: Any) -> bool:
    if not _are_rows(result) or not result:
        return False
    columns = len(result[0])
    return all(type(name) is str for name in result[0]) and all(len(row) == columns for row in result)
