"""The limits of one tenant. The catalog stores the limits, which can be changed while the tenant is open."""

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tenantry.config import Durability

DATABASE_BYTES_MIN = 64 * 1024
CALLS_PER_SECOND_MIN = 1e-6  # one call in about twelve days
DATABASE_BYTES_MAX = 2**48  # https://www.sqlite.org/limits.html, "Maximum Database Size"


def _check_number(value: object) -> object:
    # Pydantic would convert "5" and true, but such values are probably mistakes.
    if isinstance(value, bool | str | bytes):
        raise ValueError("must be a number")  # noqa: TRY004  # pydantic's validators must raise ValueError
    return value


Number = BeforeValidator(_check_number)
"""A validator that refuses values that are not numbers, even if pydantic could convert them."""

Bytes = Annotated[int, Field(ge=DATABASE_BYTES_MIN, le=DATABASE_BYTES_MAX), Number]
Rate = Annotated[float, Field(ge=CALLS_PER_SECOND_MIN, le=1_000_000, allow_inf_nan=False), Number]
Calls = Annotated[int, Field(ge=1, le=1_000_000), Number]


class TenantLimits(BaseModel):
    """The limits of a tenant; a limit that is None does not apply.

    Attributes:
        database_bytes_max: The largest size of the tenant's database. A write that needs more space raises `StorageFullError`;
            reads still work. SQLite counts the size in pages (https://www.sqlite.org/pragma.html#pragma_max_page_count), so the limit
            is rounded down to a whole page.
        calls_per_second_max: The average rate of calls; more calls raise `TenantRateLimitedError`. Opening a transaction counts
            as a call, and so does each call inside a transaction.
        calls_burst_max: The number of calls that the tenant may make in a burst after a pause. The default is
            `calls_per_second_max`, but at least 1. The burst should not be smaller than the number of calls in a transaction.
        calls_in_flight_max: The number of the tenant's calls that may wait or run at the same time; more calls raise
            `TenantOverloadedError`. An open transaction counts as one call.
        durability: The time at which the tenant's writes are acknowledged, see `Durability`. The default is the registry's setting.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # The rule of `_check_together` as JSON Schema.
        json_schema_extra={
            "anyOf": [
                {"properties": {"calls_burst_max": {"type": "null"}}},
                {
                    "required": ["calls_per_second_max"],
                    "properties": {"calls_per_second_max": {"type": "number"}},
                },
            ]
        },
    )

    database_bytes_max: Bytes | None = None
    calls_per_second_max: Rate | None = None
    calls_burst_max: Calls | None = None
    calls_in_flight_max: Calls | None = None
    durability: Durability | None = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.calls_burst_max is not None and self.calls_per_second_max is None:
            raise ValueError("calls_burst_max needs calls_per_second_max: set both, or neither")
        return self
