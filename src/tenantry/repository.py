"""What every repository is built on: run a statement, say how it went, name the record that failed."""

from collections.abc import Sequence

from tenantry.errors import DuplicateRecordError, TenantryError
from tenantry.statements import Result, Session, Statement


class Repository:
    """An entity's SQL in one place: models in, models out, errors with their context.

    Users subclass it for the tables of their own schema packs; ``tenant.repository(InvoiceRepository)`` gives an
    instance that is bound to the tenant. A repository holds no connection and may be made for every call.

    Args:
        session: What runs its statements: a tenant, a transaction, or a back end used on its own.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._log = session.log

    async def _write(
        self,
        /,
        *statements: Statement,
        done: str | None,
        failed: str,
        duplicate: str | None = None,
        **context: object,
    ) -> list[Result]:
        """Run the statements as one atomic unit and log the outcome.

        Args:
            statements: The unit.
            done: The debug event of success; None where the caller writes it, because it depends on the result.
            failed: The event of failure.
            duplicate: The event of a `DuplicateRecordError`; `failed` where there is none.
            context: Names the record; it goes to every event, its first value to a duplicate's `record_id`. Any key may be
                used; the log renames one that has a meaning there already (``error`` is written as ``error_``).
        """
        try:
            results = await self._session.write(*statements)
        except DuplicateRecordError as error:
            self._log.failure(duplicate or failed, error, **context)
            name, record_id = next(iter(context.items()), ("record", None))
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
            self._log.failure(failed, error, **context)
            raise
        if done is not None:
            self._log.debug(done, **context)
        return results

    async def _read(self, statement: Statement, /, *, failed: str, **context: object) -> Result:
        """Run one reading statement; log its failure with all the filters of the call."""
        try:
            return await self._session.read(statement)
        except TenantryError as error:
            self._log.failure(failed, error, **context)
            raise


def placeholders(values: Sequence[object]) -> str:
    """Return ``?, ?, …``: one for each value, or for each column."""
    return ", ".join("?" * len(values))
