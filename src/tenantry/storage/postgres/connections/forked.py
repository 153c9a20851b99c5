"""Takes the connections to PostgreSQL from a forked child: the server ends the parent's sessions when the parent dies.

Otherwise the sessions, with their locks, would last as long as the child.
"""

import os
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

import psycopg

from tenantry.forks import disconnect, keep_for_ever

AnyConnection = psycopg.AsyncConnection[Any] | psycopg.Connection[Any]

_all_connections: Final[WeakSet[AnyConnection]] = WeakSet()


def disconnect_in_children(connection: AnyConnection) -> None:
    """Disconnect this connection in each child that is forked later."""
    _all_connections.add(connection)


def _leave_in_child() -> None:
    for connection in tuple(_all_connections):
        with suppress(psycopg.Error):  # the connection is closed
            disconnect([connection.fileno()])
        keep_for_ever(connection)
    _all_connections.clear()


os.register_at_fork(after_in_child=_leave_in_child)
