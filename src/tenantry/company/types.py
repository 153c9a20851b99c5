"""The value types of the company's models: the strings, numbers and timestamps that can be stored.

Every back end stores such a value without loss: no NUL and no lone surrogate in a
string, no integer beyond 64 bits, no NaN, no instant outside of the years 1 to 9999.
"""

from collections.abc import Hashable
from datetime import datetime
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, StringConstraints

from tenantry.values import to_utc

T = TypeVar("T", bound=Hashable)


def _check_not_blank(text: str) -> str:
    # One Python call beats a Rust pattern here: a pattern reads every character (1.6 µs per kilobyte of content),
    # `in` is a memchr and `isspace` stops at the first character that is not white space.
    if "\0" in text or text.isspace():
        raise ValueError("must hold something other than white space, and no NUL")
    return text


def _check_unique(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not hold the same value twice")
    return values


def _check_iso8601(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a date or a time in ISO 8601") from None
    return text


# The minimum length makes pydantic-core read the text as UTF-8, which refuses lone surrogates; a bare `str` accepts them.
NotBlankStr = Annotated[str, StringConstraints(min_length=1), AfterValidator(_check_not_blank)]
"""At least one character that is not white space; not stripped; no NUL, no lone surrogates."""

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""Any text, blank too; no NUL, no lone surrogates."""

Iso8601Str = Annotated[NotBlankStr, AfterValidator(_check_iso8601)]
"""A date or a time in ISO 8601, kept as it was written."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number from 0."""

UniqueTuple = Annotated[tuple[T, ...], AfterValidator(_check_unique)]
"""A tuple that holds no value twice."""


def format_timestamp(value: datetime) -> str:
    """Return an aware datetime as ``YYYY-MM-DDTHH:MM:SS.ffffffZ`` in UTC: one width, so text order is time order.

    Raises:
        ValueError: It has no time zone, or lies outside of the years 1 to 9999 in UTC.
    """
    return to_utc(value).isoformat("T", "microseconds")[:26] + "Z"
