"""The page about testing an application: its files are run as a user has them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tenants import HANG_SECONDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with the files that the page shows."""
    blocks = re.findall(
        r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    assert {name for name, _ in blocks} >= {"conftest.py", "test_invoices.py"}
    return tmp_path


def test_the_page_runs(project: Path):
    """Each test of the page passes, with nothing but the page's files and the pack."""
    # Without the plugins that happen to be installed here, which take seconds to load.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "examples"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "pytest",
        "-q",
        "-p",
        "anyio.pytest_plugin",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command,
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
