"""A custom schema pack: a table of invoices for every tenant, beside the built-in tables."""

from datetime import date
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from tenantry import Repository, Schema


class Invoice(BaseModel):
    """An invoice. Its total is exact: a decimal in Python, text in the database."""

    model_config = ConfigDict(frozen=True)

    number: str
    customer: str
    issued_on: date
    total: Decimal


class InvoiceRepository(Repository):
    """Keeps invoices: ``tenant.invoices``, or ``tenant.repository(InvoiceRepository)`` for type checkers."""

    async def save(self, invoice: Invoice) -> None:
        """Store a new invoice.

        Raises:
            DuplicateRecordError: The invoice's number is taken.
        """
        sql = "INSERT INTO invoices (number, customer, issued_on, total) VALUES (?, ?, ?, ?)"
        row = (invoice.number, invoice.customer, invoice.issued_on.isoformat(), str(invoice.total))
        await self.execute(sql, row, name="invoices.save")

    async def of_customer(self, customer: str) -> list[Invoice]:
        """Return a customer's invoices, the oldest first."""
        sql = "SELECT number, customer, issued_on, total FROM invoices WHERE customer = ? ORDER BY issued_on, number"
        return await self.fetch_all(sql, [customer], row=Invoice, name="invoices.of_customer")


INVOICES = Schema(name="invoices", package="invoices", repositories={"invoices": InvoiceRepository})
