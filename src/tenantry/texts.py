"""Texts that come from outside: one type with one limit for each, whether it comes by the library, the API or a bundle.

The patterns are in the form that pydantic's and JSON Schema's regular expressions share, so that the API's document says the same.
Control characters are allowed: the code that prints a text escapes them.
"""

from functools import cache
from typing import Annotated, Any, Final, TypeAlias

from pydantic import StringConstraints, TypeAdapter, ValidationError

from tenantry.errors import QueryError

DISPLAY_NAME_CHARACTERS_MAX: Final = 200
REASON_CHARACTERS_MAX: Final = 1_000
PRINCIPAL_CHARACTERS_MAX: Final = 200
KEY_NAME_CHARACTERS_MAX: Final = 200
TRIGGER_CHARACTERS_MAX: Final = 40
VERSION_CHARACTERS_MAX: Final = 100
TABLE_NAME_CHARACTERS_MAX: Final = 1_000
TABLES_MAX: Final = 10_000
"""How many tables a manifest may name."""
SCHEMAS_MAX: Final = 100
"""How many schema packs a registry, a fleet job or a manifest may name."""

# Spelt out, because languages do not agree on what a blank is.
_BLANKS: Final = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_NOT_BLANK: Final = rf"^[^\x00]*[^{_BLANKS}][^\x00]*$"

DisplayName: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=DISPLAY_NAME_CHARACTERS_MAX, pattern=_NOT_BLANK)
]
"""A tenant's name for people."""

PrincipalName: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=PRINCIPAL_CHARACTERS_MAX, pattern=_NOT_BLANK)
]
"""The name of a principal: who makes a call."""

Reason: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=REASON_CHARACTERS_MAX, pattern=r"^[^\x00]+$")
]
"""Why an operator does something."""

KeyName: TypeAlias = Annotated[
    str, StringConstraints(max_length=KEY_NAME_CHARACTERS_MAX, pattern=r"^[^\x00]*$")
]
"""A key's name for people; may be empty."""

Trigger: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
"""Why a snapshot was taken, in a word."""

SchemaName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""A schema pack's name."""

TableName: TypeAlias = Annotated[
    str, StringConstraints(max_length=TABLE_NAME_CHARACTERS_MAX, pattern=r"^[^\x00]*$")
]
"""A table's name."""

VersionText: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=VERSION_CHARACTERS_MAX, pattern=_NOT_BLANK)
]
"""A program's version."""


def check_display_name(name: str) -> None:
    """Raise unless it is a name for people.

    Raises:
        QueryError: It is empty, blank, too long, or cannot be stored as text.
    """
    _check(
        DisplayName,
        name,
        f"display_name must be 1 to {DISPLAY_NAME_CHARACTERS_MAX} characters, not only blanks",
    )


def check_reason(reason: str | None) -> None:
    """Raise unless it is a reason, or None.

    Raises:
        QueryError: It is empty, too long, or cannot be stored as text.
    """
    if reason is not None:
        _check(Reason, reason, f"reason must be 1 to {REASON_CHARACTERS_MAX} characters without a NUL")


def check_principal(principal: str) -> None:
    """Raise unless a text can name who makes a call.

    Raises:
        QueryError: It is empty, blank, too long, or cannot be stored as text.
    """
    _check(
        PrincipalName,
        principal,
        f"a principal's name must be 1 to {PRINCIPAL_CHARACTERS_MAX} characters, not only blanks",
    )


def check_key_name(name: str) -> None:
    """Raise unless it is a key's name.

    Raises:
        QueryError: It is too long, or cannot be stored as text.
    """
    _check(KeyName, name, f"a key's name has at most {KEY_NAME_CHARACTERS_MAX} characters, and no NUL")


def check_trigger(trigger: str) -> None:
    """Raise unless it is a snapshot's trigger.

    Raises:
        QueryError: It is not a word of the characters that it may have.
    """
    shown = repr(trigger)[:80]
    _check(
        Trigger,
        trigger,
        f"trigger must be 1 to {TRIGGER_CHARACTERS_MAX} characters of a-z, 0-9 and '-', not {shown}",
    )


def as_reason(text: str) -> str:
    """Return a text of tenantry's own, such as an error's, as a reason: cut off at its limit."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:REASON_CHARACTERS_MAX]


def _check(kind: Any, text: object, message: str) -> None:
    try:
        _adapter(kind).validate_python(text, strict=True)
    except ValidationError as error:
        raise QueryError(message) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[str]:
    return TypeAdapter(kind)
