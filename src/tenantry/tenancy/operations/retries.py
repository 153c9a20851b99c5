"""Schedules retries of failed work with exponential backoff and jitter."""

import random
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

RETRY_SECONDS_MIN: Final = 10.0
RETRY_SECONDS_MAX: Final = 3_600.0
_JITTER: Final = 0.2
_DOUBLINGS_MAX: Final = 16


class _Failed(NamedTuple):
    action: str
    outcome: str
    failures: int
    due_seconds: float


class Retries:
    """Keeps each tenant's last failure, and the time of the next retry, in memory.

    A new process retries immediately, because it has no failures in memory.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failed: dict[str, _Failed] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def is_due(self, tenant_uid: str) -> bool:
        """Return whether the tenant's work may be attempted now."""
        found = self._failed.get(tenant_uid)
        return found is None or self._now() >= found.due_seconds

    def last_outcome(self, tenant_uid: str) -> str | None:
        """Return the outcome of the tenant's last failure; None if no failure is known."""
        found = self._failed.get(tenant_uid)
        return None if found is None else found.outcome

    def failed(self, tenant_uid: str, action: str, outcome: str) -> None:
        """Record a failure, and double the delay before the next retry."""
        before = self._failed.get(tenant_uid)
        failures = 1 if before is None else before.failures + 1
        seconds = min(RETRY_SECONDS_MAX, RETRY_SECONDS_MIN * 2 ** min(failures - 1, _DOUBLINGS_MAX))
        # With jitter, processes retry at different moments. The jitter only shortens delays, so none exceeds `RETRY_SECONDS_MAX`.
        seconds *= 1 - _JITTER * random.random()  # noqa: S311  # no secret
        self._failed[tenant_uid] = _Failed(action, outcome, failures, self._now() + seconds)

    def succeeded(self, tenant_uid: str) -> None:
        """Forget the tenant's failures."""
        self._failed.pop(tenant_uid, None)

    def keep_only(self, tenant_uids: Collection[str]) -> None:
        """Forget the failures of tenants that are not in `tenant_uids`: another process has done their work."""
        for tenant_uid in self._failed.keys() - set(tenant_uids):
            del self._failed[tenant_uid]

    def by_action(self) -> dict[str, int]:
        """Return the number of tenants with failed work, by action."""
        return Counter(found.action for found in self._failed.values())
