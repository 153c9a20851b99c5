"""Value types that models and manifests share: a digest, a count, an instant. Every back end stores them without loss."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

INT64_MAX = 2**63 - 1


def to_utc(value: datetime) -> datetime:
    """Return the same instant in UTC.

    Kept in UTC because an instant in a zone's repeated hour equals nothing but itself (PEP 495), and because ISO 8601
    has no offsets with seconds: neither would survive a round trip.
    """
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise ValueError("must have a time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999 in UTC") from None


Sha256Str = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in 64 lower-case hexadecimal digits."""

Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
"""A whole number from 0 that a signed 64-bit column holds."""

Timestamp = Annotated[AwareDatetime, AfterValidator(to_utc)]
"""An instant: given with any offset, kept in UTC."""
