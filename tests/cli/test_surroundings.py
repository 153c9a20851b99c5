"""Odd command lines, environments, files and places to print on: each ends with a sentence and an exit code, never with a traceback."""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands import WHERE, document, environment, service, tenantry
from needs import need
from tenantry import RegistryConfig, TenantRegistry
from tenantry.cli import app
from tenants import HANG_SECONDS
from warm_process import warm_process

SCRIPT = Path(sys.executable).with_name("tenantry")
NO_TEXT = os.fsdecode(b"\xff")
LONG = "x" * 300
HERE = ("--data-dir", "data")
ELSEWHERE = ("--url", "http://127.0.0.1:9")
ASCII = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with a data directory in it, and with what is no file and no directory."""
    # On a disk: doctor finds fault with a file system in memory.
    with tempfile.TemporaryDirectory() as directory:
        yield make_place(Path(directory))


def make_place(place: Path) -> Path:
    """Make what is in the directory, and return it."""

    async def prepare() -> None:
        async with TenantRegistry(RegistryConfig(data_dir=place / "data")) as registry:
            await registry.create("acme", display_name="Café ключ")

    asyncio.run(prepare())
    os.mkfifo(place / "fifo")
    (place / "file").write_text("none")
    return place


Case = tuple[list[str], dict[str, str], int, str]
CASES: list[Case] = [
    *(
        (
            ["tenant", "update", "acme", *HERE, "--limit", f"calls_per_second_max={number}"],
            {},
            2,
            "must be a number",
        )
        for number in ("NaN", "-Infinity", "1e999", "9" * 5000)
    ),
    (
        ["tenant", "update", "acme", *HERE, "--limit", r'durability="\ud800"'],
        {},
        2,
        "should be 'full' or 'normal'",
    ),
    (
        ["tenant", "update", "acme", *HERE, "--limit", "durability=" + "[" * 100_000],
        {},
        2,
        "should be 'full'",
    ),
    (["fleet", "start", "check", *HERE, "--canary", "nan"], {}, 2, "nor a share"),
    (["fleet", "start", "check", *HERE, "--failures-max", "inf"], {}, 2, "nor a share"),
    (["fleet", "start", "check", *HERE, "--below", f"company={'9' * 5000}"], {}, 2, "is not SCHEMA=VERSION"),
    *(
        (["fleet", "start", "check", *HERE, "--arguments", text], {}, 2, "not JSON")
        for text in ('{"a": NaN}', '{"a": 1e999}', r'{"a": "\ud800"}', "[" * 100_000)
    ),
    (["demo", "--seconds", "nan"], {}, 2, "--seconds"),
    ([NO_TEXT], {}, 2, "not valid UTF-8"),
    (["tenant", "create", "new", *HERE, "--display-name", NO_TEXT], {}, 2, "not valid UTF-8"),
    (["tenant", "list", "--data-dir", NO_TEXT], {}, 2, "not valid UTF-8"),
    (["tenant", "create", "new"], {"TENANTRY_DATA_DIR": NO_TEXT}, 2, "TENANTRY_DATA_DIR is not valid UTF-8"),
    (["tenant", "list"], {"TENANTRY_URL": f"http://{NO_TEXT}"}, 2, "TENANTRY_URL is not valid UTF-8"),
    (["tenant", "list", "--url", "http://a..b"], {}, 2, "is not a valid URL"),
    *(
        (["tenant", "list", *ELSEWHERE], {"NO_PROXY": "", **env}, code, said)
        for env, code, said in (
            ({"SSL_CERT_FILE": "/nowhere"}, 2, "SSL_CERT_FILE is a PEM file"),
            ({"SSL_CERT_FILE": __file__}, 2, "SSL_CERT_FILE is a PEM file"),
            ({"HTTP_PROXY": "odd://proxy"}, 2, "HTTP_PROXY"),
            ({"ALL_PROXY": "http://proxy:port"}, 2, "ALL_PROXY"),
            ({"ALL_PROXY": "http://["}, 3, "cannot be reached"),
        )
    ),
    *(
        ([*words, "--data-dir", ""], {}, 2, "the path is empty")
        for words in (["tenant", "create", "new"], ["serve"], ["demo"])
    ),
    (["tenant", "list", "--data-dir", "file"], {}, 3, "is not a data directory"),
    (["tenant", "create", "new", "--data-dir", "file"], {}, 3, "cannot be used"),
    (["doctor", "--data-dir", "file"], {}, 1, "has no catalog"),
    (["demo", "--data-dir", "file"], {}, 2, "cannot be used"),
    (["tenant", "list", "--data-dir", LONG], {}, 3, "the data directory cannot be read"),
    (["doctor", "--data-dir", LONG], {}, 3, "cannot read everything in"),
    (["demo", "--data-dir", LONG], {}, 2, "cannot be used"),
    (["demo"], {"TENANTRY_READ_THREADS": "many"}, 2, "TENANTRY_READ_THREADS"),
    (
        ["tenant", "list", *ELSEWHERE],
        {"TENANTRY_API_KYE": "x"},
        2,
        "a similar variable is TENANTRY_API_KEY",
    ),
    (["serve", *HERE], {"TENANTRY_DRAIN_SECOND": "1"}, 2, "a similar variable is TENANTRY_DRAIN_SECONDS"),
    (["tenant", "import", "new", "/dev/zero", *HERE], {}, 2, "is not a regular file"),
    (["tenant", "import", "new", "fifo", *HERE], {}, 2, "is not a regular file"),
    (["tenant", "import", "new", "data", *HERE], {}, 2, "is a directory"),
    (["tenant", "export", "acme", "fifo", "--force", *HERE], {}, 2, "is not a regular file"),
    (["serve", "--data-dir", "new", "--port", "8999", "--metrics-port", "8999"], {}, 2, "are both 8999"),
]


@pytest.mark.parametrize(
    ("arguments", "env", "code", "said"),
    CASES,
    ids=[" ".join(map(ascii, (*case[0], *case[1].items())))[:80] for case in CASES],
)
def test_what_is_odd_is_said(place: Path, arguments: list[str], env: dict[str, str], code: int, said: str):
    """A command that cannot work with what it was given says so in a sentence; nothing was made."""
    before = sorted(path.name for path in place.iterdir())
    done = tenantry(*arguments, cwd=place, env=env)
    said_in_full = " ".join((done.stdout + done.stderr).replace("│", " ").split())
    assert said in said_in_full
    assert "Traceback" not in said_in_full
    assert done.returncode == code
    assert sorted(path.name for path in place.iterdir()) == before


@pytest.mark.parametrize(
    "arguments", [["tenant", "list"], ["key", "create"], ["doctor"], ["demo"]], ids=" ".join
)
def test_a_directory_that_is_not_open_to_us(tmp_path: Path, arguments: list[str]):
    """What the operating system does not let us look into is said, whoever runs the tests: root becomes nobody for a moment."""
    path = tmp_path / "closed" / "data"
    path.mkdir(parents=True)
    path.parent.chmod(0o000)
    is_root, env = os.geteuid() == 0, dict.fromkeys(WHERE, "")
    # What a command reads of Python's and tenantry's own files nobody may not read: it has been read by then.
    importlib.import_module("tenantry.demo.report")
    CliRunner().invoke(app, ["key", "create", "--data-dir", str(tmp_path / "open")], env=env)
    if is_root:
        os.seteuid(65534)
    try:
        done = CliRunner().invoke(app, [*arguments, "--data-dir", str(path)], env=env)
    finally:
        if is_root:
            os.seteuid(0)
        path.parent.chmod(0o700)
    assert done.exit_code == (2 if arguments == ["demo"] else 3), done.output
    assert "Permission denied" in " ".join(done.stderr.replace("│", " ").split())


async def test_a_directory_of_another_user(data_dir: Path):
    """Root is told that what it makes in a service's directory would not be the service's; who only looks is not."""
    need(os.geteuid() == 0, "needs the right to give a directory away: run the tests as root")
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)):
        pass
    done = tenantry("tenant", "list", "--data-dir", data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    os.chown(data_dir, 65534, -1)
    done = tenantry("tenant", "list", "--json", "--data-dir", data_dir)
    assert (done.returncode, json.loads(done.stdout)["items"]) == (0, [])
    assert f"{data_dir} belongs to the user nobody" in done.stderr
    with service(data_dir, key="none") as running:
        assert "sudo -u nobody" in running.log_path.read_text()
    assert tenantry("doctor", "--data-dir", data_dir).stderr == ""


@pytest.mark.parametrize("env", ASCII, ids=["output", "locale"])
def test_output_that_takes_ascii_alone(place: Path, env: dict[str, str]):
    """What the output's encoding has no characters for is escaped: for programs as JSON has it."""
    said = tenantry("tenant", "get", "acme", *HERE, cwd=place, env=env)
    assert (said.returncode, said.stderr) == (0, "")
    assert r"Caf\xe9 \u043a" in said.stdout
    found = document(tenantry("tenant", "get", "acme", *HERE, "--json", cwd=place, env=env))
    assert found["display_name"] == "Café ключ"
    assert "Commands" in tenantry("tenant", "--help", env=env).stdout


def printed_on(target: int, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose standard output is this open file."""
    with Path(os.devnull).open("rb") as stdin, tempfile.TemporaryFile("w+") as stderr:
        streams = [stdin.fileno(), target, stderr.fileno()]
        process = warm_process().start(arguments, streams=streams, env=environment(), cwd=place)
        code = process.wait(HANG_SECONDS)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, None, stderr.read())


LISTS = [("tenant", "list", *HERE), ("tenant", "list", *HERE, "--json"), ("doctor", *HERE)]


@pytest.mark.parametrize("arguments", [*LISTS, ("--version",), ("--help",)], ids=" ".join)
def test_output_that_is_full(place: Path, arguments: tuple[str, ...]):
    """What cannot be printed is no success, and is said."""
    with Path("/dev/full").open("wb") as full:
        done = printed_on(full.fileno(), place, *arguments)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
def test_output_that_nobody_reads_any_more(place: Path, arguments: tuple[str, ...]):
    """A reader that has gone had enough: nothing is said, and the exit code is that of what was done."""
    ours, theirs = os.pipe()
    os.close(ours)
    done = printed_on(theirs, place, *arguments)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["1", "2"])
def test_output_that_is_closed(place: Path, closed: str):
    """With standard output or standard error closed a command does its work all the same."""
    script = f'"$0" tenant list --data-dir data --json {closed}>&-'
    done = subprocess.run(
        ["sh", "-c", script, SCRIPT],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "acme" in done.stdout or closed == "1"


def test_a_command_in_the_background_goes_on(tmp_path: Path):
    """What a script runs with Ctrl-C ignored ignores it."""
    script = 'trap "" INT; exec "$0" demo --json'
    with subprocess.Popen(
        ["sh", "-c", script, SCRIPT],
        cwd=tmp_path,
        env=environment(PYTHONPROFILEIMPORTTIME="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any(line.split()[-1] == "tenantry.errors" for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert any(line.split()[-1] == "tenantry.cli" for line in process.stderr)
        process.kill()


@pytest.mark.parametrize("module", ["tenantry.errors", "tenantry.cli.exits", "tenantry.demo.run", "fastapi"])
def test_interrupted_while_it_starts(tmp_path: Path, module: str):
    """Ctrl-C at any moment of the start ends it with 130, and says nothing."""
    env = environment(PYTHONPROFILEIMPORTTIME="1")
    arguments = ["demo"] if module != "fastapi" else ["tenant", "create", "acme", "--data-dir", "data"]
    with subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        # Python says of each module that it has been imported.
        assert any(line.split()[-1] == module for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(HANG_SECONDS) == 130
    assert [line for line in rest.splitlines() if not line.startswith("import time:")] == []


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_interrupted_demonstration(tmp_path: Path, options: list[str]):
    """Ctrl-C in the middle of the demonstration ends it with 130, says nothing, and leaves nothing."""
    command = [SCRIPT, "--log-level", "debug", "demo", *options]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert any("tenantry.tenant.opened" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(HANG_SECONDS) == 130
    # A line of the log begins with its time and its level.
    assert [line for line in rest.splitlines() if "Z [" not in line] == []
    assert list(tmp_path.iterdir()) == []
