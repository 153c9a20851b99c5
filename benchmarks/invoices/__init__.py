"""A schema pack with one migration, for measuring how long a fleet takes to get it."""

from tenantry.schemas.schema import Schema

INVOICES = Schema(name="invoices", package="benchmarks.invoices")
