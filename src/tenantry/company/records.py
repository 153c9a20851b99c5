"""The common part of the four repositories: the mapping of models to rows, and the reading of pages.

Each column has the name of its field. Enums are stored as text, timestamps as text of fixed width, and tuples and nested
models as JSON. The model validates each row that is read.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

import pydantic_core
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tenantry.company.queries import Filters, Listing, Window
from tenantry.errors import MalformedRowError, QueryError
from tenantry.pages import Page, encode_cursor
from tenantry.sql.repository import Repository, placeholders
from tenantry.sql.statements import Statement, TupleRow

ModelT = TypeVar("ModelT", bound=BaseModel)

SAVE_MANY_ROWS_MAX = 10_000
_UUID_BYTES = 16


@dataclass(frozen=True, slots=True)
class RecordType(Generic[ModelT]):
    """The mapping of a model to its table.

    Attributes:
        entity: The model's name in errors.
        table: The table's name.
        model: The model. The column `seq`, the insertion number, is not a field of the model; all other columns are fields.
        key: The columns of the sort key, which are selected first.
        columns: The other columns.
        json: The JSON columns, each with the JSON of its field's default.
        named: The fields that identify a record, by their names in log events.
        malformed: The log event for a row that is not a valid model.
    """

    entity: str
    table: str
    model: type[ModelT]
    key: tuple[str, ...]
    columns: tuple[str, ...]
    json: Mapping[str, str]
    named: Mapping[str, str]
    malformed: str
    selected: tuple[str, ...] = field(init=False)
    """The columns of `select`, in the order of its rows."""
    _validate: Callable[[dict[str, object]], ModelT] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Compute the values that `decode` needs for every row."""
        object.__setattr__(self, "selected", self.key + self.columns)
        # `validate_python` is faster than `model_validate`, which calls `validate_python` with seven keyword arguments.
        object.__setattr__(self, "_validate", self.model.__pydantic_validator__.validate_python)

    @property
    def select(self) -> str:
        """The ``SELECT`` of all columns, without a ``WHERE``."""
        # The SQL contains only names that are constants of this package; values are always parameters.
        return f"SELECT {_names(self.selected)} FROM {self.table}"  # noqa: S608

    @property
    def insert(self) -> str:
        """The ``INSERT`` of all columns except `seq`, which the database assigns."""
        columns = self.inserted
        return f"INSERT INTO {self.table} ({_names(columns)}) VALUES ({placeholders(columns)})"  # noqa: S608

    @property
    def inserted(self) -> tuple[str, ...]:
        """The columns of `insert`, in the order of its parameters."""
        return tuple(column for column in self.selected if column != "seq")

    def decode(self, row: TupleRow) -> ModelT:
        """Return a selected row as a model.

        Raises:
            MalformedRowError: The row is not valid. The message names fields, never values.
        """
        fields = dict(zip(self.selected, row, strict=True))
        seq = fields.pop("seq", None)
        try:
            if "timestamp" in fields:
                # Pydantic would read the string "2026" as seconds since 1970.
                fields["timestamp"] = datetime.fromisoformat(fields["timestamp"])
            for name, empty in self.json.items():
                if fields[name] == empty:
                    del fields[name]
                else:
                    fields[name] = _from_json(fields[name])
            return self._validate(fields)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            record_id = _printable(fields.get("id", seq))
            raise MalformedRowError(
                f"the stored {self.entity} {record_id} is malformed: {_reason(error)}",
                entity=self.entity,
                record_id=record_id,
            ) from error


class RecordRepository(Repository, Generic[ModelT]):
    """A repository of one model's records."""

    _record_type: ClassVar[RecordType[ModelT]]

    def _decode(self, row: TupleRow, **asked: object) -> ModelT:
        """Return a row as a model; log a malformed row with the call's parameters."""
        try:
            return self._record_type.decode(row)
        except MalformedRowError as error:
            self._log.error(self._record_type.malformed, error=str(error), record_id=error.record_id, **asked)
            raise

    async def _page(
        self,
        listing: Listing,
        filters: Filters,
        *,
        window: Window | None = None,
        limit: int | None,
        cursor: str | None,
    ) -> Page[ModelT]:
        """Read one page; log a failure with the call's parameters."""
        asked = {**filters, **(window._asdict() if window else {}), "limit": limit, "cursor": cursor}
        try:
            statement, rows_max = listing.page(filters, window or Window(), limit=limit, cursor=cursor)
        except QueryError as error:
            self._log.failure(listing.failed, error, **asked)
            raise
        rows: list[TupleRow] = await self.read(statement, failed=listing.failed, **asked)
        records = [self._decode(row, **asked) for row in rows[:rows_max]]
        self._log.debug(listing.done, count=len(records), **asked)
        if len(rows) <= rows_max:
            return Page(records)
        last = rows[rows_max - 1]
        return Page(records, encode_cursor(listing.name, *last[: len(listing.order.columns)]))

    def _statements(
        self,
        operation: str,
        sql: str,
        parameters: Callable[[ModelT], tuple[object, ...]],
        records: Sequence[ModelT],
        *,
        failed: str,
    ) -> list[Statement]:
        """Return one statement for each record.

        Raises:
            QueryError: A record was made without validation, and its fields are not valid.
        """
        try:
            return [Statement(operation, sql, parameters(record)) for record in records]
        except Exception as error:
            refused = QueryError(
                f"a {self._record_type.entity} with invalid fields cannot be saved ({type(error).__name__}): "
                "model_copy and model_construct do not validate; use model_validate"
            )
            names = self._record_type.named.items() if len(records) == 1 else ()
            context = {name: getattr(records[0], field, None) for name, field in names}
            self._log.failure(failed, refused, count=len(records), **context)
            raise refused from error

    def _check_key(self, *, failed: str, **key: object) -> None:
        """Refuse a key that is not a string, because SQLite treats the number 5 as equal to the string '5'."""
        for name, value in key.items():
            if not isinstance(value, str):
                error = QueryError(f"{name} must be a string, not {type(value).__name__}")
                self._log.failure(failed, error, **key)
                raise error

    def _check_count(self, records: Sequence[ModelT], *, failed: str) -> None:
        """Refuse more records than the limit of one transaction."""
        if len(records) > SAVE_MANY_ROWS_MAX:
            error = QueryError(
                f"save_many takes at most {SAVE_MANY_ROWS_MAX} records, not {len(records)}: use several calls"
            )
            self._log.failure(failed, error, count=len(records))
            raise error


def to_json(value: BaseModel | Sequence[object]) -> str:
    """Return a nested model or a tuple as JSON, without fields that are None: None is always the default."""
    return pydantic_core.to_json(value, exclude_none=True).decode()


def _from_json(text: str) -> Any:
    """Return a JSON value; what pydantic's parser refuses, such as 200 nested lists, Python's parser may take."""
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        return json.loads(text)


def _names(columns: Sequence[str]) -> str:
    # Names are quoted because a field's name, such as `to`, may be an SQL keyword.
    return ", ".join(f'"{column}"' for column in columns)


def _printable(record_id: object) -> str:
    if isinstance(record_id, bytes):
        return str(UUID(bytes=record_id)) if len(record_id) == _UUID_BYTES else record_id.hex()
    return str(record_id)


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return type(error).__name__
    # The error's own text would quote values, and payloads are never logged.
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return ", ".join(f"{_location(detail)} ({detail['type']})" for detail in details)


def _location(detail: ErrorDetails) -> str:
    # The name of an unknown field is left out, because the name is part of the payload.
    known = detail["loc"][:-1] if detail["type"] == "extra_forbidden" else detail["loc"]
    return ".".join(map(str, known)) or "the record"
