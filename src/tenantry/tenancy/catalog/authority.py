"""The authority of a call: the caller's rights, and the one tenant that the caller named.

A caller names a tenant by id. While the call waits, for its body or for its turn, a rename, or a purge and a creation, can give the
id to another company. A call that runs under an authority finds only the tenant that it was authorised for, and the caller's
rights are checked again when the call begins.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from tenantry.errors import TenantNotFoundError
from tenantry.tenancy.tenant_record import TenantRecord


class Authority(Protocol):
    """What a caller may do now.

    Attributes:
        tenant_id: The tenant that the caller named; None if the call concerns no single tenant.
        tenant_uid: The stable key of the tenant that had this id when the call was authorised; None if there was none.
    """

    @property
    def tenant_id(self) -> str | None: ...  # noqa: D102  # see above

    @property
    def tenant_uid(self) -> str | None: ...  # noqa: D102  # see above

    async def check(self) -> object:
        """Raise unless the caller may still make the call."""


_authority: ContextVar[Authority | None] = ContextVar("tenantry_authority", default=None)


@contextmanager
def acting_under(authority: Authority) -> Iterator[None]:
    """Limit the calls of the block to what the authority allows; tasks that begin in the block are limited too."""
    token = _authority.set(authority)
    try:
        yield
    finally:
        _authority.reset(token)


async def check_authority() -> None:
    """Raise the error of this context's authority if the caller may no longer make the call."""
    authority = _authority.get()
    if authority is not None:
        await authority.check()


def check_is_authorised(tenant: TenantRecord) -> None:
    """Raise if the call of this context was authorised for another tenant, which had the same id.

    Raises:
        TenantNotFoundError: The id was given to another tenant.
    """
    authority = _authority.get()
    if authority is None or authority.tenant_id != tenant.id:
        return
    if authority.tenant_uid not in {None, tenant.uid}:
        raise TenantNotFoundError(
            f"tenant {tenant.id!r} is not the one that this call was authorised for: the id was given to another tenant while "
            "the call waited; look at the tenant, then call again",
            tenant_id=tenant.id,
        )
