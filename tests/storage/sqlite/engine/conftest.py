"""What the tests of the engine have: a rig on a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A rig on a new file with one table."""
    rig = Rig(tmp_path / "rig.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, value)")
    yield rig
    rig.close()
