"""The service as a process: where it listens, whom it lets in, and how it ends."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import termios
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from certificates import make_certificate
from commands import Service, document, environment, make_key, service, tenantry
from fleets import Held, holding
from monitoring import eventually
from service import connected, events
from tenantry.cli import app
from tenantry.files.lock_file import LockFile
from tenantry.server.http_server import bound
from tenantry.server.settings import Endpoint
from tenants import HANG_SECONDS, database_path, read_line


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A data directory, and a key that is good for it."""
    data_dir = tmp_path_factory.mktemp("kept") / "data"
    return data_dir, make_key(data_dir)


@pytest.fixture(scope="module")
def encrypted_key(certificate: tuple[Path, Path]) -> Path:
    """The same key, to be opened with a password."""
    key = serialization.load_pem_private_key(certificate[1].read_bytes(), password=None)
    path = certificate[1].with_name("encrypted.pem")
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return path


fetched = partial(httpx.get, trust_env=False, timeout=HANG_SECONDS)


def get(running: Service, path: str, key: str | None = None, **headers: str) -> httpx.Response:
    """Ask the service for something."""
    sent = {"Authorization": f"Bearer {key or running.key}", **headers}
    return fetched(f"{running.url}{path}", headers=sent)


def beside(database: Path) -> list[str]:
    """Return what lies beside a database, but for its lock."""
    return sorted(path.name for path in database.parent.iterdir() if path.name not in {"lock", database.name})


@pytest.mark.disk
def test_killed_and_started_again_and_ended(tmp_path: Path):
    """``kill -9`` loses nothing and the next start needs no help; SIGTERM leaves no lock and no write-ahead log."""
    data_dir = tmp_path / "data"
    with service(data_dir) as running:
        assert running.line == f"tenantry serves {data_dir} at {running.url}"
        document(tenantry("tenant", "create", "acme", "--json", env=running.env))
        snapshot = document(tenantry("snapshot", "create", "acme", "--json", env=running.env))["id"]
        running.end(signal.SIGKILL)
        key = running.key
    assert tenantry("doctor", "--data-dir", data_dir).returncode == 0
    with service(data_dir, key=key) as running:
        # Opens the tenant, whose last owner did not close it: a new owner marks the file, with its first write.
        document(tenantry("snapshot", "create", "acme", "--json", env=running.env))
        assert "tenant.db-wal" in beside(database_path(data_dir, "acme"))
        listed = document(tenantry("snapshot", "list", "acme", "--json", env=running.env))
        assert snapshot in {item["id"] for item in listed["items"]}
        assert running.end(signal.SIGTERM) == 0
        assert running.process.stdout is not None
        assert running.process.stdout.read() == ""
        events = [event["event"] for event in running.log()]
        assert events[-1] == "tenantry.registry.closed"
    assert beside(database_path(data_dir, "acme")) == []
    assert not (data_dir / "catalog.db-journal").exists()
    assert [list((data_dir / name).iterdir()) for name in ("operations", "scratch")] == [[], []]
    lock = LockFile(database_path(data_dir, "acme").with_name("lock"))
    assert lock.acquire() == b"released"
    lock.release()


@pytest.mark.parametrize(
    ("number", "is_encrypted"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_open_connections_do_not_keep_it(
    kept: tuple[Path, str], certificate: tuple[Path, Path], number: signal.Signals, *, is_encrypted: bool
):
    """Ctrl-C and SIGTERM end it also while a client keeps its connection open, and not because it took too long."""
    cert, key = certificate
    options = ["--tls-cert", cert, "--tls-key", key] if is_encrypted else []
    trust = ssl.create_default_context(cafile=cert)
    in_time = {"TENANTRY_SHUTDOWN_TIMEOUT_SECONDS": "10"}
    with (
        service(kept[0], *options, key=kept[1], env=in_time) as running,
        httpx.Client(trust_env=False, timeout=HANG_SECONDS, verify=trust) as client,
    ):
        assert client.get(f"{running.url}/healthz").status_code == 200
        assert running.end(number) == 0
        assert [event for event in running.log() if event["level"] in {"error", "critical"}] == []


def certificate_ends_at(running: Service, trust: ssl.SSLContext) -> float:
    """Return when the service's certificate ends, as its metrics say."""
    text = fetched(f"{running.url}/metrics", verify=trust).text
    [line] = [
        line
        for line in text.splitlines()
        if line.startswith("tenantry_certificate_expiry_timestamp_seconds ")
    ]
    return float(line.split()[1])


def test_signals_that_do_not_end_it(kept: tuple[Path, str], tmp_path: Path):
    """SIGHUP has it show the new certificate, and tell of its end; SIGUSR1 and SIGUSR2 do nothing."""
    cert, key = make_certificate(tmp_path, datetime(2031, 1, 1, tzinfo=UTC))
    later = datetime(2032, 1, 1, tzinfo=UTC).timestamp()
    with service(kept[0], "--tls-cert", cert, "--tls-key", key, key=kept[1]) as running:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            running.process.send_signal(number)
        trust = ssl.create_default_context(cafile=cert)
        assert certificate_ends_at(running, trust) == datetime(2031, 1, 1, tzinfo=UTC).timestamp()
        make_certificate(tmp_path, datetime(2032, 1, 1, tzinfo=UTC))
        running.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "2032-01-01T00:00:00+00:00" in running.log_path.read_text())
        trust = ssl.create_default_context(cafile=cert)
        assert eventually(lambda: certificate_ends_at(running, trust) == later)
        cert.write_text("nonsense")
        running.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "tenantry.certificate.load_failed" in running.log_path.read_text())
        assert fetched(f"{running.url}/healthz", verify=trust).status_code == 200
        assert running.end() == 0


def test_it_drains_before_it_stops(kept: tuple[Path, str]):
    """After SIGTERM it takes requests for the time of the drain, and says at /readyz that it stops; a second one ends that."""
    with service(
        kept[0], "--metrics-port", 0, "--drain-seconds", HANG_SECONDS * 10, key=kept[1], is_measured=True
    ) as running:
        readyz = f"{running.urls[1]}/readyz"
        assert fetched(readyz).status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: fetched(readyz).status_code == 503)
        assert fetched(readyz).json()["service"] == "stops"
        assert fetched(f"{running.urls[1]}/healthz").status_code == 200
        assert get(running, "/v1/tenants").status_code == 200
        assert running.end() == 0
        assert "tenantry.service.draining" in [event["event"] for event in running.log()]


def test_its_terminal_goes(tmp_path: Path):
    """A service that was started at a terminal ends with it: the kernel sends SIGHUP then too."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "tenantry", "serve", "--data-dir", tmp_path / "data", "--port", "0"]
    with subprocess.Popen(
        list(map(str, command)),
        env=environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # nothing else runs in the child yet
    ) as process:
        try:
            assert "tenantry serves" in read_line(process)
            os.close(theirs)
            os.close(ours)
            assert process.wait(HANG_SECONDS) == 0
        finally:
            process.kill()


async def test_a_job_that_is_followed_does_not_keep_it(tmp_path: Path):
    """A stream that follows a job, which another process runs, ends as streams do, and not because it took too long."""
    data_dir, held = tmp_path / "data", Held()
    async with holding(data_dir, held) as registry:
        await registry.create("acme")
        job = await registry.fleet.start("held")
        await held.begun(1)
        with service(data_dir) as running:
            async with (
                connected(running.url, running.key) as client,
                client.stream("GET", f"/v1/jobs/{job.id}/events") as response,
            ):
                seen = events(response)
                assert (await anext(seen))["state"] == "running"
                running.process.send_signal(signal.SIGTERM)
                assert [event async for event in seen] == []
            assert running.process.wait(HANG_SECONDS) == 0
            assert [event for event in running.log() if event["level"] in {"error", "critical"}] == []
        await held.let_go()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--tls-cert and --tls-key, or --behind-proxy"),
        (["--host", "::"], "--tls-cert and --tls-key, or --behind-proxy"),
        (["--metrics-host", "0.0.0.0", "--metrics-port", "0"], "--tls-cert and --tls-key, or --behind-proxy"),
        (["--host", "tenantry.example"], "is not an IP address"),
        (["--tls-cert", __file__], "belong together"),
        (["--snapshot-storage", "ftp://x"], "is not a valid storage URL"),
        (["--port", "65536"], "--port"),
        (["--drain-seconds", "-1"], "--drain-seconds"),
        (["--graceful-seconds", "nan"], "--graceful-seconds"),
        (["--allowed-host", "http://tenantry.example"], "is not a host name"),
        (["--allowed-host", "tenantry.example:443"], "is not a host name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refuses_to_listen(tmp_path: Path, options: list[str], said: str):
    """It listens to other machines only when it is encrypted, and says what is missing; nothing was made by then."""
    done = CliRunner().invoke(app, ["serve", "--data-dir", str(tmp_path / "data"), *options])
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0", "--behind-proxy"], "needs a key: create a key first, tenantry key create"),
        (["--host", "192.0.2.1", "--behind-proxy"], "cannot listen at 192.0.2.1"),
        (["--tls-cert", __file__, "--tls-key", __file__], "cannot be used"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_cannot_listen(tmp_path: Path, options: list[str], said: str):
    """It listens to other machines only with a key, and says what stands in its way; the exit code is 2."""
    done = tenantry("serve", "--data-dir", tmp_path / "data", "--port", 0, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_port_that_is_taken(kept: tuple[Path, str]):
    """It says so, before it touches anything."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = tenantry("serve", "--data-dir", kept[0], "--port", taken.getsockname()[1])
    assert (done.returncode, done.stdout) == (2, "")
    assert "Address already in use" in done.stderr


def test_a_port_that_another_has_taken_and_does_not_serve_yet(tmp_path: Path):
    """A second service is refused also while the first one still opens its directory, and touches nothing either."""
    with bound(Endpoint("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = tenantry("serve", "--data-dir", tmp_path / "data", "--port", port, is_measured=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen at 127.0.0.1:{port} (Address already in use)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_one(tmp_path: Path):
    """It says so; the exit code is 3."""
    (tmp_path / "data").touch()
    done = tenantry("serve", "--data-dir", tmp_path / "data", "--port", 0, is_measured=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert "cannot be used" in done.stderr


def test_without_a_key_nobody_gets_in(tmp_path: Path):
    """On loopback it starts without a key, says how to make one, and takes it at once."""
    data_dir = tmp_path / "data"
    with service(data_dir, key="none") as running:
        assert get(running, "/v1/tenants").status_code == 401
        assert get(running, "/healthz").text == "ok\n"
        assert "tenantry key create" in running.log_path.read_text()
        assert get(running, "/v1/tenants", make_key(data_dir)).status_code == 200


def test_probes_of_their_own_port_without_a_server_header(kept: tuple[Path, str]):
    """With ``--metrics-port`` metrics and probes are there, and not where the API is."""
    with service(kept[0], "--metrics-port", 0, key=kept[1]) as running:
        api, probes = running.urls
        for path in ("/healthz", "/readyz", "/metrics"):
            answer = fetched(f"{probes}{path}")
            assert answer.status_code == 200
            assert "server" not in answer.headers
            assert fetched(f"{api}{path}").status_code == 404
        assert "tenantry_pool_capacity_tenants" in answer.text
        assert fetched(f"{probes}/v1/tenants").status_code == 404
        for url in (f"{api}/openapi.json", f"{probes}/metrics"):
            answer = fetched(url, headers={"Host": "evil.example"})
            assert (answer.status_code, "--allowed-host" in answer.json()["detail"]) == (421, True)
        assert get(running, "/v1/tenants").status_code == 200


PROXIED = ("--host", "0.0.0.0", "--behind-proxy", "--allowed-host", "tenantry.example")


def test_behind_a_proxy_names_are_allowed(kept: tuple[Path, str]):
    """The name that clients call the service by is allowed, and other names are not."""
    with service(kept[0], *PROXIED, key=kept[1]) as running:
        running.urls[0] = running.url.replace("0.0.0.0", "127.0.0.1")
        for name, expected in (("tenantry.example", 200), ("evil.example", 421)):
            assert get(running, "/healthz", Host=name).status_code == expected


@pytest.mark.soak  # a request is refused after it was held for two seconds
async def test_behind_a_proxy_clients_are_told_apart(kept: tuple[Path, str]):
    """The rate of requests without a key belongs to the last address, which the proxy wrote, whatever the client claims."""
    with service(kept[0], *PROXIED, key=kept[1]) as running:
        url = running.url.replace("0.0.0.0", "127.0.0.1")
        async with httpx.AsyncClient(
            base_url=url, trust_env=False, timeout=HANG_SECONDS, limits=httpx.Limits()
        ) as client:

            async def status(forwarded_for: str) -> int:
                return (await client.get("/", headers={"X-Forwarded-For": forwarded_for})).status_code

            async def ask_until_refused(claimed: str) -> None:
                while not refused.is_set():
                    if await status(f"{claimed}, 192.0.2.1:5678") == 429:
                        refused.set()

            refused = asyncio.Event()
            # More than the turns of the two seconds that a request may wait.
            asking = [ask_until_refused(f"198.51.100.{number}") for number in range(150)]
            async with asyncio.timeout(HANG_SECONDS):
                await asyncio.gather(*asking)
            assert await status("192.0.2.1, 192.0.2.2") == 200


@pytest.mark.parametrize(
    ("options", "names_tenants"),
    [([], True), (["--behind-proxy"], False), (["--behind-proxy", "--metrics-port", 0], True)],
)
def test_whom_metrics_tell_of_tenants(tmp_path: Path, options: list[object], *, names_tenants: bool):
    """Where others reach the API its metrics name no tenant to whoever asks; on a port of their own they do."""
    with service(tmp_path / "data", *options) as running:
        document(tenantry("tenant", "create", "acme", "--json", env=running.env))
        url = f"{running.urls[-1]}/metrics"
        found = fetched(url, headers={"Accept": "application/openmetrics-text"})
        assert found.text.endswith("# EOF\n")
        assert ("tenant_id" in found.text) is names_tenants


def test_encrypted(kept: tuple[Path, str], certificate: tuple[Path, Path]):
    """With a certificate it speaks TLS, and commands speak it too if they trust the certificate."""
    cert, key = certificate
    with service(kept[0], "--tls-cert", cert, "--tls-key", key, key=kept[1]) as running:
        assert running.url.startswith("https://127.0.0.1:")
        trusting = {**running.env, "SSL_CERT_FILE": str(cert)}
        assert document(tenantry("tenant", "list", "--json", env=trusting))["items"] == []
        refused = tenantry("tenant", "list", env=running.env)
        assert refused.returncode == 3
        assert "SSL_CERT_FILE" in refused.stderr
        trust = ssl.create_default_context(cafile=cert)
        named = fetched(f"{running.url}/healthz", headers={"Host": "a.example"}, verify=trust)
        assert named.status_code == 200  # a browser has compared the name with the certificate
        with socket.create_connection(
            ("127.0.0.1", int(running.url.rpartition(":")[2])), HANG_SECONDS
        ) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")


def test_a_key_with_a_password_is_refused(
    tmp_path: Path, certificate: tuple[Path, Path], encrypted_key: Path
):
    """A service has nobody to ask for a password: it does not wait at the terminal, and says what to do."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "tenantry", "serve", "--data-dir", tmp_path / "data"]
    options = ["--port", "0", "--tls-cert", certificate[0], "--tls-key", encrypted_key]
    done = subprocess.run(
        [*command, *options],
        env=environment(),
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=HANG_SECONDS,
    )
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is encrypted" in done.stderr
    assert "openssl pkey" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_log_has_no_secret(kept: tuple[Path, str]):
    """The log is one JSON event to a line, and no key is in it."""
    with service(kept[0], key=kept[1], env={"TENANTRY_API_KEY": kept[1]}) as running:
        made = httpx.post(
            f"{running.url}/v1/keys",
            json={},
            headers={"Authorization": f"Bearer {kept[1]}"},
            trust_env=False,
            timeout=HANG_SECONDS,
        )
        get(running, "/v1/tenants", "tnt_wrong")
        running.end()
        text = running.log_path.read_text()
    assert all(json.loads(line)["event"] for line in text.splitlines())
    for secret in (kept[1], made.json()["token"], "tnt_wrong"):
        assert secret not in text
