"""Admits a tenant's calls: limits its calls per second and its calls in flight.

Theory of operation. The decision is synchronous, in memory, and before the call enters a mailbox. So a refused call costs almost
nothing and has no effect. Calls in flight are counted in the tenant's channels, without a separate counter. A call whose caller
was cancelled counts until its batch ends. Calls per second are limited by a token bucket: each call takes a token, and tokens
return at the tenant's rate until the bucket is full.

A bucket outlives its actor, so a tenant that is evicted and opened again has the same bucket.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from tenantry.errors import TenantOverloadedError, TenantRateLimitedError
from tenantry.limits import TenantLimits

RETRY_AFTER_SECONDS_MIN: Final = 0.001
BUCKETS_MAX: Final = 16_384
"""The largest number of buckets, for the tenants that were opened last; other tenants begin with a full bucket."""

# Added to the waiting time: a retry after exactly the waiting time could come shortly before the token.
_TICK_SECONDS: Final = 1e-6
_TICK_RATIO: Final = 1 + 1e-9


class Bucket:
    """A token bucket for one tenant's calls, which begins full.

    Args:
        now_seconds: The current time of a monotonic clock; all methods take this time.
    """

    __slots__ = ("_max", "_per_second", "_seconds", "_tokens")

    def __init__(self, tokens_per_second: float, tokens_max: float, now_seconds: float) -> None:
        self._per_second = tokens_per_second
        self._max = tokens_max
        self._tokens = tokens_max  # the number of tokens at the time `_seconds`
        self._seconds = now_seconds

    def take(self, now_seconds: float) -> float:
        """Take a token and return 0. If there is no token, change nothing and return the seconds until the next token."""
        tokens = self._held(now_seconds)
        if tokens < 1.0:
            return (1.0 - tokens) / self._per_second * _TICK_RATIO + _TICK_SECONDS
        # A refusal does not update the state, because rounding would lose a fraction of a token at each of many refusals.
        self._tokens, self._seconds = tokens - 1.0, now_seconds
        return 0.0

    def change(self, tokens_per_second: float, tokens_max: float, now_seconds: float) -> None:
        """Change the rate and the size from now on; the current tokens remain, up to the new size."""
        self._tokens, self._seconds = self._held(now_seconds), now_seconds
        self._per_second, self._max = tokens_per_second, tokens_max

    def _held(self, now_seconds: float) -> float:
        return min(self._max, self._tokens + (now_seconds - self._seconds) * self._per_second)


class Buckets:
    """The buckets of a registry's tenants."""

    def __init__(self, buckets_max: int = BUCKETS_MAX) -> None:
        self._buckets_max = buckets_max
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, tenant_uid: str, limits: TenantLimits, now_seconds: float) -> Bucket | None:
        """Return the tenant's bucket after applying these limits; None if calls per second are not limited."""
        bucket = self._buckets.pop(tenant_uid, None)
        per_second = limits.calls_per_second_max
        if per_second is None:
            return None
        tokens_max = limits.calls_burst_max or max(1.0, per_second)
        if bucket is None:
            bucket = Bucket(per_second, tokens_max, now_seconds)
        else:
            bucket.change(per_second, tokens_max, now_seconds)
        self._buckets[tenant_uid] = bucket
        if len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
        return bucket


class Load(NamedTuple):
    """The number of calls that wait or run, and the seconds that they will take at the recent rate."""

    calls: int
    seconds: float


class Admission:
    """Admits the calls of an open tenant with call limits.

    Args:
        bucket: The tenant's token bucket; None if calls per second are not limited.
        load: The function that returns the load of the tenant's calls in flight.
    """

    def __init__(
        self,
        tenant_id: str,
        limits: TenantLimits,
        bucket: Bucket | None,
        *,
        load: Callable[[], Load],
        monotonic_seconds: Callable[[], float],
    ) -> None:
        self._tenant_id = tenant_id
        self._limits = limits
        self._bucket = bucket
        self._load = load
        self._now = monotonic_seconds

    def admit(self) -> None:
        """Admit one more call, or raise `TenantOverloadedError` or `TenantRateLimitedError`."""
        calls_max = self._limits.calls_in_flight_max
        if calls_max is not None:
            load = self._load()
            if load.calls >= calls_max:
                raise self._overloaded(calls_max, load)
        self.admit_inside()

    def admit_inside(self) -> None:
        """Admit a call inside the open transaction; the transaction already counts as a call in flight."""
        if self._bucket is not None:
            retry_after_seconds = self._bucket.take(self._now())
            if retry_after_seconds:
                raise self._rate_limited(retry_after_seconds)

    def _overloaded(self, calls_max: int, load: Load) -> TenantOverloadedError:
        retry_after_seconds = max(load.seconds, RETRY_AFTER_SECONDS_MIN)
        return TenantOverloadedError(
            f"tenant {self._tenant_id!r} has {load.calls} calls in flight, and calls_in_flight_max is {calls_max}: try "
            f"again in {retry_after_seconds:.3f} s",
            tenant_id=self._tenant_id,
            limit="calls_in_flight_max",
            limit_value=calls_max,
            retry_after_seconds=retry_after_seconds,
        )

    def _rate_limited(self, retry_after_seconds: float) -> TenantRateLimitedError:
        per_second = self._limits.calls_per_second_max
        assert per_second is not None
        return TenantRateLimitedError(
            f"tenant {self._tenant_id!r} has used up its calls_per_second_max ({per_second:g}): try again in "
            f"{retry_after_seconds:.3f} s",
            tenant_id=self._tenant_id,
            limit="calls_per_second_max",
            limit_value=per_second,
            retry_after_seconds=retry_after_seconds,
        )
