"""What a store says about changes: of which commits its token tells, and of which its number."""

import os
import time
from pathlib import Path

import pytest

from stores import OPTIONS, open_store
from tenants import query

pytestmark = pytest.mark.usefixtures("each_engine")

FILES = sorted(set(OPTIONS) - {"memory"})


def age(directory: Path, seconds: float) -> None:
    """Make the last change of each file in the directory one of so many seconds ago."""
    past = time.time_ns() - int(seconds * 1e9)
    for path in directory.iterdir():
        os.utime(path, ns=(past, past))


@pytest.mark.parametrize("kind", FILES)
async def test_a_commit_of_another_connection_changes_both(kind: str, tmp_path: Path):
    """Between two commits token and number stay the same; a commit from outside changes both at once."""
    options = OPTIONS[kind](tmp_path)
    assert options.path is not None
    async with open_store(options) as store:
        age(tmp_path, 10)
        token, number = store.change_token(), await store.changes_by_others()
        assert token is not None
        assert (store.change_token(), await store.changes_by_others()) == (token, number)
        query(options.path, "CREATE TABLE others (n INTEGER)")
        assert store.change_token() is None, "a second commit might have the same time"
        assert await store.changes_by_others() != number
        age(tmp_path, 9)
        assert store.change_token() not in {None, token}


async def test_a_database_in_memory_has_no_token():
    """There is no file whose time would tell, so nothing is cached for long."""
    async with open_store(OPTIONS["memory"](Path())) as store:
        assert store.change_token() is None
        assert await store.changes_by_others() == await store.changes_by_others()


@pytest.mark.parametrize("kind", FILES)
async def test_a_database_that_is_gone_has_no_token(kind: str, tmp_path: Path):
    """A statement will say what is wrong with it."""
    options = OPTIONS[kind](tmp_path)
    assert options.path is not None
    async with open_store(options) as store:
        age(tmp_path, 10)
        moved = options.path.rename(tmp_path / "elsewhere.db")
        assert store.change_token() is None
        moved.rename(options.path)
