"""The limits of fleet jobs: the waits after failures, and the rows deleted in one transaction."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLimits:
    """The limits of the fleet jobs of one registry.

    Attributes:
        retry_seconds: The wait before each retry of work that failed with a retryable error.
        retry_after_seconds_max: The longest wait before a retry that an error's `retry_after_seconds` can cause.
        failed_retry_seconds: The wait before a job runs again after the catalog failed.
        deleted_rows_max: The most outcomes deleted in one transaction; a larger number delays other callers of the catalog.
    """

    retry_seconds: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)
    retry_after_seconds_max: float = 5.0
    failed_retry_seconds: float = 5.0
    deleted_rows_max: int = 5_000


FLEET_LIMITS: Final = FleetLimits()
