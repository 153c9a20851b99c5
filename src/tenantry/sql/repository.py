"""What every repository is built on: run a statement, say how it went, name the record that failed."""

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from tenantry.errors import DuplicateRecordError, TenantryError
from tenantry.sql.queries import Queries
from tenantry.sql.statements import Session, Statement

T = TypeVar("T")


class Repository(Queries):
    """An entity's SQL in one place: models in, models out, errors with their context.

    Users subclass it for the tables of their own schema packs; ``tenant.repository(InvoiceRepository)`` gives an
    instance that is bound to the tenant. A repository holds no connection and may be made for every call.

    Args:
        session: What runs its statements: a tenant, a transaction, or a back end used on its own.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._log = session.log

    @overload
    async def write(
        self,
        statement: Statement[T],
        /,
        *,
        done: str | None = None,
        failed: str | None = None,
        duplicate: str | None = None,
        **context: object,
    ) -> list[T]: ...

    @overload
    async def write(
        self,
        /,
        *statements: Statement,
        done: str | None = None,
        failed: str | None = None,
        duplicate: str | None = None,
        **context: object,
    ) -> list[Any]: ...

    async def write(
        self,
        /,
        *statements: Statement,
        done: str | None = None,
        failed: str | None = None,
        duplicate: str | None = None,
        **context: object,
    ) -> list[Any]:
        """Run the statements as one atomic unit; log a failure, and success if it has an event.

        Args:
            statements: The unit. Without statements nothing is sent.
            done: The debug event of success; None for no event, for example where the caller logs the result itself.
            failed: The event of failure; the first statement's name with ``_failed`` if left out: ``invoices.save_failed``.
            duplicate: The event of a `DuplicateRecordError`; `failed` if left out.
            context: Names the record; it goes to every event, its first value to a duplicate's `record_id`. Any key may be
                used; the log renames one that has a meaning there already (``error`` is written as ``error_``).

        Returns:
            One result for each statement, by its `Fetch`.

        Raises:
            PersistenceError: The database refused or failed; nothing of the unit was kept.
            TenantError: The tenant, or the registry, cannot serve the call.
        """
        try:
            results = await self._session.write(*statements)
        except DuplicateRecordError as error:
            self._log.failure(duplicate or failed or _failed(statements), error, **context)
            if not context:
                raise
            name, record_id = next(iter(context.items()))
            # Not the record's own key, perhaps: it may be another unique one that is taken.
            taken = error.constraint
            why = f"was not written: another record has the same {taken}" if taken else "exists already"
            raise DuplicateRecordError(
                f"{name} {record_id} {why}",
                record_id=str(record_id),
                code=error.code,
                constraint=error.constraint,
                columns=error.columns,
            ) from error
        except TenantryError as error:
            self._log.failure(failed or _failed(statements), error, **context)
            raise
        if done is not None:
            self._log.debug(done, **context)
        return results

    async def read(self, statement: Statement[T], /, *, failed: str | None = None, **context: object) -> T:
        """Run one reading statement and return its result.

        Args:
            statement: The statement.
            failed: The event of failure; the statement's name with ``_failed`` if left out.
            context: The filters of the call, for that event.

        Raises:
            PersistenceError: The database refused or failed.
            TenantError: The tenant, or the registry, cannot serve the call.
        """
        try:
            return await self._session.read(statement)
        except TenantryError as error:
            self._log.failure(failed or _failed((statement,)), error, **context)
            raise


def placeholders(values: Sequence[object]) -> str:
    """Return ``?, ?, …``: one for each value, or for each column."""
    return ", ".join("?" * len(values))


def _failed(statements: Sequence[Statement]) -> str:
    return f"{statements[0].name}_failed" if statements else "write_failed"
