"""The options of a fleet job: its tenants and its limits. `Fleet.start` validates the options."""

import json
import math
import re
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import to_json

from tenantry.ids import ID_PREFIX_PATTERN
from tenantry.lifecycle import TenantState
from tenantry.texts import SCHEMAS_MAX, SchemaName

CONCURRENCY: Final = 8
JOB_FAILURES_MAX: Final = 10
ARGUMENTS_CHARACTERS_MAX: Final = 65_536
NESTED_MAX: Final = 32
"""The deepest nesting of JSON values. The API adds more levels around a value, and JSON parsers have a limit."""

_PERCENT: Final = re.compile(r"(?P<percent>\d{1,3}(?:\.\d{1,2})?)%")
_HUNDREDTHS: Final = 10_000  # 100% as hundredths of a percent

Fraction: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
FailuresMax: TypeAlias = Annotated[int, Field(ge=0, strict=True)] | Fraction | None


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    if len(as_json(arguments)) > ARGUMENTS_CHARACTERS_MAX:
        raise ValueError(
            f"the arguments exceed {ARGUMENTS_CHARACTERS_MAX} characters as JSON: store large values elsewhere"
        )
    return arguments


Arguments: TypeAlias = Annotated[dict[str, Any], AfterValidator(_check_arguments)]


class FleetOptions(BaseModel):
    """The options of a fleet job; see the parameters of `Fleet.start`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    states: Annotated[tuple[TenantState, ...], Field(min_length=1)] = (TenantState.ACTIVE,)
    id_prefix: Annotated[str, Field(pattern=ID_PREFIX_PATTERN)] | None = None
    below: Annotated[dict[SchemaName, int], Field(min_length=1, max_length=SCHEMAS_MAX)] | None = None
    canary: Annotated[int, Field(ge=1, strict=True)] | str | None = None
    concurrency: Annotated[int, Field(ge=1, le=1024)] = CONCURRENCY
    failures_max: FailuresMax = JOB_FAILURES_MAX
    canary_failures_max: FailuresMax = 0
    snapshot_before: bool = False
    return_on_failure: bool = False
    arguments: Arguments = {}

    @field_validator("canary")
    @classmethod
    def _check_canary(cls, canary: int | str | None) -> int | str | None:
        if isinstance(canary, str) and not 0 < _hundredths(canary) <= _HUNDREDTHS:
            raise ValueError("give a number of tenants, or a percentage above 0% and up to 100%")
        return canary

    @property
    def canary_size(self) -> tuple[int, int]:
        """The size of the first wave as two values: a number of tenants, and hundredths of a percent. One of the values is 0."""
        if isinstance(self.canary, str):
            return 0, _hundredths(self.canary)
        return self.canary or 0, 0


def failures_allowed(failures_max: float | None, total: int) -> float:
    """Return how many of `total` tenants may fail."""
    if failures_max is None:
        return math.inf
    return math.floor(failures_max * total) if 0 < failures_max < 1 else failures_max


def as_json(value: object) -> str:
    """Return `value` as JSON that SQLite and every client of the API can read.

    Raises:
        ValueError: The value cannot be written as JSON, or is nested deeper than `NESTED_MAX`.
    """
    _check_nesting(value, NESTED_MAX)
    try:
        to_json(
            value
        )  # to_json refuses lone surrogates; json.dumps accepts them, but UTF-8 cannot encode them
        return json.dumps(value, allow_nan=False, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"the value must be JSON: {error}") from error


def _check_nesting(value: object, levels_left: int) -> None:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if inner and not levels_left:
        raise ValueError(f"the value is nested deeper than {NESTED_MAX} levels")
    for one in inner:
        _check_nesting(one, levels_left - 1)


def _hundredths(share: str) -> int:
    match = _PERCENT.fullmatch(share)
    return round(float(match["percent"]) * 100) if match else 0
