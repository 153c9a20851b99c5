"""Rows as models: pydantic models and dataclasses."""

from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from tenantry.errors import MalformedRowError, QueryError
from tenantry.sql.row import Row

ModelT = TypeVar("ModelT")

_ROW_TYPES_MAX: Final = 256


def check_row_type(row_type: Any) -> None:
    """Raise unless rows can be turned into this type.

    Raises:
        QueryError: The type is neither a pydantic model nor a dataclass, nor another type that pydantic can make of a dictionary.
    """
    try:
        _adapter(row_type)
    except (PydanticUserError, NameError, TypeError) as error:
        raise QueryError(
            f"row={row_type!r} cannot hold a row ({type(error).__name__}): pass a pydantic model or a dataclass"
        ) from error


def decode(row: Row, row_type: type[ModelT], *, statement: str, number: int) -> ModelT:
    """Return a row as a model; each column is the field of its name.

    Args:
        row: The row.
        row_type: The model, see `check_row_type`.
        statement: The statement's name, for the error.
        number: The row's number in the result, from 1, for the error.

    Raises:
        MalformedRowError: The row does not fit the model. The message names the columns, never their values.
    """
    try:
        model: ModelT = _adapter(row_type).validate_python(dict(row))  # type: ignore[arg-type]  # mypy: no class is hashable
    except (ValidationError, KeyError) as error:
        why = error.args[0] if isinstance(error, KeyError) else _describe(error)
        # Without its cause: a traceback with pydantic's error would quote the values.
        raise MalformedRowError(
            f"{statement}: row {number} does not fit {row_type.__name__}: {why}", entity=row_type.__name__
        ) from None
    return model


def _describe(error: ValidationError) -> str:
    # Only the names of columns: pydantic's own text quotes values, and a path into a value may hold some of it.
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return ", ".join(
        f"{detail['loc'][0] if detail['loc'] else 'the row as a whole'} ({detail['type']})"
        for detail in details
    )


@lru_cache(maxsize=_ROW_TYPES_MAX)
def _adapter(row_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(row_type)
