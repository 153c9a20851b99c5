"""Detects jumps of the machine's clock, and postpones deletions whose deadline may have passed because of a jump.

Theory of operation. A retention deadline is a date. If the clock is years ahead for only a second, all such dates seem to be past,
and a deletion cannot be undone. So a deadline counts as past only after the clock has run without a jump for the length of the
deadline, or for ``clock_hold_seconds`` if this time is shorter.

A running process compares the wall clock with the monotonic clock. A process that starts compares the wall clock with the time
that an earlier process recorded in the catalog. A machine that was switched off for days looks like a machine whose clock jumped,
so deletions are postponed in both cases. Deadlines before the recorded time are an exception: two readings of the clock at distant
times confirm them. Without the exception, a data directory that is used for minutes a day would never delete anything.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from tenantry.clock import Clock, as_text
from tenantry.eventlog import EventLog
from tenantry.events import ClockLeapt, Hook
from tenantry.sql.statements import Fetch, Statement
from tenantry.tenancy.catalog.session import CatalogReader, CatalogSession

CLOCK_LEAPT: Final = "tenantry.clock.leapt"
CLOCK_GAP: Final = "tenantry.clock.gap"

LEAP_SECONDS_MIN: Final = 60.0
"""The smallest step of the clock that counts as a jump: the smaller steps of NTP do not matter to deadlines of days."""
DOWNTIME_SECONDS_MAX: Final = 3_600.0
"""The longest time without a process after which the clock is still trusted."""
SEEN_INTERVAL_SECONDS: Final = 300.0
"""The interval at which the catalog's record of the clock is updated."""

_NEVER_EXPIRED: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SELECT: Final = Statement(
    "clock.find", "SELECT seen_at, steady_since FROM clock WHERE id = 1", (), Fetch.ONE
)
_KEEP: Final = """
INSERT INTO clock (id, seen_at, steady_since) VALUES (1, ?, ?)
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, steady_since = excluded.steady_since
"""


class ClockRecord(NamedTuple):
    """The catalog's record of the clock, which all processes update.

    Attributes:
        seen_at: The last recorded time.
        steady_since: The time of the last jump of the clock; None if no jump was ever detected.
    """

    seen_at: datetime
    steady_since: datetime | None


class ClockWatch:
    """Decides whether the clock can be trusted for a deletion.

    Args:
        hold_seconds: The longest time for which deletions are postponed after a jump of the clock.
    """

    def __init__(self, clock: Clock, hold_seconds: float, report: Hook, log: EventLog) -> None:
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._report = report
        self._log = log
        self._is_open = False
        self._wall: datetime | None = None
        self._monotonic = 0.0
        self._steady_since: datetime | None = None
        self._confirmed: datetime | None = None
        self._written_at: datetime | None = None
        self._is_written = False

    @property
    def held_seconds(self) -> float:
        """The remaining seconds for which deletions are postponed; 0 if the clock is trusted."""
        now = self._look()
        if not self._is_open or self._steady_since is None:
            return 0.0
        return max(0.0, self._hold_seconds - (now - self._steady_since).total_seconds())

    def surely_past(self, deadline_seconds: float) -> datetime:
        """Return the instant before which deadlines of this length have certainly passed.

        If the clock is trusted, the result is the current time. Otherwise the result is the recorded time if that is old enough, else
        1970. Before `open` the clock is not trusted.
        """
        now, steady_since = self._look(), self._steady_since
        if not self._is_open:
            return _NEVER_EXPIRED
        hold = timedelta(seconds=min(deadline_seconds, self._hold_seconds))
        if steady_since is None or now - steady_since >= hold:
            return now
        if self._confirmed is not None and now - self._confirmed >= hold:
            return self._confirmed
        return _NEVER_EXPIRED

    def expired_before(self, retention_seconds: float) -> datetime:
        """Return the instant before which records with this retention have expired; 1970 while the clock is not trusted."""
        past = self.surely_past(retention_seconds)
        return past if past == _NEVER_EXPIRED else past - timedelta(seconds=retention_seconds)

    def latest_plausible(self) -> datetime:
        """Return the latest time that a correct clock can have recorded until now; any later record is wrong."""
        return self._clock.now() + timedelta(seconds=LEAP_SECONDS_MIN)

    async def open(self, store: CatalogSession) -> None:
        """Compare the clock with the time in the catalog, and record the current time in the catalog."""
        record = await read_record(store)
        now = self._look()
        if record is not None:  # a new data directory has no record, and nothing that could expire
            self._compare(record, now)
        self._is_open = True
        await self.write(store)

    async def write(self, store: CatalogSession) -> None:
        """Record the current time if `SEEN_INTERVAL_SECONDS` have passed or the clock has jumped."""
        now = self._look()
        is_recent = (
            self._written_at is not None
            and abs((now - self._written_at).total_seconds()) < SEEN_INTERVAL_SECONDS
        )
        if self._is_written and is_recent:
            return
        steady_since = self._steady_since
        await store.write(
            Statement("clock.keep", _KEEP, (as_text(now), steady_since and as_text(steady_since)))
        )
        self._written_at = now
        self._is_written = steady_since == self._steady_since

    def _compare(self, record: ClockRecord, now: datetime) -> None:
        gap_seconds = (now - record.seen_at).total_seconds()
        is_steady = -LEAP_SECONDS_MIN <= gap_seconds <= DOWNTIME_SECONDS_MAX
        if is_steady and (record.steady_since is None or record.steady_since <= now):
            self._steady_since = record.steady_since
            self._written_at, self._is_written = record.seen_at, True
            return
        self._note(now, gap_seconds, CLOCK_GAP)
        if gap_seconds > 0:
            self._confirmed = record.seen_at

    def _look(self) -> datetime:
        now, monotonic = self._clock.now(), self._clock.monotonic_seconds()
        wall_before, monotonic_before = self._wall, self._monotonic
        self._wall, self._monotonic = now, monotonic
        if wall_before is not None:
            leap_seconds = (now - wall_before).total_seconds() - (monotonic - monotonic_before)
            if abs(leap_seconds) > LEAP_SECONDS_MIN:
                self._note(now, leap_seconds, CLOCK_LEAPT)
        return now

    def _note(self, now: datetime, leap_seconds: float, event: str) -> None:
        self._steady_since, self._confirmed = now, None
        self._is_written = False
        # A forward gap between two processes most likely means that the machine was switched off.
        is_ordinary = event == CLOCK_GAP and leap_seconds > 0
        log = self._log.info if is_ordinary else self._log.warning
        log(event, seconds=round(leap_seconds, 3), held_seconds=self._hold_seconds)
        self._report(ClockLeapt(leap_seconds, self._hold_seconds))


async def read_record(store: CatalogReader) -> ClockRecord | None:
    """Return the catalog's record of the clock; None in a new data directory."""
    row = await store.read(_SELECT)
    if row is None:
        return None
    seen_at, steady_since = (text and datetime.fromisoformat(text) for text in row)
    return ClockRecord(seen_at, steady_since)
