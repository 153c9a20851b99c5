"""A snapshot as its callers see it, and what kept files say of it."""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from tenantry.errors import SnapshotNotFoundError
from tenantry.storage.archive.manifest import Manifest

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


class DatedIds(NamedTuple):
    """Ids of snapshots by what their dates say.

    Attributes:
        past: Newest first.
        future: Those dated in the future, because the clock was ahead when they were made; newest first.
    """

    past: list[str]
    future: list[str]


def newest_first(ids: Iterable[str], latest_plausible: datetime) -> DatedIds:
    """Sort ids by their dates, without those dated in the future: which of them is the newest cannot be told."""
    dated = DatedIds([], [])
    future_begin = begin_of_ids(latest_plausible)
    for snapshot_id in sorted(ids, reverse=True):
        (dated.future if snapshot_id > future_begin else dated.past).append(snapshot_id)
    return dated


def begin_of_ids(instant: datetime) -> str:
    """Return how the ids of an instant begin: ids are in the order of time."""
    return f"{instant:%Y%m%dt%H%M%S%f}"


def new_snapshot_id(now: datetime) -> str:
    """Return an id for a snapshot that is made now."""
    return f"{begin_of_ids(now)}z-{secrets.token_hex(4)}"


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
