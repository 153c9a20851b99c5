"""Converts rows to pydantic models and dataclasses."""

from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from tenantry.errors import MalformedRowError, QueryError
from tenantry.sql.row import Row

ModelT = TypeVar("ModelT")

_ROW_TYPES_MAX: Final = 256


def check_row_type(row_type: Any) -> None:
    """Check that rows can be converted to this type.

    Raises:
        QueryError: The type is not a pydantic model, a dataclass, or another type that pydantic can create from a dictionary.
    """
    try:
        _adapter(row_type)
    except (PydanticUserError, NameError, TypeError) as error:
        raise QueryError(
            f"row={row_type!r} cannot hold a row ({type(error).__name__}): pass a pydantic model or a dataclass"
        ) from error


def decode(row: Row, row_type: type[ModelT], *, statement: str, number: int) -> ModelT:
    """Return a row as a model. Each column sets the field with the same name.

    Raises:
        MalformedRowError: The row does not fit the model. The message contains the statement's name, the row's number and the names of
            columns, but no values.
    """
    try:
        values = dict(row)
    except KeyError as error:  # two columns have the same name
        why = error.args[0]
    else:
        try:
            model: ModelT = _adapter(row_type).validate_python(values)  # type: ignore[arg-type]  # mypy: no class is hashable
        except ValidationError as error:
            why = _describe(error)
        else:
            return model
    # The error has no `__cause__`, because the traceback of pydantic's error would quote values.
    raise MalformedRowError(
        f"{statement}: row {number} does not fit {row_type.__name__}: {why}", entity=row_type.__name__
    )


def _describe(error: ValidationError) -> str:
    # Only column names are shown, because pydantic's message quotes values, and a path into a value may contain parts of the value.
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return ", ".join(
        f"{detail['loc'][0] if detail['loc'] else 'the row as a whole'} ({detail['type']})"
        for detail in details
    )


@lru_cache(maxsize=_ROW_TYPES_MAX)
def _adapter(row_type: Any) -> TypeAdapter[Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(row_type)
    adapter.rebuild()  # an undefined type in the model raises here, not after a write
    return adapter
