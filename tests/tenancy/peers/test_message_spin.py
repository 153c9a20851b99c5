"""The moment for which an event loop stays awake for the next message of another process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peers import open_pair
from tenantry.tenancy.peers.connections.message_spin import LONE_CALLS_MIN, SPIN_SECONDS_MAX, MessageSpin
from tenants import until

pytestmark = pytest.mark.unmeasured


class Steps:
    """An event loop whose steps a test takes one by one, and its clock."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.seconds = 0.0
        self.is_expected = True
        loop: Any = self
        self.spin = MessageSpin(loop, lambda: self.is_expected, now=lambda: self.seconds)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def step(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def expect(self) -> bool:
        """Expect a message after a lone call, and return whether the loop spins."""
        self.is_expected = True
        self.spin.begin()
        return bool(self.callbacks)

    def arrive(self) -> None:
        self.is_expected = False
        self.step()

    def wait_in_vain(self) -> None:
        self.seconds += 2 * SPIN_SECONDS_MAX
        self.step()

    def left_out(self) -> int:
        """Return the number of calls until the loop spins again."""
        count = 0
        while not self.expect():
            count += 1
        return count


@pytest.fixture
def steps() -> Steps:
    """Return a loop after enough lone calls."""
    made = Steps()
    for _ in range(LONE_CALLS_MIN):
        assert not made.expect()
    return made


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Let this thread use one processor."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    yield
    os.sched_setaffinity(0, processors)


several_processors = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="with one processor, no event loop spins"
)


@several_processors
class TestSpin:
    """When the loop spins, and for how long."""

    def test_it_ends_when_the_message_arrives(self, steps: Steps):
        """The loop looks in each of its steps, and does not after the message."""
        assert steps.expect()
        for _ in range(3):
            steps.step()
            assert len(steps.callbacks) == 1
        steps.arrive()
        assert not steps.callbacks
        assert steps.expect()

    def test_it_ends_when_the_message_is_late(self, steps: Steps):
        """The loop sleeps after `SPIN_SECONDS_MAX`."""
        assert steps.expect()
        steps.wait_in_vain()
        assert not steps.callbacks

    def test_spins_in_vain_become_rare(self, steps: Steps):
        """Each spin in vain doubles the number of calls after it that do not spin, up to 255; a message in time ends this."""
        left_out = []
        for _ in range(10):
            left_out.append(steps.left_out())
            steps.wait_in_vain()
        assert left_out == [0, 1, 3, 7, 15, 31, 63, 127, 255, 255]
        assert steps.left_out() == 255
        steps.arrive()
        assert steps.left_out() == 0

    def test_other_calls_end_it(self, steps: Steps):
        """After several calls at once, the loop spins only after enough lone calls again."""
        steps.spin.note_other_calls()
        assert steps.left_out() == LONE_CALLS_MIN

    def test_the_next_message_prolongs_it(self, steps: Steps):
        """A message that is answered between two looks begins no second spin."""
        assert steps.expect()
        steps.seconds += 0.9 * SPIN_SECONDS_MAX
        steps.spin.begin()
        assert len(steps.callbacks) == 1
        steps.seconds += 0.9 * SPIN_SECONDS_MAX
        steps.step()
        assert len(steps.callbacks) == 1


@pytest.mark.usefixtures("one_processor")
def test_one_processor():
    """A process that may use one processor leaves it to the other process."""
    steps = Steps()
    assert not any(steps.expect() for _ in range(3 * LONE_CALLS_MIN))


async def test_lone_calls_in_a_row(data_dir: Path):
    """Reads and writes of a lone caller have their results, and afterwards no callback keeps either event loop awake."""
    async with open_pair(data_dir, handed_over_after_calls=10**6) as pair:
        for number in range(3 * LONE_CALLS_MIN):
            await pair.forwarded.execute("INSERT INTO notes (text) VALUES (?)", (number,))
            assert await pair.forwarded.fetch_value("SELECT count(*) FROM notes") == number + 1
        (accepted,) = pair.owner._parts.peers._accepted
        (made,) = pair.other._parts.peers._owners.values()
        await until(lambda: not accepted._answers.is_spinning and not made.is_spinning)
