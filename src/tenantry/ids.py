"""Tenant ids.

An id is 1 to 48 characters of ``a-z``, ``0-9`` and inner ``-``, beginning with a letter. That is at
once a safe path part, a DNS label (RFC 1035, section 2.3.1) and, with a prefix, an unquoted PostgreSQL
identifier of fewer than 63 bytes. It is parsed once, at the boundary; inside, a `TenantId` is trusted.
"""

import re
from typing import NewType

from tenantry.errors import InvalidTenantIdError, QueryError

TenantId = NewType("TenantId", str)

TENANT_ID_CHARACTERS_MAX = 48
TENANT_ID_PATTERN = r"[a-z](?:[a-z0-9-]{0,46}[a-z0-9])?"
"""The form of a tenant id, for a full match."""
ID_PREFIX_PATTERN = rf"^[a-z0-9-]{{1,{TENANT_ID_CHARACTERS_MAX}}}$"
"""What tenant ids may begin with."""

_SHOWN_CHARACTERS_MAX = 80
_TENANT_ID = re.compile(TENANT_ID_PATTERN)


def parse_tenant_id(value: object) -> TenantId:
    """Return `value` as a `TenantId`.

    Raises:
        InvalidTenantIdError: It is not a string, or not of the form that this module describes.
    """
    if isinstance(value, str) and _TENANT_ID.fullmatch(value):
        return TenantId(value)
    # Bounded: the text may come from anyone, and ends up in logs.
    shown = repr(value)[:_SHOWN_CHARACTERS_MAX]
    raise InvalidTenantIdError(
        f"{shown} is not a tenant id: use 1 to {TENANT_ID_CHARACTERS_MAX} characters of a-z, 0-9 and "
        "inner '-', beginning with a letter",
        tenant_id=value if isinstance(value, str) else None,
    )


def check_id_prefix(value: str) -> str:
    """Return `value`, with which tenant ids may begin.

    Raises:
        QueryError: None does.
    """
    if not re.fullmatch(ID_PREFIX_PATTERN, value):
        raise QueryError(
            f"no tenant id begins with {value[:_SHOWN_CHARACTERS_MAX]!r}: use 1 to {TENANT_ID_CHARACTERS_MAX} characters of "
            "a-z, 0-9 and '-'"
        )
    return value
