"""A tenant that holds a place in the pool, the leases on it, and the callers that wait for one; see `tenantry.tenancy.actors.pool`."""

import asyncio
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tenantry.errors import TenantryError
from tenantry.ids import TenantId

if TYPE_CHECKING:
    from tenantry.tenancy.actors.actor import TenantActor
    from tenantry.tenancy.actors.transaction import TransactionSession


class EntryState(Enum):
    """The state of a tenant that holds a place in the pool."""

    OPENING = "opening"
    OPEN = "open"
    DRAINING = "draining"  # open for the callers that hold a lease; new callers wait until it has closed
    CLOSING = "closing"


HAS_ACTOR: Final = frozenset([EntryState.OPEN, EntryState.DRAINING])


class Waiter:
    """A caller that waits for a lease. It refuses the lease if it has gone by then.

    Attributes:
        has_place: Whether its tenant has a place and opens.
        is_preempting: Whether it has waited for so long that an open tenant is drained for it.
    """

    __slots__ = ("future", "has_place", "is_preempting")

    def __init__(self, future: "asyncio.Future[Lease]") -> None:
        self.future = future
        self.has_place = False
        self.is_preempting = False

    def offer(self, entry: "PoolEntry") -> bool:
        """Give the caller a lease; return whether it was still there to take it."""
        if self.future.done():
            return False
        self.future.set_result(Lease(entry))
        return True

    def fail(self, error: TenantryError) -> bool:
        """Fail the caller with an error; return whether it was still there."""
        if self.future.done():
            return False
        self.future.set_exception(error.for_another_caller())
        return True


Waiters: TypeAlias = deque[Waiter]


class PoolEntry:
    """A tenant that holds a place in the pool.

    Attributes:
        lease_count: How many leases on it are held.
        transactions: Those that are open under a lease. A caller inside one gets a second lease even while the tenant is
            drained: otherwise it would wait for itself.
        waiters: Callers that wait until it has opened, or until it has closed.
    """

    __slots__ = (
        "actor",
        "closed",
        "idle_since_seconds",
        "is_protected",
        "lease_count",
        "opened",
        "state",
        "tenant_id",
        "transactions",
        "waiters",
    )

    def __init__(self, tenant_id: TenantId, waiters: Waiters) -> None:
        self.tenant_id = tenant_id
        self.state = EntryState.OPENING
        self.actor: TenantActor = None  # type: ignore[assignment]  # set before the first lease on it
        self.lease_count = 0
        self.transactions: set[TransactionSession] = set()
        self.idle_since_seconds = 0.0
        self.is_protected = False  # see tenantry.tenancy.actors.segmented_lru
        self.waiters = waiters
        self.opened = asyncio.Event()  # set when opening has ended, also if it failed
        self.closed = asyncio.Event()


class Lease:
    """One caller's right to use an open tenant's actor, until the caller releases it."""

    __slots__ = ("actor", "entry")

    def __init__(self, entry: PoolEntry) -> None:
        entry.lease_count += 1
        self.entry = entry
        self.actor = entry.actor


class ExclusiveHold(NamedTuple):
    """A tenant that a lifecycle operation keeps closed.

    Attributes:
        action: The operation.
        waiters: Callers that wait until it has ended.
        released: Set when it has ended.
    """

    action: str
    waiters: Waiters
    released: asyncio.Event
