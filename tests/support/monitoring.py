"""A service under load and a real Prometheus that scrapes it, each in a process of its own.

Import it by name (``tests`` is on pytest's path): ``from monitoring import promtool``.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tenantry
from free_ports import reserved_port
from needs import needed_program
from tenants import HANG_SECONDS, read_line

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards"
_BUSY_SERVICE = Path(__file__).with_name("busy_service.py")
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Service:
    """A running service: where it is, and the file with its log."""

    address: str
    log: Path

    def scrape(self, accept: str = "text/plain") -> str:
        """Return what it exposes."""
        request = urllib.request.Request(f"http://{self.address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=HANG_SECONDS) as response:
            return response.read().decode()


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def get(self, path: str, **parameters: object) -> Any:
        """Return what its HTTP API answers."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=HANG_SECONDS) as response:
            return json.load(response)["data"]

    def values(self, expr: str) -> list[float]:
        """Return the numbers that an expression has now; what is not a number is none."""
        found = [float(sample["value"][1]) for sample in self.get("query", query=expr)["result"]]
        return [value for value in found if value == value]  # noqa: PLR0124  # NaN is no answer


@contextmanager
def busy_service(directory: Path, database_url: str) -> Iterator[Service]:
    """Run ``busy_service.py`` until the end of the block; everything has happened when it begins."""
    paths = [str(Path(tenantry.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    log = directory / "service.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, _BUSY_SERVICE, directory / "data", database_url],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        ) as process,
    ):
        try:
            port = read_line(process)
            assert read_line(process) == "busy"
            yield Service(f"127.0.0.1:{port}", log)
        finally:
            _end(process)


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus as ``dashboards/`` configures it, but with another target, and with a second where it has 15."""
    shutil.copytree(DASHBOARDS / "rules", directory / "rules")
    (directory / "targets").mkdir()
    (directory / "targets" / "tenantry.yml").write_text(f'- targets: ["{target}"]\n')
    settings = (DASHBOARDS / "prometheus.yml").read_text()
    (directory / "prometheus.yml").write_text(settings.replace("_interval: 15s", "_interval: 1s"))
    # Prometheus cannot tell which port it was given for port 0.
    port = reserved_port()
    command = [
        needed_program("prometheus", package="prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    log = directory / "prometheus.log"
    with log.open("w") as errors, subprocess.Popen(command, stdout=errors, stderr=errors) as process:
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            _wait_ready(server, process, log)
            yield server
        finally:
            _end(process)


def promtool(*arguments: str | Path, stdin: str | None = None) -> str:
    """Run promtool and return what it says; it must be content."""
    done = subprocess.run(
        [needed_program("promtool", package="prometheus"), *map(str, arguments)],
        input=stdin,
        # A quarter of its time would go into collecting garbage.
        env={**os.environ, "GOGC": "800"},
        capture_output=True,
        text=True,
        check=False,
        # To evaluate the alerts of days takes some seconds of a processor.
        timeout=10 * HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def eventually(look: Callable[[], Any]) -> Any:
    """Return what `look` finds as soon as it finds anything, or in the end what it found last."""
    deadline = time.monotonic() + HANG_SECONDS
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)  # another process's work: no event of ours tells of it
    return found


def _wait_ready(server: Prometheus, process: "subprocess.Popen[bytes]", log: Path) -> None:
    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=HANG_SECONDS):
                return True
        except OSError:
            return False

    assert eventually(is_ready), log.read_text()


def _end(process: "subprocess.Popen[Any]") -> None:
    process.terminate()
    try:
        process.wait(HANG_SECONDS)
    finally:
        process.kill()
