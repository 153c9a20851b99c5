"""Types of values that models and manifests share. Every back end stores these values without loss."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

INT64_MAX = 2**63 - 1


def to_utc(value: datetime) -> datetime:
    """Return the same instant in UTC.

    Instants in other time zones may not survive a round trip. An instant in a repeated hour is never equal to an instant in another
    zone (PEP 495), and ISO 8601 has no offsets with seconds.
    """
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise ValueError("must have a time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be in the years 1 to 9999 in UTC") from None


Sha256Str = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 hash as 64 lower-case hexadecimal digits."""

Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
"""A whole number from 0 to the largest value of a signed 64-bit column."""

Timestamp = Annotated[AwareDatetime, AfterValidator(to_utc)]
"""An instant, which may have any UTC offset and is converted to UTC."""
