"""The statements that tenantry adds to the units of callers, in the form for the engine; see `tenantry.storage.sqlite.native_batches`."""

from tenantry.sql.statements import Statement


class OwnStatement(Statement):
    """A statement of tenantry's own tables. Its text needs no authorization; the same text from a caller does."""

    __slots__ = ()


class OnceUnit(tuple[Statement, ...]):  # noqa: SLOT001  # a tuple's subclass can have no slots of its own
    """A unit that may have run before. Its first statement looks for stored results: if it returns a row, the others do not run."""
