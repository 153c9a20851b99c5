"""The pages about testing an application and about packs: their files are run as a user has them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from postgres_servers import Database
from tenants import HANG_SECONDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "testing.md", ROOT / "docs" / "packs.md"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with the files that the pages show."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, flags=re.DOTALL)
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    assert {name for name, _ in blocks} >= {"conftest.py", "test_invoices.py"}
    return tmp_path


def test_the_page_runs(project: Path, postgres_database: Database):
    """Each test of the pages passes, with nothing but the pages' files and the packs."""
    # Without the plugins that happen to be installed here, which take seconds to load.
    environment = {
        **os.environ,
        "TEST_POSTGRES_URL": postgres_database.url,
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
    assert "6 passed" in done.stdout
