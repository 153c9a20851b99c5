"""The manifest of a snapshot or a bundle; it describes the contents, and its seal shows whether a byte of it was changed.

A manifest is JSON in exactly one form, with sorted keys, in ASCII, and with an indent of one. The field ``seal`` is the SHA-256 of
the manifest with an empty seal. All later formats must keep this form and the seal, so that a newer manifest can be distinguished
from a damaged manifest.
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
"""The id of a snapshot. Every id is valid as a part of an object's key."""
TenantUid = Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z._-]{1,64}$")]
"""A tenant's stable key, which is stored in the tenant's database and is part of the keys of the tenant's snapshots."""


class Manifest(BaseModel):
    """Describes the contents of a snapshot or a bundle.

    Attributes:
        format: The format version of the manifest and of the snapshot or bundle.
        kind: ``snapshot`` for a compressed database in object storage, or ``bundle`` for an archive that other programs can read.
        snapshot_id: The snapshot's id. In a bundle, the exported snapshot's id; None for an export of the tenant itself.
        tenant_id: The tenant's id when the manifest was made.
        tenant_uid: The tenant's stable key, which is also stored in the database.
        display_name: The tenant's name as people read it.
        created_at: The time of creation, in UTC.
        trigger: The cause of the snapshot or bundle (``manual``, ``schedule``, ``fleet``, ``export``).
        schema_versions: The version of each schema.
        row_counts: The number of rows in each table.
        database_bytes, database_sha256: The size and the SHA-256 of the plain SQLite file.
        stored_bytes, stored_sha256: The size and the SHA-256 of the stored, compressed object. In a bundle, these fields describe
            the plain database, because an archive cannot contain its own hash.
        tenantry_version, sqlite_version: The versions of tenantry and of SQLite at creation.
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
            raise ValueError("the manifest of a snapshot needs a snapshot_id")
        is_stored_plain = (self.stored_bytes, self.stored_sha256) == (
            self.database_bytes,
            self.database_sha256,
        )
        if self.kind == "bundle" and not is_stored_plain:
            raise ValueError(
                "the manifest of a bundle needs stored_bytes and stored_sha256 that equal those of the database"
            )
        return self


def seal(manifest: Manifest) -> bytes:
    """Return the manifest as sealed bytes.

    Raises:
        SnapshotError: The manifest is larger than `MANIFEST_BYTES_MAX`, because the database has too many tables.
    """
    content = _sealed(manifest.model_dump(mode="json"))
    if len(content) > MANIFEST_BYTES_MAX:
        raise SnapshotError(
            f"the manifest has {len(content)} bytes, more than the limit of {MANIFEST_BYTES_MAX}: the database has too many tables"
        )
    return content


def unseal(content: bytes) -> Manifest:
    """Check the bytes that `seal` returned, and return the manifest.

    Raises:
        SnapshotCorruptError: A byte of the manifest was changed.
        SnapshotError: A newer tenantry wrote the manifest.
    """
    fields = _fields(content)
    if _sealed(fields) != content:
        raise SnapshotCorruptError("the manifest is corrupt: checksum mismatch")
    if fields.get("format") != FORMAT:
        raise SnapshotError(
            f"the manifest has format {str(fields.get('format'))[:20]} of a newer tenantry: use the newer tenantry"
        )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        raise SnapshotCorruptError(
            f"the manifest's checksum matches, but its content is not valid: {wrong_fields(error)}"
        ) from error
    if seal(manifest) != content:
        raise SnapshotCorruptError("the manifest's checksum matches, but its JSON lacks the required form")
    return manifest


def wrong_fields(error: ValidationError) -> str:
    """Return the names of a manifest's invalid fields, without their values, which an attacker may have written."""
    found = set()
    for detail in error.errors(include_input=False, include_url=False):
        name = detail["loc"][0] if detail["loc"] else "kind"
        found.add(str(name) if name in Manifest.model_fields else "an unknown field")
    return ", ".join(sorted(found))


def _fields(content: bytes) -> dict[str, Any]:
    """Return the fields of a manifest without the seal."""
    try:
        fields = json.loads(content.decode("ascii")) if len(content) <= MANIFEST_BYTES_MAX else None
    except (ValueError, RecursionError) as error:
        raise SnapshotCorruptError(f"the manifest is not JSON in ASCII: {error}") from error
    if not isinstance(fields, dict):
        raise SnapshotCorruptError(f"the manifest is not a JSON object of at most {MANIFEST_BYTES_MAX} bytes")
    fields.pop(_SEAL, None)
    return fields


def _sealed(fields: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(_text(fields, "")).hexdigest()
    return _text(fields, digest)


def _text(fields: dict[str, Any], seal_text: str) -> bytes:
    return json.dumps({**fields, _SEAL: seal_text}, indent=1, sort_keys=True).encode("ascii") + b"\n"
