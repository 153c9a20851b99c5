"""The authority of a call: the caller's rights, and the tenant that the caller named.

A caller names a tenant by id. While the call waits, the id can be given to another tenant. A call under an authority therefore finds
only the tenant that the call was authorised for, and the caller's rights are checked again when the call begins.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from tenantry.errors import TenantNotFoundError
from tenantry.tenancy.tenant_record import TenantRecord


class Authority(Protocol):
    """The rights of a caller.

    Attributes:
        tenant_id: The id of the tenant that the caller named; None if the call concerns no single tenant.
        tenant_uid: The tenant's permanent key when the call was authorised; None if no tenant had the id.
    """

    @property
    def tenant_id(self) -> str | None: ...  # noqa: D102  # see above

    @property
    def tenant_uid(self) -> str | None: ...  # noqa: D102  # see above

    async def check(self) -> object:
        """Raise an error if the caller may no longer make the call."""


_authority: ContextVar[Authority | None] = ContextVar("tenantry_authority", default=None)


@contextmanager
def acting_under(authority: Authority) -> Iterator[None]:
    """Subject the calls in the block, and in tasks that are started in the block, to the authority."""
    token = _authority.set(authority)
    try:
        yield
    finally:
        _authority.reset(token)


async def check_authority() -> None:
    """Raise an error if the call has an authority and the caller may no longer make the call."""
    authority = _authority.get()
    if authority is not None:
        await authority.check()


def check_is_authorised(tenant: TenantRecord) -> None:
    """Raise an error if the call was authorised for a different tenant with the same id.

    Raises:
        TenantNotFoundError: The id was given to another tenant after the authorisation.
    """
    authority = _authority.get()
    if authority is None or authority.tenant_id != tenant.id:
        return
    if authority.tenant_uid not in {None, tenant.uid}:
        raise TenantNotFoundError(
            f"the id {tenant.id!r} was given to another tenant while this call waited, and the call was authorised for the "
            "earlier tenant: get the tenant's record, then call again",
            tenant_id=tenant.id,
        )
