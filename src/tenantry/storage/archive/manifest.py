"""What is known of a snapshot or a bundle, as a text in which every changed byte is found out.

The text is JSON in one form only: sorted keys, ASCII, an indent of one. Its field ``seal`` is the SHA-256 of this very text with an
empty seal. Every format to come keeps that, so that a manifest of a newer one is told from a damaged one.
"""

import hashlib
import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from tenantry.errors import SnapshotCorruptError, SnapshotError
from tenantry.ids import parse_tenant_id
from tenantry.texts import (
    SCHEMAS_MAX,
    TABLES_MAX,
    DisplayName,
    SchemaName,
    TableName,
    Trigger,
    VersionText,
)
from tenantry.values import Count, Sha256Str, Timestamp

FORMAT: Final = 1
MANIFEST_BYTES_MAX: Final = 1024 * 1024
_SEAL: Final = "seal"

SnapshotId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")]
"""A part of an object's key."""
TenantUid = Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z._-]{1,64}$")]
"""What tenants have in their databases and below which their snapshots are kept."""


class Manifest(BaseModel):
    """What a snapshot or a bundle holds.

    Attributes:
        format: Of the manifest and of what it describes.
        kind: A compressed database in object storage, or one archive that other programs read.
        snapshot_id: The snapshot; of a bundle, the one that it was made from, None if it was made from the tenant itself.
        tenant_id: The id that the tenant had then.
        tenant_uid: Stable for the tenant's life; its database carries it too.
        display_name: For people.
        created_at: An instant in UTC.
        trigger: What asked for it (``manual``, ``schedule``, ``fleet``, ``export``).
        schema_versions: The version that each schema is at.
        row_counts: How many rows each table has.
        database_bytes, database_sha256: Of the plain SQLite file.
        stored_bytes, stored_sha256: Of the object that is stored, compressed; in a bundle the database itself again, for an
            archive cannot hold its own digest.
        tenantry_version, sqlite_version: What made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    kind: Literal["snapshot", "bundle"]
    snapshot_id: SnapshotId | None = None
    tenant_id: Annotated[str, AfterValidator(parse_tenant_id)]
    tenant_uid: TenantUid
    display_name: DisplayName
    created_at: Timestamp
    trigger: Trigger
    schema_versions: Annotated[dict[SchemaName, Count], Field(max_length=SCHEMAS_MAX)]
    row_counts: Annotated[dict[TableName, Count], Field(max_length=TABLES_MAX)]
    database_bytes: Count
    database_sha256: Sha256Str
    stored_bytes: Count
    stored_sha256: Sha256Str
    tenantry_version: VersionText
    sqlite_version: VersionText

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "snapshot" and self.snapshot_id is None:
            raise ValueError("a snapshot has a snapshot_id")
        is_stored_plain = (self.stored_bytes, self.stored_sha256) == (
            self.database_bytes,
            self.database_sha256,
        )
        if self.kind == "bundle" and not is_stored_plain:
            raise ValueError(
                "a bundle stores the database itself: stored_bytes and stored_sha256 are the database's"
            )
        return self


def seal(manifest: Manifest) -> bytes:
    """Return the manifest as a sealed text.

    Raises:
        SnapshotError: It is larger than `MANIFEST_BYTES_MAX`: too many tables.
    """
    content = _sealed(manifest.model_dump(mode="json"))
    if len(content) > MANIFEST_BYTES_MAX:
        raise SnapshotError(
            f"the manifest has {len(content)} bytes and may have {MANIFEST_BYTES_MAX}: the database has too many tables"
        )
    return content


def unseal(content: bytes) -> Manifest:
    """Return the manifest of a sealed text.

    Raises:
        SnapshotCorruptError: It is not what `seal` returned, to the byte.
        SnapshotError: A newer tenantry made it.
    """
    fields = _fields(content)
    if _sealed(fields) != content:
        raise SnapshotCorruptError("the manifest was changed: its seal is not that of its text")
    if fields.get("format") != FORMAT:
        raise SnapshotError(
            f"the manifest has format {str(fields.get('format'))[:20]}, made by a newer tenantry: use that one"
        )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        raise SnapshotCorruptError(f"the manifest is sealed, but not valid: {wrong_fields(error)}") from error
    if seal(manifest) != content:
        raise SnapshotCorruptError("the manifest is sealed, but not in the form that a manifest has")
    return manifest


def wrong_fields(error: ValidationError) -> str:
    """Return the names of a manifest's fields that are wrong; not what they hold, for anybody may have written that."""
    found = set()
    for detail in error.errors(include_input=False, include_url=False):
        name = detail["loc"][0] if detail["loc"] else "kind"
        found.add(str(name) if name in Manifest.model_fields else "a field that is not known")
    return ", ".join(sorted(found))


def _fields(content: bytes) -> dict[str, Any]:
    """Return what the text holds, without its seal."""
    try:
        fields = json.loads(content.decode("ascii")) if len(content) <= MANIFEST_BYTES_MAX else None
    except (ValueError, RecursionError) as error:
        raise SnapshotCorruptError(f"the manifest is no JSON in ASCII: {error}") from error
    if not isinstance(fields, dict):
        raise SnapshotCorruptError(f"the manifest is no JSON object of at most {MANIFEST_BYTES_MAX} bytes")
    fields.pop(_SEAL, None)
    return fields


def _sealed(fields: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(_text(fields, "")).hexdigest()
    return _text(fields, digest)


def _text(fields: dict[str, Any], seal_text: str) -> bytes:
    return json.dumps({**fields, _SEAL: seal_text}, indent=1, sort_keys=True).encode("ascii") + b"\n"
