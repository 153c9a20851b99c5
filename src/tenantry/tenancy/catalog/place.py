"""Tells whether a database is the deployment's catalog, or a copy that a move has left behind or has not completed.

`tenantry.tenancy.catalog_move` moves a catalog between back ends. The table ``catalog_move`` of each of the two databases says which of
them is the catalog. A process that opens the other one is refused.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from tenantry.config import SQLITE
from tenantry.errors import CatalogMovedError
from tenantry.sql.statements import Fetch, Statement
from tenantry.tenancy.catalog.session import CatalogReader

READ: Final = Statement(
    "catalog.move",
    "SELECT move_id, state, backend, place, at FROM catalog_move WHERE id = 1",
    (),
    Fetch.ONE,
)


class MoveState(StrEnum):
    """The role of a database in a move of the catalog."""

    ARRIVING = "arriving"
    """The database is a copy that is not the catalog yet. The other database is the catalog unless its state is `LEFT`."""
    LEFT = "left"
    """The other database is the catalog."""


class Move(NamedTuple):
    """A row of ``catalog_move``: a move that has begun or ended.

    Attributes:
        move_id: The id of the move, the same in both databases.
        state: The role of the database that has the row.
        backend: The name of the other database's back end.
        place: The place of the other database, for people.
        at: The time at which the row was written.
    """

    move_id: str
    state: MoveState
    backend: str
    place: str
    at: datetime


async def read_move(catalog: CatalogReader) -> Move | None:
    """Return the move in which the database takes part, or None if the database simply is the catalog."""
    row = await catalog.read(READ)
    if row is None:
        return None
    move_id, state, backend, place, at = row
    return Move(move_id, MoveState(state), backend, place, datetime.fromisoformat(at))


async def check_is_here(catalog: CatalogReader) -> None:
    """Raise an error unless the database is the deployment's catalog.

    Raises:
        CatalogMovedError: The catalog is in another database, or its move to this database is not complete.
    """
    move = await read_move(catalog)
    if move is not None:
        raise moved_error(move)


def moved_error(move: Move) -> CatalogMovedError:
    """Return the error for a database that is not the catalog because of the move."""
    if move.state is MoveState.ARRIVING:
        says = (
            f"the move of the catalog from {move.place} to this database is not complete, so this database is not the catalog yet: "
            "repeat 'tenantry catalog move' with the same arguments, which completes the move"
        )
    else:
        setting = (
            "unset TENANTRY_DATABASE"
            if move.backend == SQLITE
            else "set TENANTRY_DATABASE to its address, or name the database in the program's RegistryConfig"
        )
        says = f"the catalog was moved from this database to {move.place} at {move.at:%Y-%m-%d %H:%M:%S}Z: {setting}"
    return CatalogMovedError(says, backend=move.backend, place=move.place)
