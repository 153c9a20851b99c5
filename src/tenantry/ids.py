"""Tenant ids.

A tenant id has 1 to 48 characters of ``a-z``, ``0-9`` and inner ``-``, and begins with a letter. Therefore an id is a safe part
of a path, a DNS label (RFC 1035, section 2.3.1) and, with a prefix, a PostgreSQL identifier of fewer than 63 bytes.
`parse_tenant_id` checks each id that enters the program; code that receives a `TenantId` does not check the id again.
"""

import re
from typing import NewType

from tenantry.errors import InvalidTenantIdError, QueryError

TenantId = NewType("TenantId", str)

TENANT_ID_CHARACTERS_MAX = 48
TENANT_ID_PATTERN = r"[a-z](?:[a-z0-9-]{0,46}[a-z0-9])?"
"""A regular expression for a whole tenant id."""
ID_PREFIX_PATTERN = rf"^[a-z0-9-]{{1,{TENANT_ID_CHARACTERS_MAX}}}$"
"""A regular expression for a prefix of tenant ids."""

_SHOWN_CHARACTERS_MAX = 80
_TENANT_ID = re.compile(TENANT_ID_PATTERN)


def parse_tenant_id(value: object) -> TenantId:
    """Return `value` as a `TenantId`.

    Raises:
        InvalidTenantIdError: The value is not a valid tenant id.
    """
    if isinstance(value, str) and _TENANT_ID.fullmatch(value):
        return TenantId(value)
    # The value may come from an untrusted client and is written to logs, so its length is limited.
    shown = repr(value)[:_SHOWN_CHARACTERS_MAX]
    raise InvalidTenantIdError(
        f"{shown} is not a tenant id: use 1 to {TENANT_ID_CHARACTERS_MAX} characters of a-z, 0-9 and "
        "inner '-', beginning with a letter",
        tenant_id=value if isinstance(value, str) else None,
    )


def check_id_prefix(value: str) -> str:
    """Return `value` if it can be the prefix of a tenant id.

    Raises:
        QueryError: No tenant id can begin with the value.
    """
    if not re.fullmatch(ID_PREFIX_PATTERN, value):
        raise QueryError(
            f"no tenant id begins with {value[:_SHOWN_CHARACTERS_MAX]!r}: use 1 to {TENANT_ID_CHARACTERS_MAX} characters of "
            "a-z, 0-9 and '-'"
        )
    return value
