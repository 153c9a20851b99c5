"""How commands end that are not done: what is said, with which exit code, and what is left."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from commands import WHERE, Service, document, environment, service, tenantry
from tenantry import RegistryConfig, Scope, TenantRegistry
from tenantry.cli import app
from tenantry.files.lock_file import LockFile
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenants import HANG_SECONDS, make_message, query, until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one tenant, for all tests of this module."""
    data_dir = tmp_path_factory.mktemp("service") / "data"
    with service(data_dir) as started:
        assert tenantry("tenant", "create", "acme", env=started.env).returncode == 0
        yield started


@pytest.fixture
async def held(registry: TenantRegistry) -> TenantRegistry:
    """A directory on which this process has the tenant ``acme`` open."""
    await registry.create("acme")
    await registry.tenant("acme").messages.save(make_message())
    return registry


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tenant", "list"], "name a target: --url"),
        (["tenant", "list", "--url", "http://127.0.0.1:1", "--data-dir", "x"], "name one target: --url"),
        (["tenant", "list", "--url", "127.0.0.1:1"], "is not a valid URL"),
        (["tenant", "list", "--url", "http://me:secret@127.0.0.1:1"], "is not a valid URL"),
        (["tenant", "get", "No_Id", "--data-dir", "x"], "is not a tenant id"),
        (
            ["tenant", "list", "--state", "odd", "--data-dir", "x"],
            "Invalid value for '--state': 'odd' is not one of",
        ),
        (["tenant", "list", "--limit", "0", "--data-dir", "x"], "--limit"),
        (["tenant", "export", "acme", "x.txt", "--url", "http://127.0.0.1:9"], "x.txt exists"),
        (
            ["tenant", "export", "acme", "no/x.tar.gz", "--url", "http://127.0.0.1:9"],
            "no file can be created in no: give another path",
        ),
        (["tenant", "import", "acme", "missing.tar.gz", "--data-dir", "x"], "does not exist"),
        (["tenant", "update", "acme", "--limit", "speed", "--data-dir", "x"], "'speed' is not NAME=VALUE"),
        (["tenant", "update", "acme", "--limit", "speed=1", "--data-dir", "x"], "'speed' is not a limit"),
        *(
            (
                ["tenant", "update", "acme", "--limit", f"{name}={value}", "--data-dir", "x"],
                f"{name} cannot be '{value}'",
            )
            for name, value in (
                ("calls_per_second_max", "-1"),
                ("calls_in_flight_max", "1.5"),
                ("calls_burst_max", "many"),
                ("database_bytes_max", "true"),
                ("durability", "odd"),
            )
        ),
        (
            ["tenant", "delete", "acme", "--data-dir", "x"],
            "Standard input is not a terminal: confirm with --yes",
        ),
        (
            ["tenant", "create", "acme", "--data-dir", "x", "--snapshot-storage", "ftp://x"],
            "is not a valid storage URL",
        ),
        (
            ["tenant", "update", "acme", "--data-dir", "x"],
            "give --display-name, --protect, --no-protect or --limit",
        ),
        (["tenant", "update", "acme", "--if-revision", "1", "--data-dir", "x"], "nothing is to be changed"),
        (["key", "create", "--expires-in", "soon", "--data-dir", "x"], "is not a duration"),
        (["key", "create", "--scope", "all", "--data-dir", "x"], "Invalid value for '--scope'"),
        (["fleet", "start", "check", "--below", "company", "--data-dir", "x"], "is not SCHEMA=VERSION"),
        (["fleet", "start", "check", "--arguments", "[]", "--data-dir", "x"], "not a JSON object"),
        *(
            (
                ["fleet", "start", "check", "--canary", value, "--data-dir", "x"],
                "nor a share of them, up to 100%",
            )
            for value in ("200%", "0", "0%", "%", "0.02", "none", "-1", "nan", "many")
        ),
        *(
            (["fleet", "start", "check", option, value, "--data-dir", "x"], "nor a share between 0 and 1")
            for option in ("--failures-max", "--canary-failures-max")
            for value in ("-1", "1.5", "5%", "inf")
        ),
        (
            ["fleet", "resume", "job-1", "--failures-max", "none", "--data-dir", "x"],
            "nor a share between 0 and 1",
        ),
        (["doctor"], "name the data directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
):
    """A command line that cannot be used ends with 2, a sentence on standard error, and nothing done."""
    (tmp_path / "x.txt").touch()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments, env=dict.fromkeys(WHERE, ""))
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize(
    "arguments",
    [["tenant", "list", "--state", "odd"], ["tenant", "list", "--odd"], ["tenant", "get"], ["odd"]],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_used_is_a_problem_with_json(arguments: list[str]):
    """With ``--json`` an option, argument or command that cannot be used ends with 2 and one line of JSON that says why."""
    done = CliRunner().invoke(app, [*arguments, "--json"], env=dict.fromkeys(WHERE, ""))
    assert (done.exit_code, done.stdout) == (2, "")
    problem = json.loads(done.stderr)
    assert set(problem) == {"title", "detail"}
    assert problem["detail"]


def test_settings_in_the_environment_that_are_none(tmp_path: Path):
    """A setting of the environment that cannot be used is named."""
    done = tenantry("key", "list", "--data-dir", tmp_path, env={"TENANTRY_OPEN_TENANTS_MAX": "many"})
    assert done.returncode == 2
    assert "TENANTRY_OPEN_TENANTS_MAX: Input should be" in done.stderr
    together = {"TENANTRY_BATCH_REQUESTS_MAX": "64", "TENANTRY_MAILBOX_REQUESTS_MAX": "8"}
    done = tenantry("key", "list", "--data-dir", tmp_path, env=together)
    assert done.returncode == 2
    assert "cannot be used: batch_requests_max (64) is larger than mailbox_requests_max (8)" in done.stderr


@pytest.mark.parametrize("command", [("tenant", "list"), ("serve", "--port", "0")], ids=["list", "serve"])
def test_an_option_of_a_url_that_libpq_does_not_know(command: tuple[str, ...], tmp_path: Path):
    """A misspelt option is a setting that is not valid, and not a server that is away; the password is not repeated."""
    url = "postgresql://app:hunter2@127.0.0.1:1/none?sslmod=require"
    done = tenantry(*command, "--data-dir", tmp_path / "data", env={"TENANTRY_DATABASE": url})
    assert done.returncode == 2
    assert "it does not know the option sslmod; a similar option is sslmode" in done.stderr
    assert "hunter2" not in done.stderr


def test_a_directory_that_is_none_is_not_made(tmp_path: Path):
    """A command that only looks makes no directory: it ends with 3 and says what would make one."""
    done = tenantry("tenant", "list", "--data-dir", tmp_path / "typo")
    assert done.returncode == 3
    assert "is not a data directory" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_its_catalog(tmp_path: Path):
    """A command is not told to make a new directory where tenants are: it says that the catalog is missing."""
    (tmp_path / "data" / "tenants").mkdir(parents=True)
    done = tenantry("tenant", "list", "--data-dir", tmp_path / "data", is_measured=True)
    assert done.returncode == 3
    assert "has no catalog.db" in done.stderr


def test_commands_look_for_snapshots_where_they_are(tmp_path: Path):
    """Also without being told, so that a purge leaves none; a storage that is not theirs is refused, and nothing done."""
    there, kept = ("--data-dir", tmp_path / "data"), tmp_path / "kept"
    document(tenantry("tenant", "create", "acme", *there, "--snapshot-storage", kept, "--json"))
    document(tenantry("snapshot", "create", "acme", *there, "--json"))
    assert len(list(kept.glob("*/*.json"))) == 1
    refused = tenantry("tenant", "purge", "acme", "--yes", *there, "--snapshot-storage", tmp_path / "typo")
    assert refused.returncode != 0
    assert f"are stored at {kept}, not at {tmp_path / 'typo'}" in refused.stderr
    remembered = tmp_path / "data" / "snapshot-storage"
    remembered.write_text("a program's own\n")
    refused = tenantry("tenant", "purge", "acme", "--yes", *there)
    assert (refused.returncode, "use the program that has stored them" in refused.stderr) == (2, True)
    remembered.write_text(f"{kept}\n")
    document(tenantry("tenant", "delete", "acme", "--yes", *there, "--json"))
    document(tenantry("tenant", "purge", "acme", "--force", "--yes", *there, "--json"))
    assert [path.name for path in kept.iterdir()] == ["tenantry-owner.json"]


def test_a_service_that_does_not_answer():
    """Where nothing listens a command ends with 3."""
    done = tenantry("tenant", "list", "--url", "http://127.0.0.1:9", env={"NO_PROXY": "*"})
    assert (done.returncode, done.stdout) == (3, "")
    assert "cannot be reached" in done.stderr


def test_keys_that_are_not_good(running: Service):
    """Without a key, with one that is none, and with one that is not good for this, a command ends with 4."""
    weak = document(tenantry("key", "create", "--scope", "read", "--json", env=running.env))["token"]
    for key, said in (
        ("", "send a key"),
        ("ключ", "has characters that no key has"),
        (weak, "lacks the scope"),
    ):
        done = tenantry("tenant", "suspend", "acme", env={**running.env, "TENANTRY_API_KEY": key})
        assert (done.returncode, done.stdout) == (4, "")
        assert said in done.stderr


def test_what_concerns_all_tenants_is_not_for_a_key_for_some(running: Service):
    """A key for one tenant neither tries out snapshots nor sees what came of it."""
    weak = document(
        tenantry("key", "create", "--scope", "admin", "--tenant", "acme", "--json", env=running.env)
    )["token"]
    done = tenantry("snapshot", "drill", env={**running.env, "TENANTRY_API_KEY": weak})
    assert (done.returncode, done.stdout) == (4, "")
    headers = {"Authorization": f"Bearer {running.key}"}
    begun = httpx.post(
        f"{running.url}/v1/snapshots/drill", json={}, headers=headers, trust_env=False, timeout=HANG_SECONDS
    )
    for key, status in ((running.key, 200), (weak, 403)):
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{running.url}{begun.headers['location']}"
        assert httpx.get(url, headers=headers, trust_env=False, timeout=HANG_SECONDS).status_code == status


def test_refusals_are_a_sentence_or_a_problem(running: Service):
    """What the service refuses ends with 1: a sentence on standard error, and with ``--json`` the problem as one line."""
    done = tenantry("tenant", "get", "nobody", env=running.env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tenantry: tenant 'nobody' does not exist: check the id in the list of tenants\n"
    done = tenantry("tenant", "get", "nobody", "--json", env=running.env)
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr)["type"] == "urn:tenantry:problem:tenant-not-found"


def test_an_operation_that_fails_is_a_refusal(running: Service):
    """What fails after it was accepted ends as what is refused at once."""
    done = tenantry("snapshot", "undo-restore", "acme", "--yes", "--json", env=running.env)
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr)["type"] == "urn:tenantry:problem:snapshot-not-found"


def test_a_bundle_that_is_none(running: Service, tmp_path: Path):
    """A bundle that is not what was written creates nothing."""
    (tmp_path / "bundle").write_bytes(b"no bundle")
    done = tenantry("tenant", "import", "imported", tmp_path / "bundle", env=running.env)
    assert (done.returncode, done.stdout) == (1, "")
    assert tenantry("tenant", "get", "imported", env=running.env).returncode == 1


def test_an_export_that_fails_leaves_no_file(running: Service, tmp_path: Path):
    """A bundle is there whole or not at all, and is its owner's alone."""
    assert (
        tenantry("tenant", "export", "nobody", tmp_path / "no", env=running.env, is_measured=True).returncode
        == 1
    )
    assert tenantry("tenant", "export", "acme", tmp_path / "no" / "yes", env=running.env).returncode == 2
    assert list(tmp_path.iterdir()) == []
    assert (
        tenantry("tenant", "export", "acme", tmp_path / "yes", env=running.env, is_measured=True).returncode
        == 0
    )
    assert (tmp_path / "yes").stat().st_mode & 0o777 == 0o600


def test_people_see_the_same_of_both_modes(running: Service):
    """Tables of a service and of its directory are the same, word for word."""
    data_dir = running.line.split()[2]
    for line in ("tenant get acme", "audit list", "key list"):
        by_url, by_directory = (
            tenantry(*line.split(), *where, env=running.env) for where in ((), ("--data-dir", data_dir))
        )
        assert by_url.stdout == by_directory.stdout
        assert (by_url.returncode, by_url.stderr) == (by_directory.returncode, by_directory.stderr) == (0, "")


async def test_a_tenant_that_another_process_has_open(held: TenantRegistry):
    """On a directory whose tenant another process has open, the error says what to do."""
    done = tenantry("snapshot", "create", "acme", "--data-dir", held.config.data_dir)
    assert done.returncode == 5
    assert f"open in process {os.getpid()}" in done.stderr
    assert "use --url" in done.stderr


async def test_a_call_that_is_under_way_elsewhere(registry: TenantRegistry):
    """What may succeed a moment later ends with 5."""
    tenant = await registry.create("acme")
    lock = LockFile(registry.config.data_dir / "operations" / tenant.uid)
    lock.acquire()
    done = tenantry("tenant", "archive", "acme", "--data-dir", registry.config.data_dir)
    lock.remove()
    assert done.returncode == 5, done.stderr


@pytest.mark.parametrize(("answer", "exit_code", "state"), [("n", 1, "active"), ("y", 0, "deleted")])
async def test_people_are_asked_first(registry: TenantRegistry, answer: str, exit_code: int, state: str):
    """On a terminal what destroys asks, and does nothing unless the answer is yes."""
    await registry.create("acme")
    # This registry goes on meanwhile: it has the tenant open, and closes it for the command.
    said, code = await asyncio.to_thread(_ask, "delete", "acme", registry.config.data_dir, answer=answer)
    assert b"Delete tenant acme?" in said
    assert code == exit_code
    assert (await registry.get("acme")).state == state


def _ask(action: str, tenant_id: str, data_dir: Path, *, answer: str) -> tuple[bytes, int]:
    """Give an answer to a command's question on a terminal; return what it printed there, and its exit code."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "tenantry", "tenant", action, tenant_id, "--data-dir", data_dir]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment()
    ) as process:
        os.close(theirs)
        said = b""
        while not said.endswith(b"[y/N] "):
            said += os.read(ours, 100)
        os.write(ours, f"{answer}\n".encode())
        code = process.wait(HANG_SECONDS)
    os.close(ours)
    return said, code


def test_progress_is_for_terminals(running: Service, tmp_path: Path):
    """On a terminal what takes long is shown on standard error while it lasts; standard output has the result alone."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "tenantry", "tenant", "export", "acme", tmp_path / "bundle", "--json"]
    env = environment(**running.env, TERM="xterm")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how Linux says that a terminal was closed
            while part := os.read(ours, 4096):
                shown += part
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["tenant_id"] == "acme"
    os.close(ours)
    assert b"export to bundle" in shown


@contextmanager
def begun(data_dir: Path, *arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command that has begun a lifecycle operation when the block is entered."""
    command = [sys.executable, "-m", "tenantry", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(**env)) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["--url", "--data-dir"])
async def test_interrupted_in_the_middle(data_dir: Path, mode: str):
    """Ctrl-C leaves nothing half done: in a directory it is finished first, and a service finishes it."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        tenant = await registry.create("acme")
        key = (await registry.keys.create(scopes=[Scope.ADMIN])).token
    lock = LockFile(tenant_paths(data_dir, tenant.location).lock)
    lock.acquire()  # so the archiving waits until it is released here

    def is_archiving() -> bool:
        return query(data_dir / "catalog.db", "SELECT intent FROM tenants") != [(None,)]

    with service(data_dir, key=key) if mode == "--url" else _nothing() as running:
        where = [mode, running.url] if running is not None else [mode, str(data_dir)]
        with begun(data_dir, "tenant", "archive", "acme", *where, TENANTRY_API_KEY=key) as process:
            await until(is_archiving)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert (
                "the service continues" if running else "waiting for the operation; if you interrupt again"
            ) in process.stderr.readline()
            lock.release()
            assert process.wait(HANG_SECONDS) == 130
        await until(lambda: not is_archiving())
    assert query(data_dir / "catalog.db", "SELECT state FROM tenants") == [("archived",)]


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_the_shell_completes_commands(tmp_path: Path):
    """The completion that typer installs knows the commands."""
    script = Path(sys.executable).with_name("tenantry")
    env = environment(_TENANTRY_COMPLETE="complete_bash", COMP_WORDS="tenantry snapshot re", COMP_CWORD="2")
    done = subprocess.run(
        [script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=HANG_SECONDS
    )
    assert done.stdout.split() == ["restore"]
