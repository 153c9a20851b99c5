"""Computes the paths of a tenant's files from the name of the tenant's directory.

The name of a directory is the id with which the tenant was created. If a later tenant is created with the same id, the name of the
later tenant's directory ends with a counter: ``acme.1``. A tenant id contains no dot, so two directory names never clash.
"""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.errors import InvalidTenantIdError
from tenantry.ids import TENANT_ID_PATTERN

_DIRECTORY_NAME: Final = re.compile(rf"{TENANT_ID_PATTERN}(?:\.[1-9][0-9]{{0,8}})?")

PATHS_MAX: Final = 1024
"""The number of tenants whose paths are remembered, because a busy tenant is opened again and again."""


class TenantPaths(NamedTuple):
    """The paths of one tenant's files."""

    directory: Path
    database: Path
    lock: Path


@lru_cache(maxsize=PATHS_MAX)
def tenant_paths(data_dir: Path, directory_name: str) -> TenantPaths:
    """Return the paths of a tenant's files; raise `InvalidTenantIdError` if the name of the tenant's directory is not valid.

    Two hexadecimal digits of a hash spread the directories over 256 parents, because a huge directory is slow to list.
    """
    if not _DIRECTORY_NAME.fullmatch(directory_name):
        raise InvalidTenantIdError(f"{directory_name!r} is not the name of a tenant's directory")
    spread = hashlib.sha256(directory_name.encode("ascii")).hexdigest()[:2]
    directory = data_dir.joinpath("tenants", spread, directory_name)
    return TenantPaths(directory, directory / "tenant.db", directory / "lock")
