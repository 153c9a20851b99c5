"""The command line in this process, for tests of many command lines."""

from functools import cache

import pytest
import typer.testing
from typer.main import get_command


@pytest.fixture(autouse=True, scope="session")
def _made_once() -> None:
    """Make the tree of commands once: typer's runner makes it for each command line, which takes most of its time."""
    typer.testing._get_command = cache(get_command)
