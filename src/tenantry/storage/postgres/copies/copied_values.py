"""Converts the values of rows between the server's text format for COPY and SQLite's values.

SQLite's value     the server's type
int                integers, boolean (0 and 1)
float              floating point numbers
bytes              bytea, and uuid with 16 bytes
str                texts, JSON, instants, and every other type in the server's text form
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

from tenantry.storage.postgres.copies.tables import Column
from tenantry.storage.row_digests import Compared, exact_number, existence, parsed_json

Row: TypeAlias = tuple[Any, ...]
Convert: TypeAlias = Callable[[Any], Any]

INTEGERS: Final = frozenset(["int2", "int4", "int8", "oid"])
FLOATS: Final = frozenset(["float4", "float8"])
_AS_STORED: Final = (
    INTEGERS | FLOATS | {"bool", "bytea", "json", "text", "timestamp", "timestamptz", "uuid", "varchar"}
)
"""The types whose values come back as they were stored, see `as_stored`."""

_COMPARED: Final[dict[str, Compared]] = {"jsonb": parsed_json, "numeric": exact_number}

# Both have one width: the server leaves out the zeros at the end of the fraction, and "." if nothing follows.
_SECONDS_END: Final = 19
_INSTANT_END: Final = "+00"
_YEAR_DIGITS: Final = 4


def types_read(columns: Sequence[Column]) -> list[str]:
    """Return for each column the type as which the driver reads the column's text."""
    return [_type_read(column.type) for column in columns]


def from_server(columns: Sequence[Column], declared: Sequence[str], rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows with SQLite's values.

    Args:
        columns: The columns of the table on the server.
        declared: The declared type of each column in SQLite.
        rows: The rows as the driver reads them with `types_read`.
    """
    converts = [
        (position, convert)
        for position, column in enumerate(columns)
        if (convert := _reading(column.type, declared[position].upper())) is not None
    ]
    return _converted(rows, converts) if converts else iter(rows)


def to_server(columns: Sequence[Column], rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows with values that the driver writes in the server's text format.

    Raises:
        ValueRefusedError: The server has no such value.
    """
    converts = [
        (position, convert)
        for position, column in enumerate(columns)
        if (convert := _writing(column)) is not None
    ]
    return _converted(rows, converts)


def compared_columns(columns: Sequence[Column]) -> dict[int, Compared]:
    """Return what of the values is compared after a copy, for columns whose values may come back as another text.

    Of a type that is not listed here, such as ``interval``, only the existence of the value is compared: its text has many forms.
    """
    return {
        position: _COMPARED.get(column.type, existence)
        for position, column in enumerate(columns)
        if column.type not in _AS_STORED
    }


def as_stored(columns: Sequence[Column], rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows of a SQLite file with the values that the server returns after it stored them."""
    converts = [
        (position, _NORMAL[column.type]) for position, column in enumerate(columns) if column.type in _NORMAL
    ]
    return _converted(rows, converts) if converts else iter(rows)


class ValueRefusedError(Exception):
    """The server cannot store a value. The message says why, without the value."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"column {column!r}: {reason}")


def instant_text(text: str) -> str:
    """Return the server's text of an instant in UTC as all back ends return it: ``2026-01-31T09:30:00.000000Z``.

    An instant without this form, such as ``infinity`` or one before Christ, stays as it is; the server reads it again.
    """
    if not text.endswith(_INSTANT_END) or text[_YEAR_DIGITS] != "-":
        return text
    fraction = text[_SECONDS_END + 1 : -len(_INSTANT_END)]
    return f"{text[:10]}T{text[11:_SECONDS_END]}.{fraction:0<6}Z"


def _type_read(type_: str) -> str:
    if type_ in INTEGERS or type_ in FLOATS or type_ == "bytea":
        return type_
    return "text"


def _reading(type_: str, declared: str) -> Convert | None:
    if (convert := _READ.get(type_)) is not None:
        return convert
    return _READ_AS.get((type_, declared))


def _writing(column: Column) -> Convert | None:
    name = column.name
    if column.type == "uuid":
        return lambda value: _uuid_text(name, value)
    if column.type == "bytea":
        return lambda value: _only_bytes(name, value)
    return lambda value: _plain(name, value)


def _converted(rows: Iterable[Row], converts: Sequence[tuple[int, Convert]]) -> Iterator[Row]:
    for row in rows:
        values = list(row)
        for position, convert in converts:
            if (value := values[position]) is not None:
                values[position] = convert(value)
        yield tuple(values)


def _without_negative_zero(value: float) -> float:
    return value + 0.0  # SQLite stores 0.0 for -0.0


def _truth(text: str) -> int:
    return int(text == "t")


def _uuid_bytes(text: str) -> bytes:
    return UUID(text).bytes


def _uuid_text(column: str, value: object) -> str:
    if isinstance(value, bytes):
        try:
            return str(UUID(bytes=value))
        except ValueError:
            raise ValueRefusedError(column, f"a UUID has 16 bytes, not {len(value)}") from None
    text: str = _plain(column, value)
    return text


def _only_bytes(column: str, value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueRefusedError(column, f"the value is of type {type(value).__name__}, not bytes")
    return value


def _plain(column: str, value: Any) -> Any:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueRefusedError(column, "the text has a NUL, which PostgreSQL cannot store")
    elif isinstance(value, bytes):
        raise ValueRefusedError(column, "the value is of type bytes")
    return value


def _normal_instant(value: Any) -> Any:
    """Return the text that `instant_text` gives after the server stored this text."""
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            return value
        known = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        return f"{known:%Y-%m-%dT%H:%M:%S}.{known.microsecond:06d}Z".rjust(27, "0")
    return value


def _normal_local_time(value: Any) -> Any:
    """Return the server's text of a ``timestamp``, which has no zone and no zeros at its end."""
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            return value
        return f"{time:%Y-%m-%d %H:%M:%S.%f}".rstrip("0").rstrip(".").rjust(_SECONDS_END, "0")
    return value


def _normal_uuid(value: Any) -> Any:
    return str(UUID(value)) if isinstance(value, str) else value


_NORMAL: Final = {"timestamp": _normal_local_time, "timestamptz": _normal_instant, "uuid": _normal_uuid}
_READ: Final[dict[str, Convert]] = {
    "bool": _truth,
    "timestamptz": instant_text,
    **dict.fromkeys(FLOATS, _without_negative_zero),
}
_READ_AS: Final[dict[tuple[str, str], Convert]] = {
    ("uuid", "BLOB"): _uuid_bytes,
    ("numeric", "INTEGER"): int,
    ("numeric", "REAL"): float,
}
