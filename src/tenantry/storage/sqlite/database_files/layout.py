"""The paths of a tenant's files, which follow from the name of the tenant's directory.

The directory has the id with which its tenant was created. If a later tenant is created with the same id, the name of the later
tenant's directory ends with a counter: ``acme.1``. A tenant id has no dot, so the names never clash.
"""

import hashlib
import re
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.errors import InvalidTenantIdError
from tenantry.ids import TENANT_ID_PATTERN

_DIRECTORY_NAME: Final = re.compile(rf"{TENANT_ID_PATTERN}(?:\.[1-9][0-9]{{0,8}})?")


class TenantPaths(NamedTuple):
    """The paths of one tenant's files."""

    directory: Path
    database: Path
    lock: Path


def tenant_paths(data_dir: Path, directory_name: str) -> TenantPaths:
    """Return the paths of the tenant whose directory has this name.

    Two hexadecimal digits of a hash spread the directories over 256 parents, because a huge directory is slow to list.

    Raises:
        InvalidTenantIdError: The name is not valid, and could lead out of the data directory.
    """
    if not _DIRECTORY_NAME.fullmatch(directory_name):
        raise InvalidTenantIdError(f"{directory_name!r} is not the name of a tenant's directory")
    spread = hashlib.sha256(directory_name.encode("ascii")).hexdigest()[:2]
    directory = data_dir / "tenants" / spread / directory_name
    return TenantPaths(directory, directory / "tenant.db", directory / "lock")
