"""What the tests of the engine have: a rig on a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_rig import Rig
from tenantry.storage.sqlite.statements.execution import known_texts


@pytest.fixture(autouse=True)
def forgotten_texts() -> Iterator[None]:
    """Forget the texts that a test counted as authorized: in later tests they run in Python first."""
    before = dict(known_texts)
    yield
    known_texts.clear()
    known_texts.update(before)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A rig on a new file with one table."""
    rig = Rig(tmp_path / "rig.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, value)")
    yield rig
    rig.close()
