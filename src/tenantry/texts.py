"""The types of users' texts, with their length limits, for the library, the admin API and bundles.

The patterns use only the common syntax of pydantic's and JSON Schema's regular expressions, so that the OpenAPI document contains
them unchanged. Control characters are allowed, because the code that prints a text escapes them.
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
"""The largest number of tables in a manifest."""
SCHEMAS_MAX: Final = 100
"""The largest number of schema packs of a registry, a fleet job or a manifest."""

# The characters are listed, because `\s` matches different characters in the regular expressions of different languages.
_BLANKS: Final = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_NOT_BLANK: Final = rf"^[^\x00]*[^{_BLANKS}][^\x00]*$"

DisplayName: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=DISPLAY_NAME_CHARACTERS_MAX, pattern=_NOT_BLANK)
]
"""The name of a tenant that people see."""

PrincipalName: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=PRINCIPAL_CHARACTERS_MAX, pattern=_NOT_BLANK)
]
"""The name of the principal, which is the person or program that makes a call."""

Reason: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=REASON_CHARACTERS_MAX, pattern=r"^[^\x00]+$")
]
"""The reason that an operator gives for an operation."""

KeyName: TypeAlias = Annotated[
    str, StringConstraints(max_length=KEY_NAME_CHARACTERS_MAX, pattern=r"^[^\x00]*$")
]
"""The name of an API key that people see; it may be empty."""

Trigger: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
"""The trigger of a snapshot: a word for the reason why the snapshot was taken."""

SchemaName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""The name of a schema pack."""

TableName: TypeAlias = Annotated[
    str, StringConstraints(max_length=TABLE_NAME_CHARACTERS_MAX, pattern=r"^[^\x00]*$")
]
"""The name of a table."""

VersionText: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=VERSION_CHARACTERS_MAX, pattern=_NOT_BLANK)
]
"""The version of a program."""


def check_display_name(name: str) -> None:
    """Raise an error if the text cannot be the display name of a tenant.

    Raises:
        QueryError: The text is empty, blank, too long, or cannot be stored as text.
    """
    _check(
        DisplayName,
        name,
        f"display_name must be 1 to {DISPLAY_NAME_CHARACTERS_MAX} characters, not only blanks",
    )


def check_reason(reason: str | None) -> None:
    """Raise an error if the text cannot be a reason; None is allowed.

    Raises:
        QueryError: The text is empty, too long, or cannot be stored as text.
    """
    if reason is not None:
        _check(Reason, reason, f"reason must be 1 to {REASON_CHARACTERS_MAX} characters without a NUL")


def check_principal(principal: str) -> None:
    """Raise an error if the text cannot be the name of a principal.

    Raises:
        QueryError: The text is empty, blank, too long, or cannot be stored as text.
    """
    _check(
        PrincipalName,
        principal,
        f"a principal's name must be 1 to {PRINCIPAL_CHARACTERS_MAX} characters, not only blanks",
    )


def check_key_name(name: str) -> None:
    """Raise an error if the text cannot be the name of an API key.

    Raises:
        QueryError: The text is too long, or cannot be stored as text.
    """
    _check(KeyName, name, f"a key's name has at most {KEY_NAME_CHARACTERS_MAX} characters, and no NUL")


def check_trigger(trigger: str) -> None:
    """Raise an error if the text cannot be the trigger of a snapshot.

    Raises:
        QueryError: The text is empty, too long, or has other characters than a-z, 0-9 and '-'.
    """
    shown = repr(trigger)[:80]
    _check(
        Trigger,
        trigger,
        f"trigger must be 1 to {TRIGGER_CHARACTERS_MAX} characters of a-z, 0-9 and '-', not {shown}",
    )


def as_reason(text: str) -> str:
    """Return an error's message or another text of tenantry as a reason; a long text is truncated."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:REASON_CHARACTERS_MAX]


def _check(kind: Any, text: object, message: str) -> None:
    try:
        _adapter(kind).validate_python(text, strict=True)
    except ValidationError as error:
        raise QueryError(message) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[str]:
    return TypeAdapter(kind)
