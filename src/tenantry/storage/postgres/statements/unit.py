"""A caller's unit as the commands that are sent, and the results of the commands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tenantry.errors import QueryError
from tenantry.sql.statements import Fetch, Result, Statement
from tenantry.storage.postgres.connections.pipeline import Pipeline
from tenantry.storage.postgres.statements.translation import DIALECT, translate
from tenantry.storage.postgres.statements.values import encode, fetched
from tenantry.storage.protocol import Request

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult


class Command(NamedTuple):
    """One statement of a unit, ready to be sent."""

    statement: Statement
    sql: bytes
    values: list[bytes | None]
    formats: list[int] | None
    is_write: bool


class Unit(NamedTuple):
    """The commands of one caller's unit.

    Attributes:
        request: The caller's unit.
        commands: One command for each statement.
        size_bytes: The size of the SQL and the parameters.
    """

    request: Request
    commands: list[Command]
    size_bytes: int

    def send(self, pipeline: Pipeline) -> None:
        """Queue the commands."""
        for command in self.commands:
            pipeline.send(command.sql, command.values, command.formats)

    def results(self, results: Sequence["PGresult"]) -> list[Result]:
        """Return one result for each statement; none of `results` is an error."""
        return [
            None
            if command.statement.fetch is Fetch.NONE
            else fetched(command.statement, result, is_write=command.is_write)
            for command, result in zip(self.commands, results, strict=True)
        ]


def make_unit(request: Request) -> Unit:
    """Translate the statements of a unit, and encode their parameters.

    Raises:
        QueryError: A statement is not allowed or cannot be sent, so nothing of the unit was sent.
    """
    commands: list[Command] = []
    size_bytes = 0
    for statement in request:
        try:
            command, bytes_of_command = _command(statement)
        except Exception as error:  # any error of a caller's parameters fails only that caller
            raise QueryError(f"{statement.name}: {error}", code=getattr(error, "code", None)) from error
        commands.append(command)
        size_bytes += bytes_of_command
    return Unit(request, commands, size_bytes)


def _command(statement: Statement) -> tuple[Command, int]:
    translation = translate(statement.text(DIALECT))
    parameters, fetch = statement.parameters, statement.fetch
    if len(parameters) != translation.placeholders:
        raise QueryError(
            f"the statement takes {translation.placeholders} values, but {len(parameters)} were given; nothing was sent"
        )
    if fetch is Fetch.NONE:
        if translation.returns_rows:
            raise QueryError(
                "the statement returns rows, but its Fetch is NONE: nothing was written; use a Fetch that returns rows, or remove "
                "RETURNING"
            )
    elif fetch in (Fetch.NAMED_ONE, Fetch.NAMED_ALL) and translation.returns_nothing:
        raise QueryError(
            f"the statement cannot return rows, but its Fetch is {fetch.name}: nothing was written; add RETURNING, or use another Fetch"
        )
    encoded = encode(parameters)
    command = Command(
        statement, translation.sql, encoded.values, encoded.formats, is_write=translation.is_write
    )
    return command, len(translation.sql) + encoded.size_bytes
