"""The names of a tenant's files. One function turns the name of a tenant's directory into paths.

A directory is named after the id that its tenant was created with. The id may change later and be given to another tenant,
whose directory then carries a counter: ``acme.1``. No tenant id contains a dot, so the two never clash.
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
