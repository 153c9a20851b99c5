"""Builds wheels and source distributions of a copy of the project, because a build leaves files beside the source."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from needs import need

PROJECT = Path(__file__).parents[2]
ENGINE = Path("src/tenantry/storage/sqlite/engine")
FOLDERS = ("src", "tests", "examples", "benchmarks", "docs", "dashboards")
FILES = (
    *("pyproject.toml", "setup.py", "MANIFEST.in", ".gitignore"),
    *("README.md", "CHANGELOG.md", "LICENSE"),
)
_MADE = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "not_built.*.txt")


def copy_project(target: Path, folders: Iterable[str] = ("src",)) -> Path:
    """Copy the project without the files that builds and runs have made, and return the copy's path."""
    need((PROJECT / "setup.py").is_file(), "needs the project's source: run the tests in a clone")
    for folder in folders:
        shutil.copytree(PROJECT / folder, target / folder, ignore=_MADE)
    for file in FILES:
        shutil.copy(PROJECT / file, target)
    return target


def files_below(directory: Path) -> set[str]:
    """Return the paths of all files below a directory, relative to the directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def build_wheel(project: Path, variables: Mapping[str, str] | None = None) -> Path:
    """Build the wheel of a copy, and return the directory that it is unpacked in.

    Args:
        project: The copy; the wheel is put beside it.
        variables: Further environment variables of the build.

    Raises:
        subprocess.CalledProcessError: The build fails; its ``stdout`` has the output.
    """
    wheels = project.with_name(f"{project.name}-wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--verbose", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", wheels, project),
        ],
        env={**os.environ, **(variables or {})},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    [wheel] = wheels.glob("*.whl")
    unpacked = project.with_name(f"{project.name}-unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def build_source(project: Path) -> Path:
    """Build the source distribution of a copy, and return the directory that it is unpacked in."""
    made = project.with_name(f"{project.name}-sdist")
    subprocess.run(
        [sys.executable, "-c", f"import setuptools.build_meta as hooks; hooks.build_sdist({str(made)!r})"],
        cwd=project,
        check=True,
        capture_output=True,
    )
    [archive] = made.glob("*.tar.gz")
    shutil.unpack_archive(archive, made, filter="data")
    return made / archive.name.removesuffix(".tar.gz")
