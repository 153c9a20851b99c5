"""The conformance suite of `Store`: the checks of `STORE_CHECKS`, each on a new store and database."""

from typing import Final

from tenantry.testing.conformance import store_batches, store_connections, store_transactions
from tenantry.testing.conformance.store_check import MakeStore, StoreCheck

STORE_CHECKS: Final[tuple[StoreCheck, ...]] = (
    *store_connections.checks,
    *store_batches.checks,
    *store_transactions.checks,
)
"""All checks, in reading order."""


async def check_store(make_store: MakeStore) -> None:
    """Run all checks in order; the first failure raises."""
    for check in STORE_CHECKS:
        await check(make_store)
