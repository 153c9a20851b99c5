"""The last answers of owners that did not have a tenant open, although they held its lock."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import anyio

from tenantry.ids import TenantId

LOOKS_SECONDS: Final = (0.001, 0.05)
"""The first and the longest interval between two looks at a tenant's lock."""


class _Denial(NamedTuple):
    """The last answer of an owner that did not have a tenant open.

    Attributes:
        wait_seconds: The time until the owner is asked again, if it still holds the tenant's lock.
    """

    at_seconds: float
    wait_seconds: float


class Denials:
    """Spaces the questions to owners that do not have a tenant open.

    Args:
        denials_max: The number of tenants that are remembered.
        repeated_seconds_max: The longest time between two denials of which the second doubles the wait.
    """

    def __init__(self, now: Callable[[], float], *, denials_max: int, repeated_seconds_max: float) -> None:
        self._now = now
        self._denials_max = denials_max
        self._repeated_seconds_max = repeated_seconds_max
        self._denials: OrderedDict[TenantId, _Denial] = OrderedDict()

    def note(self, tenant_id: TenantId) -> None:
        """Note that an owner did not have the tenant open."""
        last, now = self._denials.pop(tenant_id, None), self._now()
        interval_seconds, interval_seconds_max = LOOKS_SECONDS
        if last is not None and now - last.at_seconds < self._repeated_seconds_max:
            interval_seconds = min(2 * last.wait_seconds, interval_seconds_max)
        self._denials[tenant_id] = _Denial(now, interval_seconds)
        if len(self._denials) > self._denials_max:
            self._denials.popitem(last=False)

    async def wait(self, tenant_id: TenantId) -> None:
        """Wait before an owner is asked again that said a moment ago that it does not have the tenant open."""
        denial = self._denials.get(tenant_id)
        if denial is not None and self._now() - denial.at_seconds < denial.wait_seconds:
            await anyio.sleep(denial.wait_seconds)
