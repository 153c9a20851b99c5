"""The limiter's queue: first come, first served, but for borrowers that are not ready."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tenantry.config import RegistryConfig
from tenantry.tenancy.actors.limiter import (
    LOOK_AHEAD_BORROWERS,
    OVERTAKES_MAX,
    FairLimiter,
    Limiters,
    Permit,
)
from tenants import in_virtual_time


class Line:
    """A limiter with one permit, and borrowers that are numbers."""

    def __init__(self) -> None:
        self.limiter = FairLimiter(1)
        self.served: list[int] = []
        self.ready: set[int] = set()
        self._asked = 0
        self._permit: Permit | None = None

    def ask(self, is_ready: Callable[[int], bool] | None = None) -> int:
        """Add the next borrower, and return its number, which is its turn; without `is_ready` it is ready if it is in `ready`."""
        number, self._asked = self._asked, self._asked + 1
        self.limiter.acquire(number, partial(self._take, number), partial(is_ready or self._is_ready, number))
        return number

    def serve(self) -> int:
        """Release the held permit, and return the borrower that gets it."""
        assert self._permit is not None
        self._permit.release()
        return self.served[-1]

    def _take(self, number: int, permit: Permit) -> None:
        self._permit = permit
        self.served.append(number)

    def _is_ready(self, number: int) -> bool:
        return number in self.ready


@in_virtual_time
async def test_the_first_ready_borrower_is_next():
    """The order is that of the requests among those that are ready, and among those that are not."""
    line = Line()
    for _ in range(6):
        line.ask()
    line.ready |= {2, 4, 5}
    assert [line.serve() for _ in range(5)] == [2, 4, 5, 1, 3]


@in_virtual_time
async def test_a_free_permit_is_given_to_a_borrower_that_is_not_ready():
    """No permit stays free while a borrower waits."""
    line = Line()
    assert line.ask() == 0
    assert line.served == [0]


@in_virtual_time
async def test_borrowers_that_are_ready_keep_their_order():
    """A borrower that says nothing is ready, so nobody overtakes it."""
    limiter, served = FairLimiter(1), []
    permits: list[Permit] = []
    for number in range(4):
        limiter.acquire(number, lambda permit, number=number: (served.append(number), permits.append(permit)))
    for _ in range(3):
        permits[-1].release()
    assert served == [0, 1, 2, 3]


@in_virtual_time
async def test_a_borrower_that_is_never_ready_gets_its_permit():
    """A borrower is served as many permits after its turn as the limit says, while others are ready all the time."""
    line = Line()
    line.ask()
    never = line.ask()
    for _ in range(2 * OVERTAKES_MAX):
        line.ready.add(line.ask())
    while line.serve() != never:
        pass
    assert line.served.index(never) == never + OVERTAKES_MAX


@in_virtual_time
async def test_the_search_is_bounded():
    """A borrower far behind is not searched for, so a permit costs the same however many wait."""
    line = Line()
    asked: list[int] = []

    def is_ready(number: int) -> bool:
        asked.append(number)
        return number > LOOK_AHEAD_BORROWERS

    for _ in range(3 * LOOK_AHEAD_BORROWERS):
        line.ask(is_ready)
    asked.clear()
    assert line.serve() == 1
    assert len(asked) == LOOK_AHEAD_BORROWERS


@pytest.mark.parametrize("seed", range(5))
@in_virtual_time
async def test_nobody_waits_much_longer_than_in_order(seed: int):
    """At random readiness every borrower is served once, and none later than the limit after its turn."""
    rng, line = random.Random(seed), Line()
    for _ in range(300):
        line.ask()
    for _ in range(3000):
        line.ready = set(rng.sample(range(line.served[-1] + 400), 40))
        line.ask()
        line.serve()
    assert len(set(line.served)) == len(line.served)
    assert max(place - number for place, number in enumerate(line.served)) <= OVERTAKES_MAX


def held_at_once(limiter: FairLimiter) -> int:
    """Return how many borrowers get a permit before one waits."""
    permits: list[Permit] = []
    while not limiter.is_full:
        limiter.acquire(object(), permits.append)
    return len(permits)


@in_virtual_time
async def test_writes_and_reads_share_the_connections_to_a_server(tmp_path: Path):
    """Files have separate limits, and a server has one for both kinds, which is never more than its connections."""
    config = RegistryConfig(data_dir=tmp_path, write_jobs_max=3, read_jobs_max=2)
    files = Limiters.of(config)
    assert (held_at_once(files.write), held_at_once(files.read)) == (3, 2)
    server = Limiters.of_server(config, connections_max=13)
    assert server.write is server.read
    assert held_at_once(server.write) == 3
    assert held_at_once(Limiters.of_server(config, connections_max=2).read) == 2
