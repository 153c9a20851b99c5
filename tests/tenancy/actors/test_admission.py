"""Whether a call is taken in: the bucket of calls per second, and the calls in flight, on a clock that is set by hand."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tenantry import TenantLimits
from tenantry.errors import TenantOverloadedError, TenantRateLimitedError
from tenantry.tenancy.actors import admission
from tenantry.tenancy.actors.admission import Admission, Bucket, Buckets, Load
from tenants import HandClock

RATES = st.floats(1e-6, 1e6)
BURSTS = st.integers(1, 50)
STARTS = st.floats(0, 1e8)  # three years since the machine was started
WAITS = st.just(0.0) | st.floats(0, 3)  # from one call to the next, in tokens


NO_LOAD = Load(0, 0.0)


def an_admission(clock: HandClock, *, load: Load = NO_LOAD, **limits: Any) -> Admission:
    """Return the admission of a tenant with these limits."""
    tenant_limits = TenantLimits(**limits)
    bucket = Buckets().of("uid-1", tenant_limits, clock.seconds)
    return Admission(
        "acme", tenant_limits, bucket, load=lambda: load, monotonic_seconds=clock.monotonic_seconds
    )


def admitted(admit: Callable[[], None], calls: int = 1000) -> int:
    """Return how many of so many calls at once are let in."""
    count = 0
    for _ in range(calls):
        try:
            admit()
        except TenantRateLimitedError:
            return count
        count += 1
    return count


@given(RATES, BURSTS, STARTS, st.lists(WAITS, max_size=100))
def test_never_more_than_rate_and_burst(rate: float, burst: int, start: float, waits: list[float]):
    """In no window of time are more calls let in than the burst, and what the rate gives in that time."""
    clock = HandClock(start)
    bucket = Bucket(rate, burst, clock.seconds)
    times = []
    for wait in waits:
        clock.seconds += wait / rate
        if bucket.take(clock.seconds) == 0.0:
            times.append(clock.seconds)
    for first, since in enumerate(times):
        for calls, until in enumerate(times[first:], start=1):
            assert calls <= burst + (until - since) * rate + 1e-6


@given(RATES, BURSTS, STARTS, st.lists(WAITS, max_size=100))
def test_the_wait_is_honest(rate: float, burst: int, start: float, waits: list[float]):
    """Who is refused and comes back when he was told to is let in, and would not have been much earlier."""
    clock = HandClock(start)
    bucket = Bucket(rate, burst, clock.seconds)
    for wait in waits:
        clock.seconds += wait / rate
        retry_after_seconds = bucket.take(clock.seconds)
        if retry_after_seconds:
            earlier = retry_after_seconds * (1 - 1e-6) - 2e-6 - 1e-7
            if earlier > 0:
                assert bucket.take(clock.seconds + earlier) > 0
            clock.seconds += retry_after_seconds
            assert bucket.take(clock.seconds) == 0.0


@given(RATES, st.integers(1, 1000))
def test_being_refused_costs_nothing(rate: float, refusals: int):
    """However often a call is refused, and however quickly, the next token comes when it was said to."""
    bucket = Bucket(rate, 1, 0.0)
    assert bucket.take(0.0) == 0.0
    retry_after_seconds = bucket.take(0.0)
    for number in range(refusals):
        now = retry_after_seconds * number / refusals / 2
        assert bucket.take(now) == pytest.approx(retry_after_seconds - now, rel=1e-6, abs=2e-6)
    assert bucket.take(retry_after_seconds) == 0.0


@given(RATES, RATES, BURSTS, BURSTS, st.floats(0, 100))
def test_a_change_gives_and_takes_no_calls(
    rate: float, new_rate: float, burst: int, new_burst: int, tokens: float
):
    """Other limits count from now on: what had been gathered stays, as far as the new burst allows."""
    assume(tokens < burst)
    bucket = Bucket(rate, burst, 0.0)
    for _ in range(burst):
        bucket.take(0.0)
    now = tokens / rate
    bucket.change(new_rate, new_burst, now)
    count = 0
    while bucket.take(now) == 0.0:
        count += 1
    assert count <= min(tokens, new_burst) + 1e-6
    assert count > min(tokens, new_burst) - 1 - 1e-6
    assert bucket.take(now) <= 1 / new_rate * (1 + 1e-6) + 2e-6


@pytest.mark.parametrize(
    ("limits", "burst"),
    [
        ({"calls_per_second_max": 20}, 20),
        ({"calls_per_second_max": 2.5}, 2),
        ({"calls_per_second_max": 0.1}, 1),
        ({"calls_per_second_max": 20, "calls_burst_max": 3}, 3),
        ({"calls_per_second_max": 2, "calls_burst_max": 30}, 30),
    ],
)
def test_a_burst_is_a_seconds_worth(limits: dict[str, Any], burst: int):
    """Unless it is given: what the rate gives in a second, and at least one call."""
    assert admitted(an_admission(HandClock(), **limits).admit) == burst


def test_what_a_refused_caller_is_told():
    """The error says which limit, what it is set to and when to come back."""
    clock = HandClock(100.0)
    acme = an_admission(clock, calls_per_second_max=4, calls_burst_max=1)
    acme.admit()
    with pytest.raises(
        TenantRateLimitedError, match=r"'acme' .* calls_per_second_max \(4\): try again in 0.250 s"
    ) as caught:
        acme.admit()
    error = caught.value
    assert (error.tenant_id, error.limit, error.limit_value) == ("acme", "calls_per_second_max", 4)
    assert error.retry_after_seconds == pytest.approx(0.25, abs=1e-5)
    assert error.is_retryable
    clock.seconds += error.retry_after_seconds
    acme.admit()


def test_calls_in_flight():
    """At the limit, or beyond one that was lowered, nobody is let in; the wait is what those in flight take."""
    clock = HandClock()
    an_admission(clock, calls_in_flight_max=3, load=Load(2, 0.5)).admit()
    for calls in (3, 7):
        full = an_admission(clock, calls_in_flight_max=3, load=Load(calls, 0.5))
        with pytest.raises(TenantOverloadedError, match=f"'acme' has {calls} calls in flight") as caught:
            full.admit()
        error = caught.value
        assert (error.tenant_id, error.limit, error.limit_value) == ("acme", "calls_in_flight_max", 3)
        assert error.retry_after_seconds == 0.5


def test_a_wait_is_never_nothing():
    """Before anything was measured the advice is still not to come back at once."""
    with pytest.raises(TenantOverloadedError) as caught:
        an_admission(HandClock(), calls_in_flight_max=1, load=Load(1, 0.0)).admit()
    assert caught.value.retry_after_seconds == admission.RETRY_AFTER_SECONDS_MIN


def test_who_finds_too_many_in_flight_keeps_his_token():
    """A call that is refused for one limit does not count against the other; one inside a transaction is in flight already."""
    clock = HandClock()
    limits = TenantLimits(calls_per_second_max=1, calls_burst_max=2, calls_in_flight_max=1)
    bucket = Buckets().of("uid-1", limits, 0.0)
    load = Load(1, 0.1)
    acme = Admission("acme", limits, bucket, load=lambda: load, monotonic_seconds=clock.monotonic_seconds)
    for _ in range(5):
        with pytest.raises(TenantOverloadedError):
            acme.admit()
    assert admitted(acme.admit_inside) == 2
    load = NO_LOAD
    with pytest.raises(TenantRateLimitedError):
        acme.admit()


class TestBuckets:
    """The buckets of all tenants of a registry."""

    def test_a_tenant_finds_its_bucket_as_it_left_it(self):
        """Asking for it again, as whoever opens the tenant does, fills it no faster."""
        buckets, limits = Buckets(), TenantLimits(calls_per_second_max=10)
        first = buckets.of("uid-1", limits, 0.0)
        assert first is not None
        while first.take(0.0) == 0.0:
            pass
        again = buckets.of("uid-1", limits, 0.05)
        assert again is not None
        assert again.take(0.05) > 0
        other = buckets.of("uid-2", limits, 0.05)
        assert other is not None
        assert other.take(0.05) == 0.0

    def test_none_without_a_rate(self):
        """Who may call as often as it likes has none, also if it had one before."""
        buckets = Buckets()
        for limits in (TenantLimits(), TenantLimits(calls_in_flight_max=1)):
            assert buckets.of("uid-1", TenantLimits(calls_per_second_max=1), 0.0) is not None
            assert buckets.of("uid-1", limits, 0.0) is None

    def test_they_are_bounded(self):
        """At the limit the bucket goes whose tenant was opened the longest ago."""
        buckets, limits = Buckets(buckets_max=2), TenantLimits(calls_per_second_max=1)
        for uid in ("uid-1", "uid-2", "uid-1", "uid-3", "uid-1"):
            bucket = buckets.of(uid, limits, 0.0)
            assert bucket is not None
            if uid != "uid-1":
                bucket.take(0.0)
        kept = buckets.of("uid-3", limits, 0.0)
        gone = buckets.of("uid-2", limits, 0.0)
        assert kept is not None
        assert gone is not None
        assert kept.take(0.0) > 0
        assert gone.take(0.0) == 0.0


@pytest.mark.parametrize(
    "limits",
    [
        {"calls_burst_max": 3},
        {"calls_per_second_max": 0},
        {"calls_per_second_max": 1e-9},
        {"calls_per_second_max": float("inf")},
        {"calls_in_flight_max": 0},
        {"database_bytes_max": 1000},
        {"durability": "off"},
        {"calls_per_minute_max": 60},
    ],
    ids=str,
)
def test_limits_that_are_none(limits: dict[str, Any]):
    """A limit that could not be kept, or would do nothing, is refused when it is given."""
    with pytest.raises(ValidationError):
        TenantLimits(**limits)
