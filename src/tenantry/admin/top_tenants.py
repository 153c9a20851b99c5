"""Counts each tenant's calls from the registry's events, for a bounded number of tenants."""

import time
from collections import Counter
from typing import Final

from tenantry.admin.schemas import TenantLoad
from tenantry.events import BatchFinished, Event

WINDOW_SECONDS: Final = 60.0
COUNTED_TENANTS_MAX: Final = 10_000
_CATALOG: Final = "("


class TopTenants:
    """A hook that counts each tenant's calls in the current and the previous window."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._now: Counter[str] = Counter()
        self._before: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        """Count a batch's calls."""
        if not isinstance(event, BatchFinished) or event.tenant_id.startswith(_CATALOG):
            return
        self._turn()
        if event.tenant_id in self._now or len(self._now) < COUNTED_TENANTS_MAX:
            self._now[event.tenant_id] += len(event.calls)

    def top(self, count: int) -> list[TenantLoad]:
        """Return the tenants with the most calls over about the last minute."""
        self._turn()
        into = min((time.monotonic() - self._began) / WINDOW_SECONDS, 1.0)
        total = Counter({tenant: calls * (1.0 - into) for tenant, calls in self._before.items()})
        total.update(self._now)
        seconds = WINDOW_SECONDS if self._before else max(into * WINDOW_SECONDS, 1.0)
        return [
            TenantLoad(tenant_id=tenant, calls_per_second=round(calls / seconds, 3))
            for tenant, calls in total.most_common(count)
        ]

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._began >= WINDOW_SECONDS:
            is_next = now - self._began < 2 * WINDOW_SECONDS
            self._before = self._now if is_next else Counter()
            self._now = Counter()
            self._began = now
