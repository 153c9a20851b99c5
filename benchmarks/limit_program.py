"""Builds the limit, a program in C, from `benchmarks/limits`; the header there says what the program does."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import NamedTemporaryFile

from benchmarks.harness import BenchmarkError

_SOURCES = Path(__file__).parent / "limits"
_CACHE = Path(__file__).parents[1] / "build" / "limits"
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
_LIBRARIES = ("-lsqlite3",)
_TIMEOUT_SECONDS = 120
_WORDS_MAX = 400


class NoLimitError(BenchmarkError):
    """The limit cannot be built here."""


def build_limit() -> Path:
    """Return the program; build it unless the same sources were built before.

    Raises:
        NoLimitError: There is no compiler, or the compiler does not find SQLite's header or library.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NoLimitError(
            "there is no C compiler: install gcc and SQLite's header (libsqlite3-dev), or set CC"
        )
    sources = sorted(_SOURCES.glob("*.c"))
    program = _CACHE / f"limit-{_digest(compiler, sources)}"
    if not program.exists():
        _compile(compiler, sources, program)
    return program


def _digest(compiler: str, sources: list[Path]) -> str:
    digest = hashlib.sha256(repr((compiler, _FLAGS, _LIBRARIES)).encode())
    for source in (*sources, *sorted(_SOURCES.glob("*.h"))):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: str, sources: list[Path], program: Path) -> None:
    _CACHE.mkdir(parents=True, exist_ok=True)
    # Another run may build the same program now: each moves a whole file to its place.
    with NamedTemporaryFile(dir=_CACHE, prefix="new-", delete=False) as file:
        new = Path(file.name)
    try:
        command = [compiler, *_FLAGS, "-o", str(new), *map(str, sources), *_LIBRARIES]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS, env=_environment()
        )
        if done.returncode:
            raise NoLimitError(
                f"{compiler} cannot build it (SQLite's header is in libsqlite3-dev): {done.stderr[:_WORDS_MAX]}"
            )
        new.chmod(0o755)
        new.replace(program)
    finally:
        new.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """Return an environment in which the compiler speaks English."""
    return {**os.environ, "LC_ALL": "C"}
