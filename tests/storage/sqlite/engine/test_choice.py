"""Which engine a process uses, and the reason if the process cannot use the engine in C."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import tenantry
from commands import environment
from distributions import build_wheel, copy_project
from needs import need, needed_program
from tenantry import RegistryConfig, TenantRegistry
from tenantry.storage.sqlite.engine.choice import choose
from tenants import HANG_SECONDS

ENGINE = Path("tenantry/storage/sqlite/engine")
BUILT = f"_engine{sysconfig.get_config_var('EXT_SUFFIX')}"
NOT_BUILT = f"not_built.{sys.implementation.cache_tag}.txt"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with tenantry as it is installed on a machine without a C compiler."""
    place = tmp_path_factory.mktemp("installed")
    return build_wheel(copy_project(place / "project"), {"PATH": "/nonexistent"})


@pytest.fixture(scope="module")
def built() -> Path:
    """The directory of the source, where the engine is built."""
    source = Path(tenantry.__file__).parents[1]
    need((source / ENGINE / BUILT).is_file(), "needs the engine: run make engine")
    need(choose("python").sqlite_library is not None, "needs a Python that loads the system's SQLite library")
    return source


def run(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the tenantry of a directory."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(PYTHONPATH=str(place), **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )


def reason_in(place: Path, change: str = "pass", **variables: str) -> str:
    """Return why `choose` takes Python's sqlite3 in a new process, after a change of the process; `native` is refused for it."""
    done = run(
        place,
        "-c",
        "import sys, _sqlite3\n"
        "from tenantry.errors import SettingsError\n"
        "from tenantry.storage.sqlite.engine.choice import choose\n"
        f"{change}\n"
        "choice = choose('auto')\n"
        "assert choice.name == 'python'\n"
        "assert choose('auto') == choice\n"
        "try:\n"
        "    choose('native')\n"
        "except SettingsError as error:\n"
        "    assert choice.reason in str(error)\n"
        "    print(choice.reason)",
        **variables,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_a_compiler(installed: Path):
    """The build leaves the reason, and the process names it with what to do."""
    missing = (installed / ENGINE / NOT_BUILT).read_text().strip()
    assert missing.startswith("there is no C compiler ")
    assert reason_in(installed) == (
        f"the engine was not built, because {missing}: install what is missing, and then tenantry again "
        "(in a clone: make engine)"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "sys.version_info = (3, 14, 0, 'final', 0)",
            "the engine knows CPython 3.11 to 3.13 with the interpreter's lock, and this is ",
        ),
        ("sys.implementation.name = 'pypy'", "the engine knows CPython 3.11 to 3.13 "),
        ("del _sqlite3.__file__", "SQLite is built into this Python, so the engine cannot find "),
    ],
    ids=["version", "implementation", "built in"],
)
def test_a_python_that_the_engine_does_not_know(installed: Path, change: str, reason: str):
    """The extension is not even loaded, because it might crash."""
    assert reason_in(installed, change).startswith(reason)


def test_an_engine_that_cannot_be_loaded(installed: Path):
    """An extension of another machine is not used."""
    extension = installed / ENGINE / "_engine.so"
    extension.write_bytes(b"\x7fELF of another machine")
    try:
        assert reason_in(installed).startswith("the engine cannot be loaded (")
    finally:
        extension.unlink()


def test_an_engine_of_another_version(installed: Path):
    """An extension that was built before the source changed is not used: a module in its place has no number of its interface."""
    extension = installed / ENGINE / "_engine.py"
    extension.write_text("")
    try:
        assert reason_in(installed).startswith(
            "the engine cannot be loaded (it was built from another version of its source)"
        )
    finally:
        extension.unlink()


def test_native_is_refused_with_the_reason(installed: Path, tmp_path: Path):
    """With `native`, no command opens a registry, and the doctor says why. `auto` works."""
    create = ("-m", "tenantry", "tenant", "create", "acme", "--data-dir", str(tmp_path / "data"))
    refused = run(installed, *create, TENANTRY_ENGINE="native")
    assert refused.returncode == 2
    assert (
        "the setting engine is 'native', but the engine in C cannot be used: the engine was not built"
        in refused.stderr
    )
    assert "set TENANTRY_ENGINE=auto" in refused.stderr
    assert not (tmp_path / "data" / "catalog.db").exists()
    assert run(installed, *create).returncode == 0
    doctor = ("-m", "tenantry", "doctor", "--data-dir", str(tmp_path / "data"), "--json")
    levels = {"native": "wrong", "auto": "note", "python": "ok"}
    for engine, level in levels.items():
        done = run(installed, *doctor, TENANTRY_ENGINE=engine)
        [finding] = [one for one in json.loads(done.stdout)["findings"] if one["check"] == "engine"]
        assert finding["level"] == level
        expected = "setting engine is 'python'" if engine == "python" else "there is no C compiler"
        assert expected in finding["found"]
        assert "TENANTRY_ENGINE=auto" not in finding["found"]  # that is what to do


def test_the_engine_is_taken_where_it_was_built(built: Path):
    """With `auto` and with `native`, a process takes the engine in C if nothing is against it."""
    done = run(
        built,
        "-c",
        "from tenantry.storage.sqlite.engine.choice import choose\n"
        "choice = choose('auto')\n"
        "assert choice == choose('native')\n"
        "print(choice.name, choice.reason)",
    )
    assert done.stdout == "native None\n", done.stderr


def test_a_python_in_a_directory_that_is_not_utf_8(built: Path, tmp_path: Path):
    """The engine is used although the path of Python's driver is not valid UTF-8."""
    import _sqlite3  # noqa: PLC0415

    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    place.mkdir()
    driver = shutil.copy(_sqlite3.__file__, place)
    done = run(
        built,
        "-c",
        "import ctypes, sys, _sqlite3\n"
        "# Python 3.12 imports no extension from such a directory.\n"
        "_sqlite3.__file__ = ctypes.CDLL(sys.argv[1])._name\n"
        "from tenantry.storage.sqlite.engine.choice import choose\n"
        "choice = choose('auto')\n"
        "print(choice.name, choice.reason)",
        str(driver),
    )
    assert done.stdout == "native None\n", done.stderr


def test_a_driver_without_a_library(built: Path):
    """The engine is not used if SQLite's functions are not in the libraries of Python's driver."""
    reason = reason_in(built, "_sqlite3.__file__ = '/nonexistent/_sqlite3.so'")
    assert reason.startswith(
        "the engine cannot use the SQLite library of this Python (/nonexistent/_sqlite3.so "
    )


def test_another_sqlite_that_was_loaded_first(built: Path, tmp_path: Path):
    """The engine is not used if its calls would lead to another SQLite library than the calls of Python's driver."""
    compiler = needed_program("cc", "gcc", package="gcc")
    (tmp_path / "other.c").write_text("void *sqlite3_next_stmt(void) { return 0; }\n")
    other = tmp_path / "other.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", other, tmp_path / "other.c"], check=True)
    reason = reason_in(built, LD_PRELOAD=str(other))
    assert "another library with SQLite was loaded before that of Python's sqlite3 module" in reason


async def test_the_settings_choose_python(data_dir: Path):
    """With `python` the engine in C is not used even where it could be."""
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir, engine="python"))
    assert registry.statistics().engine == choose("python")
    assert (choose("python").name, choose("python").reason) == ("python", "the setting engine is 'python'")


def test_the_library_is_named():
    """The version and the file of SQLite are known, unless Python has SQLite built in."""
    choice = choose("auto")
    assert choice.sqlite_library is None or Path(choice.sqlite_library).is_file()
    if choice.name == "native":
        assert choice.sqlite_library is not None
