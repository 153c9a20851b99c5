"""The public record of a snapshot, and the ids of snapshots."""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from tenantry.errors import SnapshotNotFoundError
from tenantry.storage.archive.manifest import Manifest

# The ids sort by time, and are safe in paths and in object keys.
_SNAPSHOT_ID: Final = re.compile(r"[0-9]{8}t[0-9]{12}z-[0-9a-f]{8}")


class Snapshot(BaseModel):
    """A stored copy of a tenant's database, taken at one moment.

    Attributes:
        id: The snapshot's id; ids sort by time.
        tenant_id: The tenant's id when the snapshot was taken.
        tenant_uid: The tenant's stable key.
        created_at: The snapshot's time, in UTC; the snapshot contains every write acknowledged before this time.
        trigger: The origin of the snapshot: ``manual``, ``schedule``, ``fleet`` or a word chosen by the caller.
        schema_versions: The version of each schema.
        row_counts: The number of rows in each table.
        database_bytes: The size of the database.
        stored_bytes: The size of the compressed object in the storage.
        database_sha256: The SHA-256 of the database file, in hexadecimal.
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
        """Return the snapshot that a manifest describes."""
        assert manifest.snapshot_id is not None
        fields = manifest.model_dump(include=set(cls.model_fields))
        return cls(id=manifest.snapshot_id, **fields)


class DatedIds(NamedTuple):
    """Ids of snapshots, separated by date.

    Attributes:
        past: The ids dated in the past, newest first.
        future: The ids dated in the future, newest first; the clock was ahead when these snapshots were taken.
    """

    past: list[str]
    future: list[str]


def newest_first(ids: Iterable[str], latest_plausible: datetime) -> DatedIds:
    """Sort ids by date, and separate the ids dated in the future, because their true order is unknown."""
    dated = DatedIds([], [])
    future_begin = begin_of_ids(latest_plausible)
    for snapshot_id in sorted(ids, reverse=True):
        (dated.future if snapshot_id > future_begin else dated.past).append(snapshot_id)
    return dated


def begin_of_ids(instant: datetime) -> str:
    """Return the prefix of the ids of snapshots that are taken at this instant."""
    return f"{instant:%Y%m%dt%H%M%S%f}"


def new_snapshot_id(now: datetime) -> str:
    """Return an id for a snapshot that is taken at `now`."""
    return f"{begin_of_ids(now)}z-{secrets.token_hex(4)}"


def is_snapshot_id(value: str) -> bool:
    """Return whether a string has the form of a snapshot id."""
    return _SNAPSHOT_ID.fullmatch(value) is not None


def check_snapshot_id(value: object, *, prefix: str = "") -> str:
    """Return `value` if the part after the prefix is a snapshot id.

    Args:
        value: The caller's argument, of any type.
        prefix: The prefix of restore points' names; empty for snapshots.

    Raises:
        SnapshotNotFoundError: `value` is not a valid id, so no snapshot or restore point has this id.
    """
    if isinstance(value, str) and value.startswith(prefix) and _SNAPSHOT_ID.fullmatch(value[len(prefix) :]):
        return value
    kind = "restore point" if prefix else "snapshot"
    raise SnapshotNotFoundError(
        f"{str(value)[:80]!r} is not a {kind}'s id: take an id from the list of the tenant's {kind}s"
    )
