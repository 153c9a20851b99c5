"""What the pool keeps of a tenant that is open, and of those who wait for one; see `tenantry.tenancy.actors.pool`."""

import asyncio
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantry.errors import TenantryError
from tenantry.ids import TenantId

if TYPE_CHECKING:
    from tenantry.tenancy.actors.actor import TenantActor
    from tenantry.tenancy.actors.transaction import TransactionSession


class LeaseState(Enum):
    """What becomes of a tenant that holds a place in the pool."""

    OPENING = "opening"
    OPEN = "open"
    YIELDING = "yielding"  # open for those who hold a lease, closing for everyone else
    CLOSING = "closing"


HAS_ACTOR: Final = frozenset([LeaseState.OPEN, LeaseState.YIELDING])


class Waiter:
    """A caller that waits for a lease. It may have gone when its turn comes, and then refuses."""

    __slots__ = ("future", "has_place", "is_impatient")

    def __init__(self, future: "asyncio.Future[Lease]") -> None:
        self.future = future
        self.has_place = False
        self.is_impatient = False

    def hand(self, lease: "Lease") -> bool:
        """Give the caller a lease; return whether it is still there to take it."""
        if self.future.done():
            return False
        lease.leases += 1
        self.future.set_result(lease)
        return True

    def fail(self, error: TenantryError) -> bool:
        """Send the caller away; return whether it was still there."""
        if self.future.done():
            return False
        self.future.set_exception(error.for_another_caller())
        return True


class Lease:
    """A tenant's entry in the pool; to a caller, the right to use its actor until it is released.

    Attributes:
        transactions: Those that are open under a lease. A caller inside of one gets a second lease even when the tenant
            yields: it would wait for itself.
    """

    __slots__ = (
        "actor",
        "closed",
        "idle_since_seconds",
        "is_protected",
        "leases",
        "opened",
        "state",
        "tenant_id",
        "transactions",
        "waiters",
    )

    def __init__(self, tenant_id: TenantId, waiters: deque[Waiter]) -> None:
        self.tenant_id = tenant_id
        self.state = LeaseState.OPENING
        self.actor: TenantActor = None  # type: ignore[assignment]  # set before anyone is handed the lease
        self.leases = 0
        self.transactions: set[TransactionSession] = set()
        self.idle_since_seconds = 0.0
        self.is_protected = False  # see tenantry.tenancy.actors.segmented_lru
        self.waiters = waiters
        self.opened = asyncio.Event()  # opening ended, well or not
        self.closed = asyncio.Event()


class Held(NamedTuple):
    """A tenant that is kept closed: by which lifecycle operation, and who waits for the end of it."""

    action: str
    waiters: deque[Waiter]
    released: asyncio.Event
