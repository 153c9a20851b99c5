"""The wheel and the source distribution have all their files, and the engine where it can be compiled."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from distributions import ENGINE, FILES, FOLDERS, build_source, build_wheel, copy_project, files_below
from needs import need, needed_program

pytestmark = pytest.mark.unmeasured

BUILT = f"_engine{sysconfig.get_config_var('EXT_SUFFIX')}"
COMPILER = sysconfig.get_config_var("CC").split()[0]
NOT_BUILT = f"not_built.{sys.implementation.cache_tag}.txt"
INSTALLED_ENGINE = Path(*ENGINE.parts[1:])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, on a machine that can compile the engine."""
    needed_program("cc", "gcc", package="gcc")
    need(Path("/usr/include/sqlite3.h").is_file(), "needs sqlite3.h: apt-get install libsqlite3-dev")
    need(
        Path(sysconfig.get_path("include"), "Python.h").is_file(),
        "needs Python.h: apt-get install python3-dev",
    )
    return copy_project(tmp_path / "project")


def without_distribution_info(files: set[str]) -> set[str]:
    """Return the files of a wheel without the metadata that the installer reads."""
    return {file for file in files if not file.split("/")[0].endswith(".dist-info")}


def test_the_wheel_has_the_source_and_the_engine(project: Path):
    """The wheel has every file of the source except C code, and the compiled engine, but nothing of an earlier build."""
    expected = {file for file in files_below(project / "src") if not file.endswith((".c", ".h"))}
    earlier = project / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    (earlier / "tenantry").mkdir(parents=True)
    (earlier / "tenantry" / "removed_since.py").touch()
    (project / ENGINE / BUILT).write_text("of an editable installation")
    unpacked = build_wheel(project)
    engine = str(INSTALLED_ENGINE / BUILT)
    assert without_distribution_info(files_below(unpacked)) == {*expected, engine}
    assert (unpacked / engine).read_bytes().startswith(b"\x7fELF")


def test_the_source_distribution_has_all_that_a_build_and_a_test_need(tmp_path: Path):
    """The source distribution has every file that the copy has, and no compiled file."""
    project = copy_project(tmp_path / "project", FOLDERS)
    (project / ENGINE / BUILT).touch()
    unpacked = build_source(project)
    expected = {f"{folder}/{file}" for folder in FOLDERS for file in files_below(project / folder)}
    made = {file for file in files_below(unpacked) if ".egg-info/" in file}
    of_setuptools = {"PKG-INFO", "setup.cfg"}
    in_project = {file for file in expected if ".egg-info/" not in file} - {str(ENGINE / BUILT)}
    assert files_below(unpacked) - made == {*in_project, *FILES, *of_setuptools}


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"PATH": "/nonexistent"}, f"there is no C compiler {COMPILER} (Debian: gcc)"),
        ({"CPATH": "{lacking}"}, "the C header sqlite3.h is missing (Debian: libsqlite3-dev)"),
    ],
    ids=["compiler", "header"],
)
def test_without_a_compiler_or_header_the_wheel_has_the_reason(
    project: Path, tmp_path: Path, variables: dict[str, str], missing: str
):
    """Nothing else than the engine is missing in the wheel. A strict build fails."""
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    (lacking / "sqlite3.h").write_text("#error not here\n")
    variables = {name: value.format(lacking=lacking) for name, value in variables.items()}
    expected = {file for file in files_below(project / "src") if not file.endswith((".c", ".h"))}
    unpacked = build_wheel(project, variables)
    reason = str(INSTALLED_ENGINE / NOT_BUILT)
    assert without_distribution_info(files_below(unpacked)) == {*expected, reason}
    assert (unpacked / reason).read_text() == f"{missing}\n"
    with pytest.raises(subprocess.CalledProcessError):
        build_wheel(project, {**variables, "TENANTRY_ENGINE_STRICT": "1"})
