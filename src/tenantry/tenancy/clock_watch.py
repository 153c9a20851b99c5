"""Detects leaps of the machine's clock, and holds back deletions whose deadline passed because of one.

Theory of operation. A deadline of days is a date. A clock that is ahead for one second makes every such date look past, and
a deletion then cannot be undone. So a deadline counts as past only once the clock has run steadily for as long as the
deadline itself, or for ``clock_hold_seconds`` if that is shorter.

While a process runs, the wall clock is compared with the monotonic clock. Between two processes it is compared with the time
that the last one wrote into the catalog. A machine that was switched off for days cannot be told from a leap there; then
deletions wait for the same time. But what had expired already by the time that the last process wrote down is deleted at once: two
looks at the clock, far apart, say so. Otherwise a directory that is only ever used for minutes a day would keep everything.
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
"""Smaller steps, such as those of NTP, do not matter to deadlines of days. A date further ahead than this is in the future."""
DOWNTIME_SECONDS_MAX: Final = 3_600.0
"""After a longer time without any process the clock may have leapt meanwhile."""
SEEN_INTERVAL_SECONDS: Final = 300.0
"""How often the time is written down."""

_NEVER_EXPIRED: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SELECT: Final = Statement(
    "clock.find", "SELECT seen_at, steady_since FROM clock WHERE id = 1", (), Fetch.ONE
)
_KEEP: Final = """
INSERT INTO clock (id, seen_at, steady_since) VALUES (1, ?, ?)
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, steady_since = excluded.steady_since
"""


class ClockRecord(NamedTuple):
    """What processes write down about the clock.

    Attributes:
        seen_at: When a process last looked at the clock.
        steady_since: Since when the clock has not leapt; None if it never has.
    """

    seen_at: datetime
    steady_since: datetime | None


class ClockWatch:
    """Tells whether the clock can be trusted with a deletion.

    Args:
        hold_seconds: How long the clock must have been steady.
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
        """How much longer deletions after a long time are held back; 0 if none is."""
        now = self._look()
        if not self._is_open or self._steady_since is None:
            return 0.0
        return max(0.0, self._hold_seconds - (now - self._steady_since).total_seconds())

    def surely_past(self, deadline_seconds: float) -> datetime:
        """Return the moment before which every deadline of this length has surely passed; long ago if none surely has.

        Now, if the clock is trusted. Before `open` it is not.
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
        """Return the moment before which things kept for this long have expired; while the clock is not trusted, long ago."""
        past = self.surely_past(retention_seconds)
        return past if past == _NEVER_EXPIRED else past - timedelta(seconds=retention_seconds)

    def latest_plausible(self) -> datetime:
        """Return the moment after which a date is in the future."""
        return self._clock.now() + timedelta(seconds=LEAP_SECONDS_MIN)

    async def open(self, store: CatalogSession) -> None:
        """Compare the clock with the last time that a process wrote down, and write the present time down."""
        record = await read_record(store)
        now = self._look()
        if record is not None:  # in a new directory nothing can have expired
            self._compare(record, now)
        self._is_open = True
        await self.write(store)

    async def write(self, store: CatalogSession) -> None:
        """Write the present time down if that is due; after a leap it always is."""
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
        # Forward between two processes: the machine was most likely just switched off.
        is_ordinary = event == CLOCK_GAP and leap_seconds > 0
        log = self._log.info if is_ordinary else self._log.warning
        log(event, seconds=round(leap_seconds, 3), held_seconds=self._hold_seconds)
        self._report(ClockLeapt(leap_seconds, self._hold_seconds))


async def read_record(store: CatalogReader) -> ClockRecord | None:
    """Return what processes wrote down; None in a new directory."""
    row = await store.read(_SELECT)
    if row is None:
        return None
    seen_at, steady_since = (text and datetime.fromisoformat(text) for text in row)
    return ClockRecord(seen_at, steady_since)
