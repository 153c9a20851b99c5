"""What one tenant may use: kept in the catalog, and changed while the tenant is open."""

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tenantry.config import Durability

DATABASE_BYTES_MIN = 64 * 1024
CALLS_PER_SECOND_MIN = 1e-6  # less would be years from one call to the next
DATABASE_BYTES_MAX = 2**48  # https://www.sqlite.org/limits.html, "Maximum Database Size"


def _check_number(value: object) -> object:
    # "5", or true for 1, was meant to be something else.
    if isinstance(value, bool | str | bytes):
        raise ValueError("must be a number")  # noqa: TRY004  # pydantic's validators raise this one
    return value


Number = BeforeValidator(_check_number)
"""Of a field: what is given is a number, and nothing that could be made one."""

Bytes = Annotated[int, Field(ge=DATABASE_BYTES_MIN, le=DATABASE_BYTES_MAX), Number]
Rate = Annotated[float, Field(ge=CALLS_PER_SECOND_MIN, le=1_000_000, allow_inf_nan=False), Number]
Calls = Annotated[int, Field(ge=1, le=1_000_000), Number]


class TenantLimits(BaseModel):
    """One tenant's limits; None is no limit of its own.

    Attributes:
        database_bytes_max: How large its database may grow; a write that needs more raises `StorageFullError`, reads go on.
            SQLite's own limit of pages (https://www.sqlite.org/pragma.html#pragma_max_page_count), so it is rounded down to
            a page.
        calls_per_second_max: How many calls it may make, in the long run; more raise `TenantRateLimitedError`. To open a
            transaction is a call, and so is each inside of it.
        calls_burst_max: How many of them at once after a pause; a second's worth, and at least one, if left out. It should
            not be less than what one transaction makes.
        calls_in_flight_max: How many of its calls may wait or run; more raise `TenantOverloadedError`. An open transaction
            is one, whatever is called inside of it.
        durability: When its writes are acknowledged, see `Durability`; the registry's setting if left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_bytes_max: Bytes | None = None
    calls_per_second_max: Rate | None = None
    calls_burst_max: Calls | None = None
    calls_in_flight_max: Calls | None = None
    durability: Durability | None = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.calls_burst_max is not None and self.calls_per_second_max is None:
            raise ValueError("calls_burst_max is a burst of calls_per_second_max: give that too, or neither")
        return self
