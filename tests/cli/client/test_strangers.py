"""What answers at the URL, and is not tenantry: a proxy in front of it, or something else altogether."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from commands import tenantry
from http_servers import another_server

PAGE = "<html>Sorry</html>"
JSON = '{"message": "sorry"}'


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Give the URL of a server that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "nginx/1.24", ""

        def do_GET(self) -> None:  # as its base calls it
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self) -> None:  # as its base calls it
            self.do_GET()
            self.rfile.read(int(self.headers["Content-Length"]))  # as nginx does before it hangs up

        def log_message(self, *_: object) -> None:
            pass

    with another_server(Handler) as url:
        yield url


@pytest.mark.parametrize(
    ("status", "body", "exit_code"),
    [
        (200, PAGE, 3),
        (404, PAGE, 3),
        (404, "[]", 3),
        (500, PAGE, 3),
        (502, PAGE, 5),
        (429, PAGE, 5),
        (503, PAGE, 5),
        (503, "", 5),
        (503, "null", 5),
        (503, JSON, 5),
        (504, PAGE, 5),
        (401, JSON, 4),
        (400, JSON, 1),
    ],
)
@pytest.mark.parametrize("line", ["tenant list", "tenant export acme {path}"])
def test_what_is_not_tenantry(tmp_path: Path, line: str, status: int, body: str, exit_code: int):
    """Whatever it answers, the exit code says what its status does: later, another key, another URL."""
    path = tmp_path / "bundle"
    with answering(status, body) as url:
        done = tenantry(
            *line.format(path=path).split(), "--url", url, env={"NO_PROXY": "127.0.0.1"}, is_measured=True
        )
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.startswith("tenantry: ")
    assert len(done.stderr.splitlines()) == 1
    if exit_code == 3 or body in {PAGE, "null"}:
        assert f"is not from tenantry (status {status} from nginx/1.24)" in done.stderr
    assert not path.exists()


@pytest.mark.parametrize(
    ("status", "exit_code", "told"),
    [
        (413, 1, "client_max_body_size"),
        (502, 5, "check that the service runs"),
    ],
)
def test_a_proxy_that_refuses_a_bundle(tmp_path: Path, status: int, exit_code: int, told: str):
    """What nginx says of a bundle, in HTML and before all of it came, is told as what it is."""
    bundle = tmp_path / "bundle.tar.gz"
    bundle.write_bytes(bytes(2_000_000))
    with answering(status, PAGE) as url:
        env = {"NO_PROXY": "127.0.0.1"}
        done = tenantry("tenant", "import", "acme", str(bundle), "--url", url, env=env)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
