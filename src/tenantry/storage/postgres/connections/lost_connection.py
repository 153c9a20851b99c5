"""The error of a connection to the server that ended while a caller waited for its results."""

from typing import TYPE_CHECKING

from tenantry.errors import PersistenceConnectionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult


class ConnectionLostError(PersistenceConnectionError):
    """The connection ended before all results had arrived, so it is unknown which of the other transactions were committed.

    Attributes:
        code: The SQLSTATE that the server sent when it ended the connection; None if the server sent none.
        received: The results of the transactions that the server had answered.
        unfinished: The results of the next transaction that had arrived. Nobody knows whether that transaction was committed.
    """

    received: "Sequence[Sequence[PGresult]]" = ()
    unfinished: "Sequence[PGresult]" = ()
