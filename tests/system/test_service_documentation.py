"""What README.md, docs/service.md and the Makefile show is run as it stands, but for the port."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from typer.main import get_command

from commands import environment
from free_ports import reserved_port
from tenantry.cli import app
from tenantry.cli.exits import MEANINGS
from tenants import HANG_SECONDS, read_line

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def snippet(name: str, page: str = PAGE) -> str:
    """Return the commands that a page marks with this name."""
    [found] = re.findall(
        rf"test_service_documentation\.py: {name} -->\n```sh\n(.*?)```", page, flags=re.DOTALL
    )
    return found


@pytest.fixture
def env() -> dict[str, str]:
    """The environment of someone who has installed tenantry, with a port that is free."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return environment(PATH=path, PORT=str(reserved_port()), NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")


def run(script: str, cwd: Path, env: dict[str, str]) -> str:
    """Run commands, each of which has to succeed, and return what they print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def running(command: list[str], cwd: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a service that is ended as Ctrl-C ends it, with everything that it started."""
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it ended by itself, and the test says so
                os.killpg(process.pid, signal.SIGINT)


def test_the_page_from_the_first_key_to_the_last_line(tmp_path: Path, env: dict[str, str]):
    """Key, service and every curl line work in a fresh directory as they are written."""
    run(snippet("key"), tmp_path, env)
    assert (tmp_path / ".tenantry" / "admin.key").stat().st_mode & 0o077 == 0
    with running(["bash", "-c", snippet("serve")], tmp_path, env) as process:
        assert read_line(process).endswith(f"at http://127.0.0.1:{env['PORT']}")
        printed = run(snippet("curl"), tmp_path, env)
    assert printed.startswith("ok\n")
    for part in (
        '"state":"suspended"',
        '"calls_per_second_max":200',
        "event: succeeded",
        '"id":"acme-test"',
        "# TYPE",
    ):
        assert part in printed
    assert (tmp_path / "acme.tar.gz").stat().st_size > 0


def test_make_serve(tmp_path: Path, env: dict[str, str]):
    """``make serve`` makes a key once, and anew where the data is gone; the README's curl lines work with it, also again."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    # The set-up is what the tests run in.
    command = [
        "make",
        "--silent",
        f"BIN={BIN}",
        f"--old-file={BIN}/python",
        "--old-file=.venv/.runtime",
        "serve",
    ]
    place, url = tmp_path / ".tenantry", f"http://127.0.0.1:{env['PORT']}"
    keys = []
    for is_new in (True, False, True):
        with running(command, tmp_path, env) as process:
            assert (
                read_line(process)
                == f"the console is at {url}/console/, the key to it in .tenantry/admin.key"
            )
            assert read_line(process).endswith(f"at {url}")
            keys.append((place / "admin.key").read_text())
            assert httpx.get(f"{url}/console/", trust_env=False, timeout=HANG_SECONDS).status_code == 200
            printed = run(snippet("curl", README), tmp_path, env)
            assert '"state":"suspended"' in printed
            assert "# TYPE" in printed
            assert (place / "admin.header").stat().st_mode & 0o077 == 0
        if not is_new:
            shutil.rmtree(place / "data")
    assert keys[0] == keys[1] != keys[2]


def test_every_exit_code_is_in_the_page():
    """The page's table of exit codes is the command line's own, and ``--help`` has it too."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert rows == [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]


def test_every_command_is_in_the_page():
    """No command is missing in the page's table."""
    table = PAGE.partition("| command | does |")[2]
    for name, command in get_command(app).commands.items():
        for one in getattr(command, "commands", {name: None}):
            assert re.search(rf"^\|[^|]*`({name} )?{one}[` ]", table, flags=re.MULTILINE), f"{name} {one}"
