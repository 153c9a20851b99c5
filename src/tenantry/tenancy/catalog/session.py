"""The interfaces for reading and writing the catalog's tables."""

from collections.abc import Sequence
from typing import Protocol

from tenantry.sql.statements import Result, Statement


class CatalogReader(Protocol):
    """Reads tables of the catalog."""

    async def read(self, statement: Statement) -> Result:
        """Run one read-only statement."""


class CatalogSession(CatalogReader, Protocol):
    """Reads and changes tables of the catalog."""

    async def write(self, *statements: Statement) -> Sequence[Result]:
        """Run the statements as one atomic unit; the unit is durable when this returns."""
