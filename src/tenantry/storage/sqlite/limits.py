"""The limits of the work on closed databases of a data directory."""

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
        prepare_seconds_min: How long the migration of a copy may take, beside the time that its size allows.
        prepare_growth_bytes_max: How much a copy may grow while it is migrated, even if the disk has space for more.
        repair_busy_seconds: How long a repair waits for another program that holds a lock of the database.
        changed_seconds_max: A repair refuses a database that was changed longer than this after its write-ahead log.
    """

    prepare_seconds_min: float = CHECK_SECONDS_MIN
    prepare_growth_bytes_max: int = DATABASE_BYTES_MAX
    repair_busy_seconds: float = BUSY_SECONDS
    changed_seconds_max: float = CHANGED_SECONDS_MAX


SQLITE_LIMITS: Final = SQLiteLimits()
