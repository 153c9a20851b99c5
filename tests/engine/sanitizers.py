"""Runs tests of the engine's C code under gcc's sanitizers: ``python tests/engine/sanitizers.py address|thread [pytest's arguments]``.

``address`` finds wrong uses of memory and undefined behaviour (AddressSanitizer, UndefinedBehaviorSanitizer), ``thread`` finds data races
(ThreadSanitizer). Only the engine is compiled for the sanitizers, in a copy of tenantry below ``build``; the installed engine stays as it
is. Python and SQLite are the ordinary ones. That is enough:

* Python's memory comes from `malloc` then (``PYTHONMALLOC``), so the sanitizer sees what the engine does to it.
* Leaks are not reported, because Python leaves memory behind at its end; the tests look for objects that stay.
* ThreadSanitizer sees the locks of Python and SQLite, because both take them through the functions of pthreads.

Where gcc or a sanitizer is missing, the program says so and succeeds; where ``CI`` is set it fails.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TESTS: Final = "tests/storage/sqlite"

FORKING: Final = ("test_queue.py::test_child_of_busy_threads", "test_event_loops.py::test_forked_child")
"""The tests that fork while other threads allocate memory."""


@dataclass(frozen=True)
class Sanitizer:
    """One kind of build.

    Attributes:
        flags: For the compiler and the linker.
        libraries: The run-time libraries, which have to be loaded before Python.
        options: For the run-time libraries.
        tests: What is run if the command line names no tests.
    """

    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    options: str
    tests: tuple[str, ...]


SANITIZERS: Final = {
    "address": Sanitizer(
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        ("libasan.so", "libubsan.so"),
        "detect_leaks=0:print_stacktrace=1",
        (
            *(
                f"{TESTS}/{tests}"
                for tests in ("engine", "test_batch.py", "test_connection.py", "test_thread_pool.py")
            ),
            f"--ignore={TESTS}/engine/test_choice.py",
            # A child of a fork may find a lock of AddressSanitizer's own allocator taken.
            *(f"--deselect={TESTS}/engine/{test}" for test in FORKING),
            # The other kinds of database and Python's sqlite3 differ in nothing that the engine sees.
            *("-k", "not fork and not memory and not python"),
        ),
    ),
    "thread": Sanitizer(
        ("-fsanitize=thread",),
        ("libtsan.so",),
        # A child of a fork has no other threads: the sanitizer would end it if it started one.
        "halt_on_error=1:second_deadlock_stack=1:die_after_fork=0",
        (
            f"{TESTS}/engine/test_queue.py",
            f"{TESTS}/engine/test_event_loops.py",
            f"{TESTS}/engine/test_stress.py",
        ),
    ),
}


def main(name: str, *arguments: str) -> int:
    """Run the tests under a sanitizer, and return the exit status."""
    sanitizer = SANITIZERS[name]
    compiler = shutil.which("gcc")
    libraries = [] if compiler is None else [_library(compiler, library) for library in sanitizer.libraries]
    if compiler is None or None in libraries:
        return _missing(f"the engine was not run under the {name} sanitizer, which is missing (Debian: gcc)")
    reports = ROOT / "build" / name / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    options = f"log_path={reports}/report:{sanitizer.options}"
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(map(str, libraries)),
        "PYTHONMALLOC": "malloc",
        **dict.fromkeys(("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"), options),
    }
    launcher = _launcher(environment)
    if launcher is None:
        return _missing(
            f"the engine was not run under the {name} sanitizer, which does not start on this machine"
        )
    place = _built(name, sanitizer)
    environment |= {"PYTHONPATH": str(place), "TENANTRY_ENGINE": "native", "TENANTRY_SANITIZER": name}
    probe = "import tenantry; from tenantry.storage.sqlite.engine.native import engine; engine(); print(tenantry.__file__)"
    found = subprocess.run(
        [*launcher, "-c", probe], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert found.stdout.startswith(str(place)), f"the tests would run {found.stdout}"
    tests = (
        arguments
        if any(not argument.startswith("-") for argument in arguments)
        else (*sanitizer.tests, *arguments)
    )
    # One process: pytest's workers have once not started under AddressSanitizer.
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    status = subprocess.run([*launcher, *pytest], env=environment, cwd=ROOT, check=False).returncode
    for report in sorted(reports.iterdir()):
        sys.stderr.write(report.read_text(errors="replace"))
        status = status or 1
    return status


def _library(compiler: str, name: str) -> Path | None:
    """Return a run-time library of the compiler; None if the compiler has none."""
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    return path if path.is_absolute() else None  # gcc repeats a name that it does not know


def _launcher(environment: Mapping[str, str]) -> list[str] | None:
    """Return the command that starts Python under the sanitizer; None if neither way works.

    An older ThreadSanitizer does not start where the kernel moves memory by more bits than it knows; `setarch` turns that off.
    """
    for launcher in (
        [sys.executable],
        ["setarch", platform.machine(), "--addr-no-randomize", sys.executable],
    ):
        try:
            tried = subprocess.run([*launcher, "-c", ""], env=environment, capture_output=True, check=False)
        except OSError:
            continue
        if tried.returncode == 0:
            return launcher
    return None


def _built(name: str, sanitizer: Sanitizer) -> Path:
    """Build tenantry with the engine for a sanitizer, and return its directory."""
    base = Path("build", name)
    flags = " ".join(sanitizer.flags)
    subprocess.run(
        [
            sys.executable,
            "setup.py",
            "--quiet",
            "build",
            "--build-base",
            base,
            "--build-lib",
            base / "lib",
            "--force",
        ],
        env={
            **os.environ,
            "TENANTRY_ENGINE_STRICT": "1",
            "CFLAGS": f"{flags} -g -O1 -fno-omit-frame-pointer",
            "LDFLAGS": flags,
        },
        cwd=ROOT,
        check=True,
    )
    return ROOT / base / "lib"


def _missing(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
