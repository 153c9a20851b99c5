"""Decides what becomes of the units of a transaction that has failed: an error, or another try. See `writes`."""

from typing import TYPE_CHECKING

from tenantry.errors import QueryError, TenantOwnedElsewhereError, TenantryError
from tenantry.storage.postgres.connections.errors import (
    FENCED,
    PREPARED_STALE,
    READ_ONLY,
    RUN_AGAIN,
    SCHEMA_MISSING,
    code_of,
    forget_stale,
    is_lock_timeout,
    map_error,
)
from tenantry.storage.postgres.connections.pipeline import Pipeline
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.batch import BackInLineError, Failure, Piece

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult


class Failures:
    """Takes the failures of one store's transactions."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def take(self, piece: Piece, failure: Failure, pipeline: Pipeline) -> None:
        """Set the outcome of the unit that failed; the others run again."""
        if failure.is_commit:
            piece.runs_alone = True
        elif failure.position is None:
            self._take_guard_failure(piece, failure.result, pipeline)
        elif not self._runs_again(piece, failure, pipeline):
            piece.answer(
                failure.position,
                map_error(failure.result, piece.unit(failure.position).request[0].name),
            )
            piece.failures += 1

    def take_own(self, piece: Piece, position: int, failure: Failure, pipeline: Pipeline) -> None:
        """Set the outcome of a unit whose own transaction failed, unless the unit runs again."""
        code = code_of(failure.result)
        if failure.position is None and not failure.is_commit:
            if code in SCHEMA_MISSING or code == FENCED:
                piece.answer(position, self.taken_over())
            else:
                self._take_guard_failure(piece, failure.result, pipeline)
        elif not self._runs_again(piece, failure, pipeline):
            piece.answer(position, map_error(failure.result, piece.unit(position).request[0].name))

    def _runs_again(self, piece: Piece, failure: Failure, pipeline: Pipeline) -> bool:
        """Return whether the unit that failed runs again."""
        code = code_of(failure.result)
        if is_lock_timeout(failure.result):
            raise BackInLineError(code)
        if code in RUN_AGAIN:
            return True
        if failure.sql is None or piece.has_forgotten:
            return False
        piece.has_forgotten = forget_stale(code, failure.sql, pipeline)
        return piece.has_forgotten

    def guard_error(self, result: "PGresult", pipeline: Pipeline) -> TenantryError:
        """Return the error of a transaction whose guard failed; a temporary error is transient. A connection to a replica is closed."""
        code = code_of(result)
        if code == FENCED or code in SCHEMA_MISSING:
            return self.taken_over()
        if code == READ_ONLY:
            pipeline.close()  # the primary has become a replica: a new connection goes to the new primary
        elif code in PREPARED_STALE:
            pipeline.forget_all()
        return map_error(result, "cannot begin to write")

    def _take_guard_failure(self, piece: Piece, result: "PGresult", pipeline: Pipeline) -> None:
        """Raise the error of a transaction whose guard failed; return if the transaction can run again at once."""
        error = self.guard_error(result, pipeline)
        if isinstance(error, QueryError) and error.is_transient:
            raise BackInLineError(str(error)) from error
        if code_of(result) not in PREPARED_STALE or piece.has_forgotten:
            raise error
        piece.has_forgotten = True

    def taken_over(self) -> TenantOwnedElsewhereError:
        """Return the error of a store that another owner has fenced off."""
        return self._owner.taken_over(
            "another process has taken over the database, or has replaced or removed it, so nothing was written"
        )
