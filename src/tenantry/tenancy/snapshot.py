"""A snapshot as its callers see it, and what kept files say of it."""

import re
import secrets
from datetime import datetime
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from tenantry.errors import SnapshotNotFoundError
from tenantry.storage.manifest import Manifest

# In the order of time, also as text; safe as a part of a path and of an object's key.
_SNAPSHOT_ID: Final = re.compile(r"[0-9]{8}t[0-9]{12}z-[0-9a-f]{8}")


class Snapshot(BaseModel):
    """A tenant's database as it was at one moment, kept outside of it.

    Attributes:
        id: In the order of time.
        tenant_id: The id that the tenant had then.
        tenant_uid: Its stable key.
        created_at: The moment, in UTC; what was acknowledged before is in it.
        trigger: Why it was made: ``manual``, ``schedule``, ``fleet`` and the like.
        schema_versions: The version that each schema was at.
        row_counts: How many rows each table had.
        database_bytes: The size of the database.
        stored_bytes: What is kept of it, compressed.
        database_sha256: The digest of the database's file, in hexadecimal.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    tenant_id: str
    tenant_uid: str
    created_at: datetime
    trigger: str
    schema_versions: dict[str, int]
    row_counts: dict[str, int]
    database_bytes: int
    stored_bytes: int
    database_sha256: str

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return what a manifest says."""
        assert manifest.snapshot_id is not None
        fields = manifest.model_dump(include=set(cls.model_fields))
        return cls(id=manifest.snapshot_id, **fields)


def new_snapshot_id(now: datetime) -> str:
    """Return an id for a snapshot that is made now."""
    return f"{now:%Y%m%dt%H%M%S%f}z-{secrets.token_hex(4)}"


def is_snapshot_id(value: str) -> bool:
    """Return whether this is the form of a snapshot's id."""
    return _SNAPSHOT_ID.fullmatch(value) is not None


def check_snapshot_id(value: object, *, prefix: str = "") -> str:
    """Return `value` if it has the form of a snapshot's id, after a prefix.

    Raises:
        SnapshotNotFoundError: It has not, so there is none.
    """
    if isinstance(value, str) and value.startswith(prefix) and _SNAPSHOT_ID.fullmatch(value[len(prefix) :]):
        return value
    raise SnapshotNotFoundError(f"{str(value)[:80]!r} is not a snapshot's id: take one from snapshots.list()")
