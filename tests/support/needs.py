"""The programs and rights that a machine may lack. A test that needs one is skipped there, and fails if ``CI`` is set.

Import it by name (``tests/support`` is on pytest's path): ``from needs import needed_program``.
"""

import os
import shutil

import pytest


def needed_program(*names: str, package: str) -> str:
    """Return the path of the first of these programs that is installed.

    Args:
        names: The programs: each of them will do.
        package: The Debian package that has it.
    """
    path = next(filter(None, map(shutil.which, names)), None)
    need(path is not None, f"needs {' or '.join(names)}: apt-get install {package}")
    assert path is not None
    return path


def need(is_there: bool, message: str) -> None:  # noqa: FBT001  # what is needed is the point
    """Skip the test if something is missing; fail it where ``CI`` is set: there everything has to run.

    Args:
        is_there: Whether the machine has it.
        message: What is missing, and how to get it.
    """
    if is_there:
        return
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
