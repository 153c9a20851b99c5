"""The base class of repositories, which runs statements, logs the results, and names the record in errors."""

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from tenantry.errors import DuplicateRecordError, TenantryError
from tenantry.sql.queries import Queries
from tenantry.sql.statements import Session, Statement

T = TypeVar("T")


class Repository(Queries):
    """The SQL for one kind of record. Methods take and return models, and errors name the record.

    Subclass this class for the tables of your own schema packs. ``tenant.repository(InvoiceRepository)`` returns an instance that is
    bound to the tenant. A repository holds no connection and may be created for every call. A tenant, a transaction or a back end
    without a registry is the session that runs the repository's statements.
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
        """Run the statements as one atomic unit. Log a failure, and log success if `done` names an event.

        Args:
            statements: The statements of the unit. An empty list sends nothing to the database.
            done: The debug event of success; None for no event.
            failed: The event of failure; by default the first statement's name with ``_failed``, such as ``invoices.save_failed``.
            duplicate: The event of a `DuplicateRecordError`; by default the event `failed`.
            context: Fields that name the record in every event. The first value becomes the `record_id` of a duplicate. The log renames
                a field whose name already has a meaning in the log (``error`` becomes ``error_``).

        Returns:
            One result for each statement, according to its `Fetch`.

        Raises:
            PersistenceError: The database refused a statement, or failed. The whole unit was rolled back.
            TenantError: The tenant or the registry cannot serve the call.
        """
        try:
            results = await self._session.write(*statements)
        except DuplicateRecordError as error:
            self._log.failure(duplicate or failed or _failed(statements), error, **context)
            if not context:
                raise
            name, record_id = next(iter(context.items()))
            # The duplicate value may be in a unique column other than the record's id, so the error names the constraint.
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
        """Run one read-only statement and return its result.

        Args:
            statement: The statement.
            failed: The event of failure; by default the statement's name with ``_failed``.
            context: Fields for the event of failure, such as the filters of the call.

        Raises:
            PersistenceError: The database refused the statement, or failed.
            TenantError: The tenant or the registry cannot serve the call.
        """
        try:
            return await self._session.read(statement)
        except TenantryError as error:
            self._log.failure(failed or _failed((statement,)), error, **context)
            raise


def placeholders(values: Sequence[object]) -> str:
    """Return placeholders ``?, ?, …``, one for each value."""
    return ", ".join("?" * len(values))


def _failed(statements: Sequence[Statement]) -> str:
    return f"{statements[0].name}_failed" if statements else "write_failed"
