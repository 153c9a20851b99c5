"""Tests of the pack: ``pytest examples/test_notes.py``."""

import pytest
from notes import NOTES

from tenantry import TenantHandle

pytest_plugins = ["tenantry.testing.fixtures"]
tenantry_schemas = pytest.fixture(lambda: [NOTES], name="tenantry_schemas")
anyio_backend = pytest.fixture(lambda: "asyncio", name="anyio_backend")


@pytest.mark.anyio
async def test_pages_have_every_note_once(tenant: TenantHandle) -> None:
    """Pages follow each other, and a note has the name of its list."""
    for name, titles in (("inbox", ["a", "b"]), ("later", ["c"])):
        assert await tenant.notes.add(name, titles) == len(titles)
    first = await tenant.notes.page(limit=2)
    rest = await tenant.notes.page(after=first[-1].id)
    assert [f"{note.title} {note.list}" for note in (*first, *rest)] == ["a inbox", "b inbox", "c later"]
