"""The names of the schemas of one tenant.

A tenant's location is its schema: ``tenant_`` with the tenant's id, whose ``-`` become ``_``. A later tenant with the same id gets a
counter: ``tenant_acme.1``. Beside the tenant's schema are ``<location>.new``, the staged database of a restore, and
``<location>.p1``, ``<location>.p2`` and so on, the restore points. No id contains a dot, so no tenant's schema has such a name: an id
such as ``acme--new`` is valid. The comment of a staged schema and of a restore point is the restore point's name, because names of
schemas are limited to 63 bytes.
"""

import re
from collections.abc import Collection
from itertools import count
from typing import Final

from tenantry.ids import TenantId

CATALOG: Final = "tenantry"
"""The schema of the catalog."""

_PREFIX: Final = "tenant_"
_STAGED: Final = ".new"
_POINT: Final = ".p"


def location_of(tenant_id: TenantId) -> str:
    """Return the schema of the first tenant with an id."""
    return f"{_PREFIX}{tenant_id.replace('-', '_')}"


def free_location(tenant_id: TenantId, taken: Collection[str]) -> str:
    """Return the first location of an id that is not taken."""
    first = location_of(tenant_id)
    names = (first, *(f"{first}.{number}" for number in range(1, len(taken) + 1)))
    return next(name for name in names if name not in taken)


def staged_schema(location: str) -> str:
    """Return the schema of a restored database before the exchange."""
    return f"{location}{_STAGED}"


def free_point_schema(location: str, taken: Collection[str]) -> str:
    """Return a schema for a new restore point."""
    return next(name for number in count(1) if (name := f"{location}{_POINT}{number}") not in taken)


def is_point_schema(location: str, schema: str) -> bool:
    """Return whether a schema is one of the tenant's restore points."""
    return re.fullmatch(rf"{re.escape(location + _POINT)}[0-9]+", schema) is not None


def is_location(schema: str) -> bool:
    """Return whether a schema is a tenant's database, and neither a staged database nor a restore point."""
    beside = rf"({re.escape(_STAGED)}|{re.escape(_POINT)}[0-9]+)$"
    return schema.startswith(_PREFIX) and re.search(beside, schema) is None
