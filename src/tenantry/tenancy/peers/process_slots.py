"""Small numbers for the processes that have a data directory open: metrics name a process by such a number.

Each open registry holds the lock of one file ``peers/<number>.lock``, the free one with the smallest number. A process that starts
after another has ended or crashed gets the number of that process, so that Prometheus stores no new series for each restart. The lock
file has the name of the holder's socket.
"""

from pathlib import Path
from typing import Final, NamedTuple

from tenantry.eventlog import EventLog
from tenantry.files.lock_file import LockFile, LockHeldError, read_holder
from tenantry.tenancy.peers.connections.peer_socket import is_socket_name

SLOTS_MAX: Final = 256
"""The largest number of processes with a number. Further processes work, but their metrics are not shown."""

NO_SLOT: Final = "tenantry.peers.no_slot"


class SlotHolder(NamedTuple):
    """A process with a number, as its lock file names it. The process may have crashed since."""

    number: int
    pid: int
    socket_name: str


class ProcessSlots:
    """Takes a number for this registry, and finds the holders of the others. The constructor does no I/O; the methods block for I/O."""

    def __init__(self, data_dir: Path, *, log: EventLog) -> None:
        self._directory = data_dir / "peers"
        self._log = log
        self._lock: LockFile | None = None
        self._number: int | None = None

    @property
    def number(self) -> int | None:
        """The number of this registry; None if it has none."""
        return self._number

    def take(self, socket_name: str) -> None:
        """Take the smallest free number. If that fails, a warning is logged, and the metrics of this process have no number."""
        reason = f"{SLOTS_MAX} processes have the data directory open"
        for number in range(SLOTS_MAX):
            lock = LockFile(self._directory / f"{number}.lock", socket_name=socket_name)
            try:
                lock.acquire()
            except LockHeldError:
                continue
            except OSError as error:
                reason = str(error)
                break
            self._lock, self._number = lock, number
            return
        self._log.warning(NO_SLOT, directory=str(self._directory), reason=reason)

    def release(self) -> None:
        """Give the number back; idempotent."""
        lock, self._lock, self._number = self._lock, None, None
        if lock is not None:
            lock.remove()

    def is_held(self, number: int) -> bool:
        """Return whether a process has this number; remove the lock file of a process that has crashed."""
        lock = LockFile(self._directory / f"{number}.lock")
        try:
            lock.acquire(may_make=False, is_named=False)
        except LockHeldError:
            return True
        except OSError:
            return False
        lock.remove()
        return False

    def others(self) -> list[SlotHolder]:
        """Return the holders of the other numbers, in the order of the numbers."""
        try:
            paths = {int(path.stem): path for path in self._directory.glob("*.lock") if path.stem.isdecimal()}
        except OSError:
            return []
        found = []
        for number, path in sorted(paths.items())[:SLOTS_MAX]:
            pid, _, socket_name = read_holder(LockFile(path).read())
            if number == self._number or pid is None or socket_name is None:
                continue
            # The name is part of a path, so a damaged lock file must not lead elsewhere.
            if is_socket_name(socket_name):
                found.append(SlotHolder(number, pid, socket_name))
        return found
