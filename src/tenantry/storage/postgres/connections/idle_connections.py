"""The idle connections of a pool, and the choice of one for a tenant, without I/O.

The server's process of a connection keeps the tables and the plans of the tenants that it has served. A tenant's batch takes half of
the processor time there, and its first batch on another connection takes ten times as much. So each tenant has a *home*: the
connection that it used last. A tenant whose home is in use takes another connection, which becomes its home. A tenant that uses two
connections at the same time keeps its home.

A caller that is about to take its tenant's home claims it for a moment, so that no other caller that starts in the same step of the
event loop takes it. A claim reserves nothing: if all idle connections are claimed, a caller takes one of them.
"""

from collections.abc import Iterator
from typing import Final

from tenantry.storage.postgres.connections.pipeline import Pipeline

CLAIM_SECONDS_MAX: Final = 0.1
"""The time after which a claim ends, if the caller has not come."""


class PooledConnection:
    """A connection of the pool.

    Attributes:
        pipeline: The connection.
        ends_at: The pool's time at which the connection ends.
        tenants: The tenants that it has served.
        user: The tenant that uses it; None if no tenant does.
        claimed_by: The tenant that claimed it last.
        claimed_until: The pool's time at which the claim ends.
    """

    __slots__ = ("claimed_by", "claimed_until", "ends_at", "pipeline", "tenants", "user")

    def __init__(self, pipeline: Pipeline, ends_at: float) -> None:
        self.pipeline = pipeline
        self.ends_at = ends_at
        self.tenants: set[str] = set()
        self.user: str | None = None
        self.claimed_by: str | None = None
        self.claimed_until = 0.0

    def is_free_for(self, tenant_uid: str | None, now: float) -> bool:
        """Return whether no other tenant has a claim."""
        return now >= self.claimed_until or self.claimed_by == tenant_uid


class IdleConnections:
    """The idle connections, and the homes of the tenants."""

    def __init__(self) -> None:
        self._idle: dict[PooledConnection, None] = {}  # the last one was used last
        self._homes: dict[str, PooledConnection] = {}  # each is open, and knows its tenants

    def __iter__(self) -> Iterator[PooledConnection]:
        """Iterate over the idle connections; the one that was used last comes last."""
        return iter(self._idle)

    def __len__(self) -> int:
        return len(self._idle)

    def add(self, one: PooledConnection) -> None:
        """Add a connection that nobody uses any more."""
        one.user = None
        self._idle[one] = None

    def claim(self, tenant_uid: str, now: float) -> bool:
        """Claim the tenant's home; return whether it is idle and nobody else has claimed it, or the tenant has no home."""
        home = self._homes.get(tenant_uid)
        if home is None:
            return True
        if home not in self._idle or not home.is_free_for(tenant_uid, now):
            return False
        home.claimed_by, home.claimed_until = tenant_uid, now + CLAIM_SECONDS_MAX
        return True

    def pop(self, tenant_uid: str | None, now: float) -> PooledConnection | None:
        """Remove and return the best idle connection for a tenant; None if none is idle."""
        if (found := self._best(tenant_uid, now)) is not None:
            del self._idle[found]
            found.claimed_until = 0.0
        return found

    def remove(self, one: PooledConnection) -> None:
        """Remove an idle connection."""
        del self._idle[one]

    def use(self, one: PooledConnection, tenant_uid: str) -> None:
        """Note that a tenant uses a connection from now on; the connection is not idle."""
        one.user = tenant_uid
        one.tenants.add(tenant_uid)
        home = self._homes.get(tenant_uid)
        if home is None or home.user != tenant_uid:
            self._homes[tenant_uid] = one

    def forget(self, one: PooledConnection) -> None:
        """Forget a connection that is closed as the home of its tenants."""
        for tenant_uid in one.tenants:
            if self._homes.get(tenant_uid) is one:
                del self._homes[tenant_uid]

    def clear(self) -> None:
        """Forget all connections."""
        self._idle.clear()
        self._homes.clear()

    def _best(self, tenant_uid: str | None, now: float) -> PooledConnection | None:
        """Return the tenant's home if it is idle, otherwise the connection that was used last, preferably one that has served the tenant."""
        home = None if tenant_uid is None else self._homes.get(tenant_uid)
        if home is not None and home in self._idle and home.is_free_for(tenant_uid, now):
            return home
        latest_first = [*self._idle][::-1]
        free = [one for one in latest_first if one.is_free_for(tenant_uid, now)]
        known = next((one for one in free if tenant_uid in one.tenants), None)
        return known or next(iter(free or latest_first), None)
