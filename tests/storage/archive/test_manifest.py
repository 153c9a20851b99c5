"""Manifests: what is sealed comes back, and what was changed in any byte does not."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from samples import NOON, a_manifest
from strategies import manifests
from tenantry.errors import SnapshotCorruptError, SnapshotError
from tenantry.storage.archive.manifest import MANIFEST_BYTES_MAX, Manifest, seal, unseal


def sealed_by_hand(fields: dict[str, Any]) -> bytes:
    """Seal a text as the module's first lines say it is done."""
    unsealed = json.dumps({**fields, "seal": ""}, indent=1, sort_keys=True) + "\n"
    digest = hashlib.sha256(unsealed.encode()).hexdigest()
    return unsealed.replace('"seal": ""', f'"seal": "{digest}"').encode()


def fields_of(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest's text holds, without its seal."""
    fields: dict[str, Any] = json.loads(seal(manifest))
    del fields["seal"]
    return fields


def assert_corrupt(content: bytes) -> None:
    """Check that the text is found to be damaged."""
    with pytest.raises(SnapshotCorruptError):
        unseal(content)


@given(manifests())
def test_a_manifest_comes_back(manifest: Manifest):
    """Every valid manifest survives the text, and the same manifest gives the same bytes."""
    content = seal(manifest)
    assert unseal(content) == manifest
    assert seal(unseal(content)) == content


@given(manifests(), st.data())
def test_no_byte_can_be_another(manifest: Manifest, data: st.DataObject):
    """Wherever a byte of any manifest is replaced, removed or added, it is found out."""
    content = seal(manifest)
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1).filter(lambda byte: byte != content[at : at + 1]))
    assert_corrupt(content[:at] + byte + content[at + 1 :])
    assert_corrupt(content[:at] + content[at + 1 :])
    assert_corrupt(content[:at] + byte + content[at:])


def test_every_bit_counts():
    """Every single flipped bit of a manifest is found, in white space too."""
    content = seal(a_manifest())
    for at in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            assert_corrupt(bytes(flipped))


def test_every_byte_counts():
    """A manifest that was cut short anywhere, or has something after it, is none."""
    content = seal(a_manifest())
    for length in range(len(content)):
        assert_corrupt(content[:length])
    for more in (b"\n", b" ", b"\0", content):
        assert_corrupt(content + more)


def test_the_seal_is_what_the_documentation_says():
    """Others can check it: the digest of the text with an empty seal."""
    assert sealed_by_hand(fields_of(a_manifest())) == seal(a_manifest())


def test_the_order_of_entries_does_not_matter():
    """Equal manifests give equal bytes."""
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert seal(a_manifest(row_counts=one)) == seal(a_manifest(row_counts=other))


def test_instants_are_kept_in_utc():
    """The same instant told with another offset is the same manifest."""
    told = datetime(2026, 11, 23, 14, tzinfo=timezone(timedelta(hours=2)))
    assert seal(a_manifest(created_at=told)) == seal(a_manifest(created_at=NOON))
    assert unseal(seal(a_manifest(created_at=told))).created_at.tzinfo is UTC


def test_the_same_json_in_another_form_is_refused():
    """There is one form: what a formatter made of it was not written by us."""
    content = seal(a_manifest())
    fields = json.loads(content)
    for other in (
        json.dumps(fields),
        json.dumps(fields, indent=2, sort_keys=True) + "\n",
        json.dumps(dict(reversed(fields.items())), indent=1) + "\n",
        content.decode().replace("Acme", "\\u0041cme"),
    ):
        assert json.loads(other) == fields
        assert_corrupt(other.encode())


@pytest.mark.parametrize("number", [2, 0, 99_999, "2", None])
def test_a_newer_format_is_told_from_damage(number: object):
    """A manifest in a format that this code does not know is whole: the message says to use a newer tenantry."""
    newer = {**fields_of(a_manifest()), "format": number, "compression": "zstd"}
    with pytest.raises(SnapshotError, match="newer tenantry") as caught:
        unseal(sealed_by_hand(newer))
    assert not isinstance(caught.value, SnapshotCorruptError)
    assert_corrupt(sealed_by_hand(newer).replace(b"zstd", b"zsts"))


@pytest.mark.parametrize(
    "change",
    [
        {"database_bytes": "4096"},
        {"database_bytes": 4096.0},
        {"database_bytes": -1},
        {"database_bytes": 2**63},
        {"database_bytes": True},
        {"database_sha256": "AB" * 32},
        {"stored_sha256": ""},
        {"kind": "archive"},
        {"tenant_id": "../acme"},
        {"snapshot_id": "../x"},
        {"snapshot_id": None},
        {"created_at": "2026-11-23T12:00:00"},
        {"created_at": 0},
        {"row_counts": {"t": -1}},
        {"row_counts": []},
        {"unknown": 1},
        {"format": True},
        {"format": 1.0},
        {"display_name": "\ud800"},
        {"display_name": "a\0b"},
    ],
    ids=str,
)
def test_sealed_nonsense_is_refused(change: dict[str, Any]):
    """A seal proves that a text is whole, not that it makes sense."""
    assert_corrupt(sealed_by_hand({**fields_of(a_manifest()), **change}))


def test_a_missing_field_is_named():
    """The message says what is wrong with a sealed text."""
    fields = fields_of(a_manifest())
    del fields["tenant_uid"]
    with pytest.raises(SnapshotCorruptError, match="tenant_uid"):
        unseal(sealed_by_hand(fields))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"null\n",
        b"[]",
        b'"text"',
        b"1" * 5000,
        b"NaN",
        b"[" * 100_000,
        b'{"seal": ' * 50_000,
        b"{}\n",
        b"\xff\xfe{\0}\0",
        b" " * (MANIFEST_BYTES_MAX + 1),
    ],
    ids=lambda content: repr(content[:10]),
)
def test_anything_else_is_refused(content: bytes):
    """Whatever the bytes are, they are refused as damaged and do no harm."""
    assert_corrupt(content)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_arbitrary_bytes_are_refused(content: bytes):
    """Nothing gets by, and no other error comes out."""
    assert_corrupt(content)


def test_too_many_tables_are_refused_when_sealing():
    """What could not be read again is not written."""
    counts = {f"{number:0900d}": 0 for number in range(MANIFEST_BYTES_MAX // 900)}
    with pytest.raises(SnapshotError, match="too many tables"):
        seal(a_manifest(row_counts=counts))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("display_name", "\x1b[31m" * 100_000),
        ("trigger", "x" * 41),
        ("tenantry_version", "x" * 101),
        ("sqlite_version", " "),
        ("tenant_uid", "../other"),
        ("schema_versions", {f"pack_{number}": 1 for number in range(20_000)}),
        ("schema_versions", {"\x1b[31m": 1}),
        ("row_counts", {"x" * 1001: 1}),
        ("row_counts", {f"t{number}": 1 for number in range(10_001)}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_texts_have_limits(field: str, value: object):
    """A manifest that others have sealed is refused for a text that is too long or too many; the error repeats none of it."""
    with pytest.raises(SnapshotCorruptError) as caught:
        unseal(sealed_by_hand({**fields_of(a_manifest()), field: value}))
    assert field in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_unknown_field_is_not_repeated():
    """Its name is somebody else's text."""
    with pytest.raises(SnapshotCorruptError, match="an unknown field") as caught:
        unseal(sealed_by_hand({**fields_of(a_manifest()), "\x1b[31m" * 10_000: 1}))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "change",
    [
        {"snapshot_id": None},
        {"kind": "bundle"},
        {"created_at": datetime(2026, 11, 23, 12)},  # noqa: DTZ001  # naive on purpose
        {"database_sha256": "ab"},
        {"tenant_id": "Acme"},
        {"trigger": " "},
    ],
    ids=str,
)
def test_impossible_manifests_cannot_be_made(change: dict[str, Any]):
    """A snapshot has an id, a bundle's stored file is the database, and each field is what its name says."""
    with pytest.raises(ValidationError):
        a_manifest(**change)


def test_a_manifest_does_not_change():
    """A manifest is a value."""
    with pytest.raises(ValidationError):
        a_manifest().tenant_id = "other"  # type: ignore[misc]
