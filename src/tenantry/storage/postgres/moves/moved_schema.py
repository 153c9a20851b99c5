"""A schema on one side of a move, with the connection that a copy which follows its original keeps."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from psycopg import Connection

from tenantry.storage.postgres.connections.errors import server_errors
from tenantry.storage.postgres.connections.lifecycle_tools import LifecycleTools
from tenantry.storage.postgres.copies.copy_out import SETTINGS

BEGIN_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class MovedSchema:
    """The base class of both sides of a move on PostgreSQL.

    Args:
        tools: The tools of the database.
        schema: The schema.
        doing: The beginning of the messages of errors.
    """

    def __init__(self, tools: LifecycleTools, schema: str, *, doing: str) -> None:
        self._tools = tools
        self._schema = schema
        self._doing = doing
        self._kept: Connection[tuple[Any, ...]] | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep a connection during the block; see `Original.connected` and `Replica.connected`."""
        async with self._tools.moves.connection() as connection:
            self._kept = connection
            try:
                yield
            finally:
                self._kept = None

    @contextmanager
    def _transaction(self, begin: str = "BEGIN") -> Iterator[Connection[tuple[Any, ...]]]:
        """Run the block in one transaction on the kept connection. An error in the block closes the connection."""
        connection = self._kept
        assert connection is not None
        with server_errors(self._doing):
            try:
                connection.execute(begin.encode())
                connection.execute(SETTINGS)
                yield connection
                connection.commit()
            except BaseException:
                connection.close()  # a COPY may be under way
                raise
