"""The entries of the pool, with their leases and their waiting callers; see `tenantry.tenancy.actors.pool`."""

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
    """The state of a tenant that callers can use, or soon can."""

    OPENING = "opening"
    OPEN = "open"
    DRAINING = "draining"  # open for callers with a lease; new callers wait until the tenant has closed
    CLOSING = "closing"
    FORWARDED = "forwarded"  # not in the pool, because another process has the tenant open


HAS_ACTOR: Final = frozenset([EntryState.OPEN, EntryState.DRAINING])


class Waiter:
    """A caller that waits for a lease. A caller that was cancelled in the meantime refuses the lease.

    Attributes:
        has_place: Whether the caller's tenant has a place in the pool and is opening.
        is_for_write: Whether the caller's call is a write.
        is_preempting: Whether the caller has waited so long that the pool may drain an open tenant.
        timer: The timer of the caller's wait.
    """

    __slots__ = ("future", "has_place", "is_for_write", "is_preempting", "timer")

    timer: asyncio.TimerHandle

    def __init__(self, future: "asyncio.Future[Lease]", *, is_for_write: bool = False) -> None:
        self.future = future
        self.is_for_write = is_for_write
        self.has_place = False
        self.is_preempting = False

    def offer(self, entry: "PoolEntry") -> bool:
        """Give the caller a lease; return False if the caller no longer waits."""
        if self.future.done():
            return False
        self.future.set_result(Lease(entry))
        return True

    def fail(self, error: TenantryError) -> bool:
        """Give the caller an error; return False if the caller no longer waits."""
        if self.future.done():
            return False
        self.future.set_exception(error.for_another_caller())
        return True


Waiters: TypeAlias = deque[Waiter]


class PoolEntry:
    """A tenant that holds a place in the pool.

    Attributes:
        lease_count: The number of leases that callers hold.
        transactions: The tenant's open transactions. A caller inside a transaction can get another lease of a draining tenant,
            because the tenant drains until the transaction releases its own lease.
        waiters: The callers that wait until the tenant has opened, or until it has closed.
    """

    __slots__ = (
        "actor",
        "closed",
        "drained",
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
        self.actor: TenantActor = None  # type: ignore[assignment]  # set before the first lease
        self.lease_count = 0
        self.transactions: set[TransactionSession] = set()
        self.idle_since_seconds = 0.0
        self.is_protected = False  # see tenantry.tenancy.actors.segmented_lru
        self.waiters = waiters
        self.opened = asyncio.Event()  # set when opening has succeeded or failed
        self.closed = asyncio.Event()
        self.drained: asyncio.Event | None = None  # exists while somebody waits for the end of the draining

    def end_draining(self) -> None:
        """Wake those who wait until the tenant closes or accepts callers again."""
        if self.drained is not None:
            self.drained.set()
            self.drained = None


class Lease:
    """A caller's right to use an open tenant's actor until the caller releases the lease."""

    __slots__ = ("actor", "entry")

    def __init__(self, entry: PoolEntry) -> None:
        entry.lease_count += 1
        self.entry = entry
        self.actor = entry.actor


class ExclusiveHold(NamedTuple):
    """A tenant that a lifecycle operation keeps closed.

    Attributes:
        action: The name of the operation.
        waiters: The callers that wait until the operation has ended.
        released: The event that is set when the operation has ended.
    """

    action: str
    waiters: Waiters
    released: asyncio.Event
