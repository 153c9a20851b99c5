"""Checks the name and the parameters of a caller's statement."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Final, TypeAlias
from uuid import UUID

from tenantry.errors import QueryError

Parameter: TypeAlias = int | float | str | bytes | None
Parameters: TypeAlias = Sequence[Parameter]

NAME_CHARACTERS_MAX: Final = 60
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*")
_NAMES_MAX: Final = 1024

_PLAIN: Final[frozenset[type]] = frozenset([type(None), int, float, str, bytes, bool])
# The first type that matches the value gives the advice. datetime must come before date, because a datetime is also a date.
_CONVERSIONS: Final[Sequence[tuple[type | tuple[type, ...], str]]] = (
    (Enum, "value.value"),
    (Decimal, "str(value) for a column with text, or a whole number of the smallest unit"),
    (datetime, "value.astimezone(UTC).isoformat(timespec='microseconds'), whose text order is time order"),
    ((date, time), "value.isoformat()"),
    (timedelta, "value.total_seconds()"),
    (UUID, "str(value) or value.bytes"),
    (PurePath, "str(value)"),
    ((bytearray, memoryview), "bytes(value)"),
    ((list, tuple, set, frozenset, Mapping), "json.dumps(value), or give each of its values a placeholder"),
)


@lru_cache(maxsize=_NAMES_MAX)
def check_name(name: str) -> str:
    """Return the name of a statement.

    Raises:
        QueryError: The name is not valid. A name has words of ``a-z``, ``0-9`` and ``_`` joined by dots, begins with a letter, and has at
            most `NAME_CHARACTERS_MAX` characters.
    """
    if len(name) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(name):
        raise QueryError(
            f"name={name!r} cannot name a statement: use words of a-z, 0-9 and _ joined by dots, such as invoices.list, of at most "
            f"{NAME_CHARACTERS_MAX} characters; the name is a label in metrics, so it may not contain ids or values"
        )
    return name


def check_parameters(parameters: Parameters, *, statement: str) -> tuple[Parameter, ...]:
    """Return the parameters as a tuple.

    Raises:
        QueryError: The parameters are not a sequence of None, int, float, str and bytes. Nothing was sent.
    """
    if type(parameters) is not tuple and type(parameters) is not list:
        _check_is_sequence(parameters, statement)
    if not _PLAIN.issuperset(map(type, parameters)):
        for position, value in enumerate(parameters, start=1):
            _check_value(value, f"{statement}: parameter {position}")
    return tuple(parameters)


def _check_is_sequence(parameters: object, statement: str) -> None:
    kind = type(parameters).__name__
    if isinstance(parameters, Mapping):
        advice = "write ? for each value in the SQL, and pass the values in the same order: [first, second]"
    elif isinstance(parameters, Sequence) and not isinstance(
        parameters, str | bytes | bytearray | memoryview
    ):
        return
    elif parameters is None or isinstance(parameters, str | bytes | int | float):
        advice = "put a single value into a list: [value]"
    else:
        advice = "convert it to a list: list(values)"
    raise QueryError(
        f"{statement}: parameters must be a list or tuple with a value for each '?', not {kind}; nothing was sent: {advice}"
    )


def _check_value(value: object, which: str) -> None:
    # The driver stores an instance of a subclass as its base type. Enums are refused, because drivers treat them differently.
    if isinstance(value, None | int | float | str | bytes) and not isinstance(value, Enum):
        return
    advice = next((advice for types, advice in _CONVERSIONS if isinstance(value, types)), None)
    raise QueryError(
        f"{which} is of type {type(value).__name__}, but only None, int, float, str and bytes can be stored; nothing was sent: "
        f"convert it first{f', for example with {advice}' if advice else ''}"
    )
