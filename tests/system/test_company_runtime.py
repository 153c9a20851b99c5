"""The example of a runtime, as a process of its own: two companies, each with its own data, and an operator."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import pytest

from tenants import HANG_SECONDS, database_path, query

pytestmark = pytest.mark.unmeasured

T = TypeVar("T")

_POLL_SECONDS = 0.02
EXAMPLE = Path(__file__).parents[2] / "examples" / "company_runtime.py"


class Runtime(NamedTuple):
    """The example while it runs."""

    http: httpx.Client
    log: Path

    def operator(self) -> dict[str, str]:
        """Return what an operator's request carries: the key that was printed."""
        return {"Authorization": f"Bearer {find('admin key: (.*)', self.log)}"}

    def ask(self, company: str, method: str, path: str, **options: Any) -> httpx.Response:
        """Make a request of a company."""
        return self.http.request(method, path, headers={"X-Company": company}, **options)

    def titles(self, company: str) -> list[str]:
        """Return the titles of a company's tasks."""
        return sorted(task["title"] for task in self.ask(company, "GET", "/tasks").json())

    def are_completed(self, company: str) -> bool:
        """Return whether the company's agent has done every task."""
        return {task["status"] for task in self.ask(company, "GET", "/tasks").json()} == {"completed"}


@contextmanager
def running(tmp_path: Path) -> Iterator[Runtime]:
    """Run the example on a free port, and stop it as an operator does; what it says is in ``output``."""
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "data"), "--port", "0"]
    log = tmp_path / "output"
    # A file, because a pipe that nobody empties would hold it up.
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            url = wait_until(lambda: find(r"running on (http://\S+)", log) or process.poll() is not None)
            assert isinstance(url, str), log.read_text()
            with httpx.Client(base_url=url, timeout=HANG_SECONDS) as http:
                yield Runtime(http, log)
            process.send_signal(signal.SIGTERM)
            process.wait(HANG_SECONDS)
        finally:
            process.kill()
    assert "Application shutdown complete" in log.read_text()


def find(pattern: str, log: Path) -> str | None:
    """Return what the process has said about something, if it has."""
    found = re.search(pattern, log.read_text())
    return found[1] if found is not None else None


def wait_until(condition: Callable[[], T]) -> T:
    """Ask until it is so, and return the answer: what another process does tells no event."""
    give_up = time.monotonic() + HANG_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < give_up
        time.sleep(_POLL_SECONDS)
    return answer


def test_two_companies_and_an_operator(tmp_path: Path):
    """Each company sees its own and no other's; one that is suspended is refused, and the other notices nothing."""
    with running(tmp_path) as runtime:
        admin = runtime.operator()
        for company in ("acme", "globex"):
            made = runtime.http.post("/admin/v1/tenants", json={"id": company}, headers=admin)
            assert (made.status_code, made.headers["location"]) == (201, f"/admin/v1/tenants/{company}")
        for company, title in (("acme", "a1"), ("acme", "a2"), ("globex", "g1")):
            assert runtime.ask(company, "POST", "/tasks", json={"title": title}).status_code == 201
        assert runtime.ask("acme", "POST", "/tasks", json={"title": " "}).status_code == 422
        assert runtime.titles("acme") == ["a1", "a2"]
        assert runtime.titles("globex") == ["g1"]

        wait_until(lambda: runtime.are_completed("acme") and runtime.are_completed("globex"))
        said = runtime.ask("globex", "GET", "/messages?channel=general").json()
        assert [(message["from"], message["content"]) for message in said] == [("ada", "Done: g1")]
        assert runtime.ask("acme", "GET", "/costs").json() == 0.027

        suspended = runtime.http.post("/admin/v1/tenants/acme/suspend", headers=admin)
        assert suspended.json()["state"] == "suspended"
        refused = runtime.ask("acme", "GET", "/tasks")
        assert (refused.status_code, refused.json()["title"]) == (409, "Tenant suspended")
        assert runtime.titles("globex") == ["g1"]
        assert runtime.ask("initech", "GET", "/tasks").status_code == 404
        assert runtime.http.get("/tasks").status_code == 400
        assert runtime.http.get("/admin/v1/tenants").status_code == 401
        assert runtime.http.get("/admin/v1/tenants/acme", headers={"X-Company": "acme"}).status_code == 401

        wait_until(
            lambda: 'tenants{process="0",state="suspended"} 1.0' in runtime.http.get("/admin/metrics").text
        )
        assert 'operation="tasks.save",outcome="ok"' in runtime.http.get("/admin/metrics").text

    # Closed in order: no write-ahead log is left, and another program reads what was acknowledged.
    assert list((tmp_path / "data").rglob("*-wal")) == []
    assert query(database_path(tmp_path / "data", "globex"), "SELECT title, status FROM tasks") == [
        ("g1", "completed")
    ]


def test_it_goes_on_where_it_was(tmp_path: Path):
    """Started again it makes no second key, and a company finds what it left, suspended or not."""
    with running(tmp_path) as runtime:
        admin = runtime.operator()
        runtime.http.post("/admin/v1/tenants", json={"id": "acme"}, headers=admin)
        runtime.ask("acme", "POST", "/tasks", json={"title": "a1"})
        runtime.http.post("/admin/v1/tenants/acme/suspend", headers=admin)
    with running(tmp_path) as runtime:
        assert runtime.ask("acme", "GET", "/tasks").status_code == 409
        assert runtime.http.post("/admin/v1/tenants/acme/resume", headers=admin).status_code == 200
        assert runtime.ask("acme", "POST", "/tasks", json={"title": "a2"}).status_code == 201
        wait_until(lambda: runtime.are_completed("acme"))
        assert runtime.titles("acme") == ["a1", "a2"]
    assert "admin key" not in runtime.log.read_text()
