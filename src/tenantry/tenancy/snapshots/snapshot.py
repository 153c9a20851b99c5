"""A snapshot as callers see it, and the ids of snapshots."""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from tenantry.errors import SnapshotNotFoundError
from tenantry.storage.archive.manifest import Manifest

# Sorts by time; safe as a part of a path and of an object's key.
_SNAPSHOT_ID: Final = re.compile(r"[0-9]{8}t[0-9]{12}z-[0-9a-f]{8}")


class Snapshot(BaseModel):
    """A tenant's database as it was at one time, stored elsewhere.

    Attributes:
        id: Its id; ids sort by time.
        tenant_id: The id that the tenant had at that time.
        tenant_uid: The tenant's stable key.
        created_at: The time, in UTC; every write that was acknowledged before it is in the snapshot.
        trigger: What asked for it: ``manual``, ``schedule``, ``fleet`` or a word of the caller's.
        schema_versions: The version of each schema.
        row_counts: How many rows each table had.
        database_bytes: The size of the database.
        stored_bytes: The size of the stored object, compressed.
        database_sha256: The SHA-256 of the database's file, in hexadecimal.
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
    """Ids of snapshots by their dates.

    Attributes:
        past: Those dated in the past, newest first.
        future: Those dated in the future, because the clock was ahead when they were taken; newest first.
    """

    past: list[str]
    future: list[str]


def newest_first(ids: Iterable[str], latest_plausible: datetime) -> DatedIds:
    """Sort ids by date, apart from those dated in the future: their true order is not known."""
    dated = DatedIds([], [])
    future_begin = begin_of_ids(latest_plausible)
    for snapshot_id in sorted(ids, reverse=True):
        (dated.future if snapshot_id > future_begin else dated.past).append(snapshot_id)
    return dated


def begin_of_ids(instant: datetime) -> str:
    """Return what the ids of an instant begin with."""
    return f"{instant:%Y%m%dt%H%M%S%f}"


def new_snapshot_id(now: datetime) -> str:
    """Return an id for a snapshot that is taken now."""
    return f"{begin_of_ids(now)}z-{secrets.token_hex(4)}"


def is_snapshot_id(value: str) -> bool:
    """Return whether a text has the form of a snapshot's id."""
    return _SNAPSHOT_ID.fullmatch(value) is not None


def check_snapshot_id(value: object, *, prefix: str = "") -> str:
    """Return `value` if it is a prefix and then the form of a snapshot's id.

    Args:
        value: As the caller gave it.
        prefix: The prefix of a restore point's id; empty for a snapshot's.

    Raises:
        SnapshotNotFoundError: It is not, so no snapshot has this id.
    """
    if isinstance(value, str) and value.startswith(prefix) and _SNAPSHOT_ID.fullmatch(value[len(prefix) :]):
        return value
    kind = "restore point" if prefix else "snapshot"
    raise SnapshotNotFoundError(
        f"{str(value)[:80]!r} is not a {kind}'s id: take one from the list of the tenant's {kind}s"
    )
