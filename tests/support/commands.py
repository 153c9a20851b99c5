"""The command line as processes, and a service to run it against.

Import it by name (``tests`` is on pytest's path): ``from commands import tenantry``.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import MEASURED
from tenants import HANG_SECONDS, read_line
from warm_process import WarmChild, warm_process

WHERE = (
    "TENANTRY_URL",
    "TENANTRY_DATA_DIR",
    "TENANTRY_API_KEY",
    "TENANTRY_SNAPSHOT_STORAGE",
    "TENANTRY_SCHEMAS",
)
"""What in the environment says where commands work."""


def environment(*, is_measured: bool = False, **changes: str) -> dict[str, str]:
    """Return this process's environment, with nothing in it that says where to work, and with these changes.

    Args:
        is_measured: Whether its coverage counts, if this process's does.
        changes: To the environment.
    """
    kept = {name: value for name, value in os.environ.items() if name not in WHERE}
    return {**kept, **(MEASURED if is_measured else {}), "COLUMNS": "160", "NO_COLOR": "1", **changes}


def tenantry(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    is_measured: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without a terminal."""
    changed = environment(is_measured=is_measured, **(env or {}))
    line = list(map(str, arguments))
    # What an interpreter does at its start, it has to do for this command.
    is_cold = any(name.startswith(("PYTHON", "LC_", "LANG")) for name in env or {})
    if not is_cold:
        return warm_process(is_measured=is_measured).run(
            line, cwd=cwd or Path.cwd(), env=changed, timeout_seconds=HANG_SECONDS
        )
    return subprocess.run(
        [sys.executable, "-m", "tenantry", *line],
        cwd=cwd,
        env=changed,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """Return what a command that ended well printed: one JSON document and nothing else."""
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@dataclass
class Service:
    """A service that runs.

    Attributes:
        process: ``tenantry serve``.
        line: What it printed.
        log_path: What it logs.
        key: With the scope ``admin``.
    """

    process: WarmChild
    line: str
    log_path: Path
    key: str
    urls: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where its API is."""
        return self.urls[0]

    @property
    def env(self) -> dict[str, str]:
        """What tells a command to work there."""
        return {"TENANTRY_URL": self.url, "TENANTRY_API_KEY": self.key}

    def log(self) -> list[dict[str, Any]]:
        """Return the events that it has logged."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(HANG_SECONDS)


def make_key(data_dir: Path, *options: str) -> str:
    """Make a key with the scope ``admin``."""
    done = tenantry("key", "create", "--data-dir", data_dir, "--scope", "admin", "--quiet", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@contextmanager
def service(
    data_dir: Path,
    *options: object,
    key: str | None = None,
    env: Mapping[str, str] | None = None,
    is_measured: bool = False,
) -> Iterator[Service]:
    """Run a service on a directory, on a port that is free, and kill it at the end if it still lives.

    Args:
        data_dir: The directory.
        options: More options of ``serve``.
        key: One that was made before; a new one if None.
        env: More of the environment.
        is_measured: Whether its coverage counts, if this process's does.
    """
    key = key or make_key(data_dir)
    log_path = data_dir.parent / f"{data_dir.name}.log"
    started = warm_process(is_measured=is_measured).start_with_pipes(
        list(map(str, ["serve", "--data-dir", data_dir, "--port", 0, *options])),
        env=environment(is_measured=is_measured, **(env or {})),
        stderr_path=log_path,
    )
    with started as process:
        try:
            line = read_line(process)
            urls = [word.rstrip(",") for word in line.split() if "://" in word]
            yield Service(process, line, log_path, key, urls)
        finally:
            process.kill()
