"""Converts parameters to PostgreSQL's text format, and results to the five types of values of every back end.

Parameters are sent as texts without a type. The server takes the type from the statement, as SQLite takes it from the column, so one
value fits a column of type ``text``, ``timestamptz`` or ``jsonb``. Bytes are sent as binary.

Results have the types int, float, str, bytes and None. A boolean is 0 or 1, a ``numeric`` is an int if it has no decimal point, a
``uuid`` is 16 bytes, and a ``timestamptz`` is a text such as ``2026-01-31T09:30:00.000000Z``. Every other type is PostgreSQL's text.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantry.errors import QueryError
from tenantry.sql.row import Columns, Row
from tenantry.sql.statements import Fetch, Result, Statement

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_BINARY: Final = 1


class Encoded(NamedTuple):
    """The parameters of a statement.

    Attributes:
        values: The value of each placeholder; None for NULL.
        formats: 1 for each binary value and 0 for each text; None if all are texts.
        size_bytes: The size of the values.
    """

    values: list[bytes | None]
    formats: list[int] | None
    size_bytes: int


def encode(parameters: Sequence[object]) -> Encoded:
    """Encode the parameters of a statement.

    Raises:
        QueryError: A value cannot be sent. The message does not name the statement.
    """
    values: list[bytes | None] = []
    formats: list[int] | None = None
    size_bytes = 0
    for position, value in enumerate(parameters):
        dump = _DUMPS.get(type(value))
        try:
            encoded = dump(value) if dump is not None else _dump_other(value)
        except (QueryError, UnicodeEncodeError) as error:
            raise QueryError(f"parameter {position + 1} {_reason(error)}; nothing was sent") from error
        if encoded is not None:
            size_bytes += len(encoded)
            if encoded is value:
                formats = formats or [0] * len(parameters)
                formats[position] = _BINARY
        values.append(encoded)
    return Encoded(values, formats, size_bytes)


def _dump_text(value: str) -> bytes:
    encoded = value.encode()
    if b"\0" in encoded:
        raise QueryError(
            "contains the character NUL, which PostgreSQL cannot store in a text: remove the character, or store bytes"
        )
    return encoded


def _dump_null(_: None) -> None:
    return None


def _dump_int(value: int) -> bytes:
    return b"%d" % value


def _dump_float(value: float) -> bytes:
    return repr(value).encode()


def _dump_bytes(value: bytes) -> bytes:
    return value


_DUMPS: Final[dict[type, Callable[[Any], bytes | None]]] = {
    bool: _dump_int,  # PostgreSQL reads 0 and 1 as booleans too
    bytes: _dump_bytes,
    float: _dump_float,
    int: _dump_int,
    str: _dump_text,
    type(None): _dump_null,
}


def _dump_other(value: object) -> bytes:
    """Encode an instance of a subclass as its base type."""
    if isinstance(value, str):
        return _dump_text(str.__str__(value))
    if isinstance(value, int):
        return _dump_int(int(value))
    if isinstance(value, float):
        return _dump_float(float(value))
    raise QueryError(
        f"is of type {type(value).__name__}, but only None, int, float, str and bytes can be stored: convert it first"
    )


def _reason(error: QueryError | UnicodeEncodeError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"cannot be encoded as UTF-8 ({error.reason})"
    return str(error)


def _load_numeric(value: bytes) -> int | float:
    return int(value) if value.lstrip(b"-").isdigit() else float(value)


def _load_bool(value: bytes) -> int:
    return int(value == b"t")


def _load_bytes(value: bytes) -> bytes:
    return bytes.fromhex(value[2:].decode())


def _load_uuid(value: bytes) -> bytes:
    return bytes.fromhex(value.replace(b"-", b"").decode())


def _load_instant(value: bytes) -> str:
    """Convert ``2026-01-31 09:30:00.5+00``; an infinite time, or a time before the year 1, keeps PostgreSQL's text."""
    text = value.decode()
    day, _, time = text.partition(" ")
    if not time.endswith("+00"):
        return text
    seconds, _, fraction = time[:-3].partition(".")
    return f"{day}T{seconds}.{fraction:0<6}Z"


# By the type's number in the server's catalog (src/include/catalog/pg_type.dat).
_LOADS: Final[dict[int, Callable[[bytes], Any]]] = {
    16: _load_bool,
    17: _load_bytes,
    20: int,
    21: int,
    23: int,
    26: int,
    700: float,
    701: float,
    1184: _load_instant,
    1700: _load_numeric,
    2950: _load_uuid,
}


def load_rows(result: "PGresult", rows_max: int | None = None) -> list[tuple[Any, ...]]:
    """Return the rows of a result as tuples.

    Args:
        result: The result.
        rows_max: The most rows to convert; None for all.
    """
    loads = [_LOADS.get(result.ftype(column), bytes.decode) for column in range(result.nfields)]
    columns, get = list(enumerate(loads)), result.get_value
    count = result.ntuples if rows_max is None else min(rows_max, result.ntuples)
    return [
        tuple([None if (value := get(row, column)) is None else load(value) for column, load in columns])
        for row in range(count)
    ]


def fetched(statement: Statement, result: "PGresult", *, is_write: bool) -> Result:
    """Return what the statement's `Fetch` selects of a result that is not an error."""
    fetch = statement.fetch
    if fetch is Fetch.NONE:
        return None
    if fetch is Fetch.ROWCOUNT:
        return (result.command_tuples or 0) if is_write else 0
    if fetch is Fetch.ALL:
        return load_rows(result)
    if fetch is Fetch.ONE:
        rows = load_rows(result, 1)
        return rows[0] if rows else None
    columns = Columns(tuple((result.fname(column) or b"").decode() for column in range(result.nfields)))
    if fetch is Fetch.NAMED_ALL:
        return [Row(columns, values) for values in load_rows(result)]
    rows = load_rows(result, 1)
    return Row(columns, rows[0]) if rows else None
