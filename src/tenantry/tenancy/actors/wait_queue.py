"""The queue of the callers that wait for a place in the pool, by tenant; see `tenantry.tenancy.actors.pool`."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from tenantry.ids import TenantId
from tenantry.tenancy.actors.lease import Waiter, Waiters


class WaitQueue:
    """The tenants that need a place, each with its callers, in the order of their first requests."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[TenantId, Waiters] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tenants)

    def add(self, tenant_id: TenantId, waiters: Iterable[Waiter]) -> None:
        """Add callers of a tenant; a new tenant is added at the end of the queue."""
        self._tenants.setdefault(tenant_id, deque()).extend(waiters)

    def pop_first(self) -> tuple[TenantId, Waiters]:
        """Remove the first tenant, and return it with its callers."""
        return self._tenants.popitem(last=False)

    def pop(self, tenant_id: TenantId) -> Waiters:
        """Remove a tenant, and return its callers; return no callers if the tenant is not in the queue."""
        return self._tenants.pop(tenant_id, deque())

    def discard(self, tenant_id: TenantId, waiter: Waiter) -> None:
        """Remove a caller, and its tenant if no other caller waits for the tenant; a no-op if the caller is not in the queue."""
        waiters = self._tenants.get(tenant_id)
        if waiters is None or waiter not in waiters:
            return
        waiters.remove(waiter)
        if not waiters:
            del self._tenants[tenant_id]

    def count_preempting(self) -> int:
        """Return the number of tenants whose longest-waiting caller is preempting."""
        return sum(waiters[0].is_preempting for waiters in self._tenants.values())

    def pop_all(self) -> list[Waiter]:
        """Remove and return all callers."""
        waiters = [waiter for queue in self._tenants.values() for waiter in queue]
        self._tenants.clear()
        return waiters
