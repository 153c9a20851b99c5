"""When a cached record of a catalog on a database server is still good: until a poll or a write of this process, and never for long."""

import pytest

from tenantry.tenancy.catalog.changes import UNPOLLED_SECONDS_MAX, PolledChanges


class Monotonic:
    """A monotonic clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


@pytest.fixture
def clock() -> Monotonic:
    """A clock that stands still."""
    return Monotonic()


@pytest.fixture
def polled(clock: Monotonic) -> PolledChanges:
    """A catalog that was polled just now."""
    changes = PolledChanges(clock)
    changes.note_poll(7, began_at_seconds=clock.now)
    return changes


def test_nothing_is_good_before_the_first_poll(clock: Monotonic):
    """Without a poll nobody knows what another process has changed since."""
    assert PolledChanges(clock).token() is None


def test_a_poll_that_sees_no_change(polled: PolledChanges, clock: Monotonic):
    """What was read before the poll is good after it."""
    before = polled.token()
    clock.now += UNPOLLED_SECONDS_MAX
    polled.note_poll(7, began_at_seconds=clock.now)
    assert before is not None
    assert polled.token() == before


def test_a_poll_that_sees_a_change(polled: PolledChanges, clock: Monotonic):
    """What was read before is not good any more."""
    before = polled.token()
    polled.note_poll(8, began_at_seconds=clock.now)
    assert polled.token() not in {before, None}


def test_a_write_of_this_process(polled: PolledChanges):
    """The number of others' changes does not count it, but what was read before it is not good any more."""
    before = polled.token()
    polled.note_write()
    assert polled.token() not in {before, None}


def test_a_poll_that_is_too_long_ago(polled: PolledChanges, clock: Monotonic):
    """If the database answers no poll, each call reads the catalog, so no record is older than the limit."""
    clock.now += UNPOLLED_SECONDS_MAX
    assert polled.token() is not None
    clock.now += 0.001
    assert polled.token() is None


def test_a_poll_counts_from_its_begin(polled: PolledChanges, clock: Monotonic):
    """A change that was committed while the answer was on its way is not in the answer."""
    began = clock.now
    clock.now += UNPOLLED_SECONDS_MAX + 0.001
    polled.note_poll(7, began_at_seconds=began)
    assert polled.token() is None


def test_an_answer_that_a_later_poll_has_overtaken(polled: PolledChanges, clock: Monotonic):
    """The older answer must not make records good that the newer answer has ended."""
    began = clock.now
    clock.now += 0.5
    polled.note_poll(8, began_at_seconds=clock.now)
    after = polled.token()
    polled.note_poll(7, began_at_seconds=began)
    assert polled.token() == after
