"""Makes the parameters of a statement plain values, so that another process binds them as this process would."""

from collections.abc import Sequence
from typing import Any, Final

from tenantry.errors import QueryError

_INTEGER_BITS_MAX: Final = 63
_PLAIN: Final = frozenset([type(None), float, bytes])


def plain_parameters(parameters: Sequence[object], *, name: str) -> tuple[Any, ...]:
    """Return the parameters as a tuple of None, int, float, str and bytes.

    Args:
        parameters: The parameters of a statement. As in Python's `sqlite3`, instances of subclasses count as their base classes, and
            values of other classes are refused, even if this process has an adapter for them.
        name: The name of the statement, for errors.

    Raises:
        QueryError: SQLite cannot bind a parameter; nothing was sent.
    """
    if type(parameters) is not tuple and not isinstance(parameters, Sequence):
        raise _refused(name, f"the parameters have the type {type(parameters).__name__}, not a sequence")
    value: Any
    for value in parameters:
        # A call of a function for each of these values would take longer than this loop.
        kind = type(value)
        if (kind is str and value.isascii()) or kind in _PLAIN:
            continue
        return tuple([_plain(one, name) for one in parameters])
    return tuple(parameters)


def _plain(value: object, name: str) -> object:
    kind = type(value)
    if value is None or kind is float or kind is bytes:
        return value
    if kind is int:
        assert isinstance(value, int)
        if value.bit_length() > _INTEGER_BITS_MAX and value != -(2**_INTEGER_BITS_MAX):
            raise _refused(name, "an integer has more than 64 bits")
        return value
    if kind is str:
        assert isinstance(value, str)
        if not value.isascii():
            _check_encodes(value, name)
        return value
    return _base_value(value, name)


def _base_value(value: object, name: str) -> object:
    # sqlite3 stores the value of a subclass's base class, whatever its methods say.
    if isinstance(value, int):
        return _plain(int.__int__(value), name)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return _plain(str.__str__(value), name)
    try:
        return bytes(memoryview(value))  # type: ignore[arg-type]  # sqlite3 stores every object that has a buffer
    except TypeError:
        raise _refused(name, f"a parameter has the type {type(value).__name__}") from None


def _check_encodes(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"{name}: {error}; nothing was sent", code=type(error).__name__) from error


def _refused(name: str, why: str) -> QueryError:
    return QueryError(
        f"{name}: {why}, which SQLite cannot store; nothing was sent: use None, int, float, str or bytes"
    )
