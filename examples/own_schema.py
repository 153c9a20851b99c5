"""A registry whose tenants have a custom table of invoices: ``python examples/own_schema.py DIRECTORY``."""

import asyncio
import sys
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path

from invoices import INVOICES, Invoice, InvoiceRepository

from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import COMPANY
from tenantry.errors import DuplicateRecordError


async def main(data_dir: Path) -> None:
    """Create two companies, and store an invoice in one of them."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=[COMPANY, INVOICES]) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id, if_not_exists=True)
        invoices = registry.tenant("acme").repository(InvoiceRepository)
        invoice = Invoice(
            number="2026-001", customer="initech", issued_on=date(2026, 11, 23), total=Decimal("99.90")
        )
        with suppress(DuplicateRecordError):  # a second run finds the invoice
            await invoices.save(invoice)
        for tenant_id in ("acme", "globex"):
            found = await registry.tenant(tenant_id).repository(InvoiceRepository).of_customer("initech")
            print(f"{tenant_id}: {[f'{invoice.number} {invoice.total}' for invoice in found]}")


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    asyncio.run(main(Path(sys.argv[1])))
