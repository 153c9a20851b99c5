"""Tenant ids, and the one function that turns a tenant into paths.

An id is 1 to 48 characters of ``a-z``, ``0-9`` and inner ``-``, beginning with a letter. That is at
once a safe path part, a DNS label (RFC 1035, section 2.3.1) and, with a prefix, an unquoted PostgreSQL
identifier of fewer than 63 bytes. It is parsed once, at the boundary; inside, a `TenantId` is trusted.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple, NewType

from tenantry.errors import InvalidTenantIdError, QueryError

TenantId = NewType("TenantId", str)

TENANT_ID_CHARACTERS_MAX = 48
ID_PREFIX_PATTERN = rf"^[a-z0-9-]{{1,{TENANT_ID_CHARACTERS_MAX}}}$"
"""What tenant ids may begin with."""

_SHOWN_CHARACTERS_MAX = 80
_TENANT_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,46}[a-z0-9])?")
# A directory is named after the id that its tenant was created with. The id may change later, and be
# taken by another tenant, whose directory then carries a counter: ".1" can never be part of an id.
_DIRECTORY_NAME = re.compile(rf"{_TENANT_ID.pattern}(?:\.[1-9][0-9]{{0,8}})?")


class TenantPaths(NamedTuple):
    """Where one tenant's files lie."""

    directory: Path
    database: Path
    lock: Path


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


def tenant_paths(data_dir: Path, directory_name: str) -> TenantPaths:
    """Return the paths of the tenant whose directory has this name.

    Two hexadecimal digits of a hash spread the directories over 256 parents, so that no directory of a
    large fleet becomes slow to list.

    Raises:
        InvalidTenantIdError: The name could lead out of the data directory.
    """
    if not _DIRECTORY_NAME.fullmatch(directory_name):
        raise InvalidTenantIdError(f"{directory_name!r} is not the name of a tenant's directory")
    spread = hashlib.sha256(directory_name.encode("ascii")).hexdigest()[:2]
    directory = data_dir / "tenants" / spread / directory_name
    return TenantPaths(directory, directory / "tenant.db", directory / "lock")
