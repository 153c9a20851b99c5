"""What a `Store` promises: the checks of `STORE_CHECKS`, each on a store and a database of its own."""

from typing import Final

from tenantry.testing.conformance import store_batches, store_connections, store_transactions
from tenantry.testing.conformance.store_check import MakeStore, StoreCheck

STORE_CHECKS: Final[tuple[StoreCheck, ...]] = (
    *store_connections.checks,
    *store_batches.checks,
    *store_transactions.checks,
)
"""Every check, in the order to read them."""


async def check_store(make_store: MakeStore) -> None:
    """Run every check, one after the other; the first that fails raises."""
    for check in STORE_CHECKS:
        await check(make_store)
