"""Who makes room first: those who were used once before those who came back, and within each the longest idle."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenantry.tenancy.actors.segmented_lru import PROTECTED_SHARE, SegmentedLRU

PLACES = 5


@dataclass(eq=False)
class Entry:
    """An open tenant."""

    name: str
    is_protected: bool = False


def names(idle: SegmentedLRU[Entry]) -> str:
    """Return their names in the order in which they make room."""
    return "".join(entry.name for entry in idle)


def test_those_used_once_make_room_first():
    """One that was used again stays, though it has been idle for longer than those that came once."""
    idle: SegmentedLRU[Entry] = SegmentedLRU(PLACES)
    a, b, c = map(Entry, "abc")
    for entry in (a, b):
        idle.add(entry)
    idle.use(a)
    idle.add(a)
    idle.add(c)
    assert (names(idle), idle.first(), len(idle)) == ("bca", b, 3)
    idle.remove(b)
    idle.remove(c)
    assert idle.first() is a
    idle.remove(a)
    assert idle.first() is None
    assert not a.is_protected


def test_the_protected_leave_room_for_newcomers():
    """At most a part of the places is protected: the entry that was idle the longest goes back to probation."""
    idle: SegmentedLRU[Entry] = SegmentedLRU(PLACES)
    entries = list(map(Entry, "abcde"))
    for entry in entries:
        idle.add(entry)
        idle.use(entry)
        idle.add(entry)
    assert [entry.is_protected for entry in entries] == [False, True, True, True, True]
    assert names(idle) == "abcde"


def test_one_place_is_a_plain_list():
    """With a single place no entry can be protected, and nothing breaks."""
    idle: SegmentedLRU[Entry] = SegmentedLRU(1)
    a = Entry("a")
    idle.add(a)
    idle.use(a)
    idle.add(a)
    assert (idle.first(), a.is_protected) == (a, False)


class Idling(RuleBasedStateMachine):
    """Tenants become idle, are used again and close, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: SegmentedLRU[Entry] = SegmentedLRU(PLACES)
        self.idle_entries: list[Entry] = []
        self.busy: list[Entry] = []
        self.closed: list[Entry] = []

    @property
    def open_count(self) -> int:
        """How many tenants are open."""
        return len(self.idle_entries) + len(self.busy)

    @precondition(lambda self: self.open_count < PLACES)
    @rule()
    def open(self) -> None:
        """A tenant opens, for someone."""
        self.busy.append(self.closed.pop() if self.closed else Entry("x"))

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def rest(self, data: st.DataObject) -> None:
        """A tenant becomes idle."""
        entry = self.busy.pop(data.draw(st.integers(0, len(self.busy) - 1)))
        self.idle.add(entry)
        self.idle_entries.append(entry)

    @precondition(lambda self: self.idle_entries)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        """An idle tenant is used again."""
        entry = self.idle_entries.pop(data.draw(st.integers(0, len(self.idle_entries) - 1)))
        self.idle.use(entry)
        assert entry.is_protected
        self.busy.append(entry)

    @precondition(lambda self: self.open_count)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """A tenant closes, idle or not."""
        entry = data.draw(st.sampled_from([*self.idle_entries, *self.busy]))
        (self.idle_entries if entry in self.idle_entries else self.busy).remove(entry)
        self.idle.remove(entry)
        assert not entry.is_protected
        self.closed.append(entry)

    @invariant()
    def is_a_permutation(self) -> None:
        """Every idle tenant is in it once, those on probation first."""
        listed = list(self.idle)
        assert len(self.idle) == len(listed)
        assert {*map(id, listed)} == {*map(id, self.idle_entries)}
        protected = [entry.is_protected for entry in listed]
        assert protected == sorted(protected)

    @invariant()
    def leaves_room(self) -> None:
        """No more idle entries are protected than their share; with those in use there may be more for a while."""
        protected = [entry for entry in [*self.idle_entries, *self.busy] if entry.is_protected]
        over = len(protected) - int(PLACES * PROTECTED_SHARE)
        assert over <= 0 or not any(entry.is_protected for entry in self.idle_entries)


TestIdling = Idling.TestCase
TestIdling.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
