"""Builds the engine, an optional extension in C. Everything else about the project is in pyproject.toml.

Where the engine cannot be built, the installation succeeds without it, and a text file in its place has the reason, which
``tenantry.storage.sqlite.engine.choice`` reads. ``TENANTRY_ENGINE_STRICT=1`` is for developers and published wheels: a missing
header or a warning of the compiler then fails the build.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CCompilerError, CompileError, ExecError

ENGINE = Path("src/tenantry/storage/sqlite/engine")
IS_STRICT = os.environ.get("TENANTRY_ENGINE_STRICT") == "1"

# SQLite's functions are looked up when the engine is loaded, in the library that Python itself uses: none is linked.
EXTENSION = Extension(
    "tenantry.storage.sqlite.engine._engine",
    sources=sorted(map(str, ENGINE.glob("*.c"))),
    depends=sorted(map(str, ENGINE.glob("*.h"))),
    libraries=["dl", "pthread"],
    extra_compile_args=[
        *("-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"),
        *(["-Werror"] if IS_STRICT else []),
    ],
    optional=not IS_STRICT,
)

# The headers that the engine includes, and the Debian packages that have them.
HEADERS = {
    "stdio.h": "libc6-dev",
    "Python.h": "python3-dev for this version of Python",
    "sqlite3.h": "libsqlite3-dev",
}


class BuildModules(build_py):
    """Copies the modules to the build directory."""

    def run(self) -> None:
        """Copy the modules, after all files of an earlier build are removed: the wheel would have them."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildEngine(build_ext):
    """Builds the engine, or writes the reason why it cannot be built."""

    def build_extension(self, ext: Extension) -> None:
        """Build the extension, or write the reason into its place in the build directory."""
        try:
            super().build_extension(ext)
        except (CCompilerError, CompileError, ExecError) as error:
            if IS_STRICT:
                raise
            reason = self._missing() or f"the C compiler failed: {error}"
            self.warn(f"the engine is not built: {reason}")
            file = Path(self.build_lib, _reason_file(self.get_ext_filename(ext.name)))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{reason}\n", encoding="utf-8")

    def copy_extensions_to_source(self) -> None:
        """Copy the engine or the reason beside the source, for an editable installation, and remove those of an earlier build."""
        for ext in self.extensions:
            engine = Path(self.get_ext_filename(ext.name))
            for name in (engine, _reason_file(engine)):
                Path("src", name).unlink(missing_ok=True)
                if Path(self.build_lib, name).exists():
                    shutil.copy(Path(self.build_lib, name), Path("src", name))

    def _missing(self) -> str | None:
        """Return what the machine lacks: the compiler or a header."""
        compiler = self.compiler.compiler_so[0]
        if shutil.which(compiler) is None:
            return f"there is no C compiler {compiler} (Debian: gcc)"
        probe = Path(self.build_temp, "probe.c")
        probe.parent.mkdir(parents=True, exist_ok=True)
        for header, package in HEADERS.items():
            probe.write_text(f"#include <{header}>\n", encoding="utf-8")
            try:
                self.compiler.compile([str(probe)], output_dir=self.build_temp)
            except CompileError:
                return f"the C header {header} is missing (Debian: {package})"
        return None


def _reason_file(engine: str | Path) -> Path:
    """Return the file with the reason, beside the extension; each version of Python has its own."""
    return Path(engine).with_name(f"not_built.{sys.implementation.cache_tag}.txt")


setup(
    ext_modules=[EXTENSION] if EXTENSION.sources else [],
    cmdclass={"build_py": BuildModules, "build_ext": BuildEngine},
)
