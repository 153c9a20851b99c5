"""The limits of fleet jobs: how long a job waits after a failure, and how much it deletes at once."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLimits:
    """The limits of the fleet jobs of one registry.

    Attributes:
        retry_seconds: How long to wait before each further attempt at work whose error may pass.
        retry_after_seconds_max: The longest wait that such an error can ask for.
        failed_retry_seconds: How long after a failure of the catalog a job is run again.
        deleted_rows_max: How many outcomes are deleted in one transaction, so that the catalog's other callers do not wait for long.
    """

    retry_seconds: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)
    retry_after_seconds_max: float = 5.0
    failed_retry_seconds: float = 5.0
    deleted_rows_max: int = 5_000


FLEET_LIMITS: Final = FleetLimits()
