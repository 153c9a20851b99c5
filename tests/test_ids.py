"""Tenant ids: exactly one grammar, and no id that leads anywhere but below the data directory."""

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bad_ids import BAD_IDS
from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import InvalidTenantIdError
from tenantry.ids import TENANT_ID_CHARACTERS_MAX, parse_tenant_id
from tenantry.storage.sqlite.database_files.layout import tenant_paths

NOT_TEXT = [None, 7, 1.5, b"acme", ["acme"], True, ..., Path("acme")]

_LETTERS = string.ascii_lowercase
_INNER = _LETTERS + string.digits + "-"
# The grammar a second time, as a way to make one and not as a way to test one.
valid_ids = st.builds(
    lambda first, inner, last: first + inner + last,
    st.sampled_from(_LETTERS),
    st.text(_INNER, max_size=46),
    st.sampled_from(_LETTERS + string.digits),
) | st.sampled_from(_LETTERS)
near_misses = st.text(st.sampled_from(_INNER + "A._/\\\0\n \u0430"), max_size=52)


def is_valid(text: str) -> bool:
    """Return what the module's sentence says, without its regular expression."""
    return (
        1 <= len(text) <= 48
        and all(character in _INNER for character in text)
        and text[0] in _LETTERS
        and not text.endswith("-")
    )


@pytest.mark.parametrize("text", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_refuses(text: str):
    """What is no id is refused with an error that says what one is, carries the text and stays short."""
    with pytest.raises(
        InvalidTenantIdError, match="is not a tenant id: use 1 to 48 characters of a-z"
    ) as caught:
        parse_tenant_id(text)
    assert caught.value.tenant_id == text
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize("value", NOT_TEXT, ids=repr)
def test_refuses_what_is_no_text(value: object):
    """A value of another type is refused in the same way, never taken for its text."""
    with pytest.raises(InvalidTenantIdError) as caught:
        parse_tenant_id(value)
    assert caught.value.tenant_id is None


def test_is_a_value_error():
    """Frameworks that turn a ValueError into a refusal of the request do so with a bad id."""
    with pytest.raises(ValueError, match="is not a tenant id"):
        parse_tenant_id("..")


def test_a_huge_text_makes_a_short_message():
    """The text may come from anyone and ends up in logs."""
    with pytest.raises(InvalidTenantIdError) as caught:
        parse_tenant_id("A" * 1_000_000)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "text", ["a", "a1", "z-9", "acme", "a--b", "xn--bcher-kva", "a" * TENANT_ID_CHARACTERS_MAX]
)
def test_accepts(text: str):
    """The shortest, the longest, and what lies between."""
    assert parse_tenant_id(text) == text


@given(valid_ids)
def test_accepts_everything_of_the_grammar(text: str):
    """Whatever the grammar makes is an id."""
    assert parse_tenant_id(text) == text


@given(st.text(max_size=60) | near_misses)
def test_accepts_nothing_else(text: str):
    """Text is an id exactly when the documented sentence is true of it."""
    try:
        parse_tenant_id(text)
    except InvalidTenantIdError:
        assert not is_valid(text)
    else:
        assert is_valid(text)


@given(valid_ids, st.none() | st.integers(1, 999_999_999))
def test_no_path_leaves_the_data_directory(tenant_id: str, counter: int | None):
    """A tenant's files lie three levels below the data directory, whatever its id is and however often it was re-used."""
    data_dir = Path("/srv/data")
    name = tenant_id if counter is None else f"{tenant_id}.{counter}"
    paths = tenant_paths(data_dir, name)
    assert paths.directory.parts[:4] == (*data_dir.parts, "tenants")
    assert re.fullmatch(r"[0-9a-f]{2}", paths.directory.parts[4])
    assert paths.directory.parts[5:] == (name,)
    assert (paths.database.parent, paths.lock.parent) == (paths.directory, paths.directory)
    assert Path(*paths.directory.parts).resolve() == paths.directory


@given(valid_ids, valid_ids)
def test_two_tenants_never_share_a_directory(first: str, second: str):
    """Different ids give different directories."""
    same = tenant_paths(Path("d"), first) == tenant_paths(Path("d"), second)
    assert same == (first == second)


@pytest.mark.parametrize(
    "name",
    [
        *(text for text in BAD_IDS.values() if text != "acme.1"),
        *("acme.", "acme.0", "acme.01", "acme.-1", "acme.1.2", "acme.1\n", "acme.1234567890", ".1"),
    ],
    ids=ascii,
)
def test_refuses_directory_names(name: str):
    """The catalog is a file like any other: a directory's name that came out of it is not trusted."""
    with pytest.raises(InvalidTenantIdError):
        tenant_paths(Path("d"), name)


async def test_a_bad_id_touches_nothing(registry: TenantRegistry, data_dir: Path):
    """Every door of the registry refuses a bad id before anything is looked up or made."""
    before = snapshot(data_dir)
    for text in BAD_IDS.values():
        for call in (registry.create, registry.get, registry.suspend, registry.resume, registry.delete):
            with pytest.raises(InvalidTenantIdError):
                await call(text)
        with pytest.raises(InvalidTenantIdError):
            registry.tenant(text)
    assert snapshot(data_dir) == before
    assert await registry.list() == ()


def test_a_bad_id_needs_no_open_registry(data_dir: Path):
    """A handle is made without I/O, so its id is checked without any too."""
    with pytest.raises(InvalidTenantIdError):
        TenantRegistry(RegistryConfig(data_dir=data_dir)).tenant("..")
    assert not data_dir.exists()


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """Return each file below, with its size and the time of its last change."""
    return {
        str(path): (found.st_size, found.st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        for found in [path.stat()]
    }
