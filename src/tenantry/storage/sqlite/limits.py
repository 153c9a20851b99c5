"""Limits for work on the closed databases of a data directory."""

from dataclasses import dataclass
from typing import Final

from tenantry.limits import DATABASE_BYTES_MAX
from tenantry.storage.sqlite.connections.hardening import CHECK_SECONDS_MIN
from tenantry.storage.sqlite.database_files.log_note import CHANGED_SECONDS_MAX
from tenantry.storage.sqlite.maintenance.maintenance_connection import BUSY_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteLimits:
    """The limits of one `SQLiteBackend`.

    Attributes:
        prepare_seconds_min: The time limit for the migration of a copy; more time is added according to the copy's size.
        prepare_growth_bytes_max: The maximum growth of a copy during its migration, even if the disk has more space.
        repair_busy_seconds: The longest time that a repair waits for another program's lock on the database.
        changed_seconds_max: The longest time from the last change of the write-ahead log to the last change of the database. A
            repair refuses a database that was changed later.
    """

    prepare_seconds_min: float = CHECK_SECONDS_MIN
    prepare_growth_bytes_max: int = DATABASE_BYTES_MAX
    repair_busy_seconds: float = BUSY_SECONDS
    changed_seconds_max: float = CHANGED_SECONDS_MAX


SQLITE_LIMITS: Final = SQLiteLimits()
