"""SQLAlchemy's dialect for tenants on PostgreSQL: it compiles with ``?``, and converts to and from the values of tenantry's rows.

A store sends every parameter as text or bytes, and returns None, int, float, str and bytes, see `tenantry.storage.postgres.statements.values`. So the
types of this dialect convert a datetime to text and back, for example. Parameters that are not texts have a cast
(``?::TIMESTAMP WITH TIME ZONE``), as in SQLAlchemy's dialects for psycopg and asyncpg, because PostgreSQL cannot always infer their types.
Texts have no cast, so that they fit a column of any type, such as an enum or a column of texts for an ``Enum``.

The dialect's connections are never used. SQLAlchemy's engine for the dialect therefore needs a DBAPI only for its constants.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, Dialect, types
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.dialects.postgresql.base import PGDialect

Convert: TypeAlias = Callable[[Any], Any] | None

_SERVER_VERSION: Final = (15, 0)  # the oldest version that tenantry supports
_INTERVAL: Final = re.compile(
    r"(?:(?P<days>[+-]?\d+) days? ?)?(?:(?P<sign>[+-]?)(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+(?:\.\d+)?))?"
)


def _unless_none(convert: Callable[[Any], Any]) -> Convert:
    return lambda value: None if value is None else convert(value)


def _formatted(kind: type[Any], write: Callable[[Any], str]) -> Convert:
    """Return a converter that refuses values of another type in SQLAlchemy's words, and without the value."""

    def convert(value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, kind):
            raise TypeError(f"a column of this type only accepts Python {kind.__name__} objects as input.")
        return write(value)

    return convert


class _Integer(types.Integer):
    render_bind_cast = True


class _SmallInteger(types.SmallInteger):
    render_bind_cast = True


class _BigInteger(types.BigInteger):
    render_bind_cast = True


class _Boolean(types.Boolean):
    render_bind_cast = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        return _unless_none(bool)


class _Numeric(types.Numeric[Any]):
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002
        return _unless_none(str)

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        # The text of a float is the shortest one, so Decimal gets the digits that the application has written.
        return _unless_none(lambda value: Decimal(str(value)) if self.asdecimal else float(value))


class _Float(types.Float[Any]):
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002
        return _unless_none(float)

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        return _unless_none(lambda value: Decimal(str(value)) if self.asdecimal else float(value))


class _DateTime(types.DateTime):
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002
        return _formatted(datetime, datetime.isoformat)

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        return _unless_none(datetime.fromisoformat)


class _Date(types.Date):
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002
        return _formatted(date, date.isoformat)

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        return _unless_none(date.fromisoformat)


class _Time(types.Time):
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002
        return _formatted(time, time.isoformat)

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        return _unless_none(time.fromisoformat)


class _Interval(INTERVAL):
    render_bind_cast = True

    @classmethod
    def adapt_emulated_to_native(cls, interval: Any, **_: Any) -> "_Interval":  # type: ignore[override]  # SQLAlchemy's own has these names
        return cls(precision=interval.second_precision)

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002
        return _formatted(
            timedelta, lambda value: f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"
        )

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        return _unless_none(_interval)


def _interval(text: str) -> timedelta:
    """Return a duration; months and years have no fixed duration, so they are refused."""
    found = _INTERVAL.fullmatch(text)
    if found is None or not text:
        raise ValueError("not a number of days and seconds")
    hours, minutes, seconds = found["hours"] or 0, found["minutes"] or 0, found["seconds"] or 0
    clock = timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    return timedelta(days=int(found["days"] or 0)) + (-clock if found["sign"] == "-" else clock)


class _Uuid(types.Uuid[Any]):
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002
        return _unless_none(str)

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        return _unless_none(lambda value: _uuid(value) if self.as_uuid else str(_uuid(value)))


def _uuid(value: bytes | str) -> UUID:
    # A column of another type than uuid, such as text, gives a text.
    return UUID(bytes=value) if isinstance(value, bytes) else UUID(value)


class _LargeBinary(types.LargeBinary):
    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Convert:  # noqa: ARG002
        return _unless_none(bytes)

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert:  # noqa: ARG002
        return _unless_none(bytes)


class _IntegerIndex(types.JSON.JSONIntIndexType):
    __visit_name__ = "json_int_index"
    render_bind_cast = True


class _TextIndex(types.JSON.JSONStrIndexType):
    __visit_name__ = "json_str_index"
    render_bind_cast = True


class TenantryPostgres(PGDialect):
    """Compiles statements for tenants on PostgreSQL."""

    driver = "tenantry"
    default_paramstyle = "qmark"
    supports_statement_cache = True
    colspecs = PGDialect.colspecs | {
        types.BigInteger: _BigInteger,
        types.Boolean: _Boolean,
        types.Date: _Date,
        types.DateTime: _DateTime,
        types.Float: _Float,
        types.Integer: _Integer,
        types.Interval: _Interval,
        types.JSON.JSONIntIndexType: _IntegerIndex,
        types.JSON.JSONStrIndexType: _TextIndex,
        types.LargeBinary: _LargeBinary,
        types.Numeric: _Numeric,
        types.SmallInteger: _SmallInteger,
        types.Time: _Time,
        types.Uuid: _Uuid,
    }

    def initialize(self, connection: Connection) -> None:  # noqa: ARG002
        """Assume the oldest supported server instead of asking a server, because there is no connection."""
        self.server_version_info = _SERVER_VERSION
        self.default_schema_name = None
        self.supports_identity_columns = True
        self._backslash_escapes = False
