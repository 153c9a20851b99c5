"""The public door and the layers: what the packages offer, and who may import whom."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import tenantry

pytestmark = pytest.mark.unmeasured

SOURCE = Path(tenantry.__file__).parent

# Downward only: a module imports its own layer and those before it.
LAYERS = [
    {
        "clock",
        "errors",
        "forks",
        "ids",
        "lazy_names",
        "lifecycle",
        "prompt_future",
        "scope",
        "threads",
    },  # leaves: no I/O, nothing of ours above
    {
        "config",
        "environment",
        "eventlog",
        "events",
        "limits",
        "pages",
        "postgres_config",
        "schemas",
        "sql",
        "texts",
        "values",
    },  # facts
    {"files"},
    {"company"},
    {"storage"},
    {"tenancy"},
    {"observability"},
    {"admin", "integrations", "testing"},
    {"demo", "doctor"},
    {"server"},
    {"cli"},
    {"__init__", "__main__"},
]
# Who may speak to which library: a driver behind its store, Prometheus in one module.
DRIVERS = {
    # The demonstration compares itself with aiosqlite.
    "aiosqlite": ["storage/sqlite/", "demo/aiosqlite_load.py"],
    "obstore": ["storage/objects/cloud.py"],
    # The demonstration is a host: it brings the registry of metrics.
    # The service serves what was measured.
    "prometheus_client": [
        *(
            "observability/metrics.py",
            "observability/exposition.py",
            "observability/certificate.py",
            "integrations/scraping.py",
            "demo/run.py",
            "admin/app.py",
            "admin/routes/probes.py",
            "server/service.py",
        ),
    ],
    "psycopg": ["storage/postgres/"],
    # The type of connections is in the signature of users' functions.
    "sqlite3": ["storage/sqlite/", "schemas/connect_hook.py"],
}

# Those that choose a back end, run one without a registry, read and write copies, and examine a data directory's files.
KNOW_BACK_ENDS = (
    *("storage/sqlite/", "storage/postgres/"),
    *("storage/backends.py", "storage/standalone.py", "storage/artifacts.py", "storage/pack_comparison.py"),
    "doctor/",
)

MODULES = {
    "tenantry"
    if path == SOURCE / "__init__.py"
    else ".".join(("tenantry", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(SOURCE.rglob("*.py"))
}
PACKAGES = [
    "tenantry",
    *("tenantry.admin", "tenantry.company", "tenantry.integrations"),
    *("tenantry.observability", "tenantry.storage", "tenantry.testing"),
]


@cache
def parsed(path: Path) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """Yield the module that each import statement, or each call of ``import_module``, names, wherever in the file it stands."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (name.value for name in node.args if isinstance(name, ast.Constant))


def layer(module: str) -> int:
    """Return the number of the layer that a module of ours belongs to."""
    parts = module.split(".")
    part = parts[1] if len(parts) > 1 else "__init__"
    for number, names in enumerate(LAYERS):
        if part in names:
            return number
    pytest.fail(f"{module} has no layer: give it one in LAYERS")


def public_names(module: ModuleType) -> set[str]:
    """Return what a package binds without an underscore and calls its own: no submodules, nothing from elsewhere."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "TYPE_CHECKING"
        and not isinstance(value, ModuleType)
        and str(getattr(value, "__module__", module.__name__)).startswith(module.__name__)
    }


def in_order(names: list[str]) -> list[str]:
    """Sort as ruff sorts ``__all__``: constants, classes, functions."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_true(package: str):
    """``__all__`` is sorted, everything in it exists, and nothing that a package made public is missing in it."""
    module = importlib.import_module(package)
    assert list(module.__all__) == in_order(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    assert {name for name in module.__all__ if not hasattr(module, name)} == set()
    assert public_names(module) - set(module.__all__) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_names_that_are_loaded_late_are_what_their_types_say(package: str):
    """A name that a type checker finds in one module is not loaded from another one when the program runs."""
    for statement in ast.parse(MODULES[package].read_text()).body:
        if isinstance(statement, ast.If):
            for node in statement.body:
                assert isinstance(node, ast.ImportFrom)
                assert node.module is not None
                for alias in node.names:
                    found = getattr(importlib.import_module(node.module), alias.name)
                    assert getattr(importlib.import_module(package), alias.name) is found


def test_every_error_and_event_is_public():
    """What a program catches, and what a hook is called with, is imported from the package itself."""
    for name in ("tenantry.errors", "tenantry.events"):
        module = importlib.import_module(name)
        classes = {one for one in public_names(module) if isinstance(getattr(module, one), type)}
        assert classes - set(tenantry.__all__) == set()


def test_the_names_that_programs_rely_on():
    """The names of the contract can be imported from where it says."""
    assert {"RegistryConfig", "TenantRegistry"} <= set(tenantry.__all__)
    storage = importlib.import_module("tenantry.storage")
    assert {"PersistenceBackend", "PersistenceConfig", "SQLiteConfig", "SQLitePersistenceBackend"} <= set(
        storage.__all__
    )
    assert callable(storage.create_backend)


def test_the_package_is_typed():
    """Users' type checkers may trust the annotations (PEP 561)."""
    assert (SOURCE / "py.typed").is_file()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str):
    """No module imports one of a layer above its own."""
    upward = [
        name
        for name in imports(MODULES[module])
        if name.split(".")[0] == "tenantry" and layer(name) > layer(module)
    ]
    assert upward == []


def test_no_import_cycle():
    """Modules can be understood one after the other."""
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    # A package's __init__ is its door: what lies inside does not go through it.
    done: set[str] = set()
    while ready := {module for module, needs in graph.items() if module not in done and needs <= done}:
        done |= ready
    assert set(graph) - done == set()


def test_only_storage_knows_its_back_ends():
    """Everything else reaches databases through `tenantry.storage.protocol`; the doctor examines SQLite's files from outside."""
    back_ends = ("tenantry.storage.sqlite", "tenantry.storage.postgres")
    users = {
        str(path.relative_to(SOURCE))
        for path in MODULES.values()
        if any(name.startswith(back_ends) for name in imports(path))
    }
    assert {user for user in users if not user.startswith(KNOW_BACK_ENDS)} == set()


def test_the_back_ends_do_not_know_each_other():
    """SQLite's store and PostgreSQL's can be read, shipped and replaced one without the other."""
    for one, other in (("sqlite", "postgres"), ("postgres", "sqlite")):
        for path in (SOURCE / "storage" / one).rglob("*.py"):
            assert [name for name in imports(path) if name.startswith(f"tenantry.storage.{other}")] == []


@pytest.mark.parametrize("room", ["files", "storage/archive", "storage/objects"])
def test_rooms_that_know_neither_sqlite_nor_the_company_pack(room: str):
    """Archives, object stores and files serve every back end and every schema."""
    for path in (SOURCE / room).rglob("*.py"):
        assert [
            name for name in imports(path) if name.startswith(("tenantry.storage.sqlite", "tenantry.company"))
        ] == []


def test_only_the_default_of_a_registry_names_the_built_in_pack():
    """Tenants work without the built-in pack: at run time, its only importer in `tenancy` is the module with the default."""
    importers = {
        str(path.relative_to(SOURCE))
        for path in (SOURCE / "tenancy").rglob("*.py")
        for node in parsed(path).body  # not what is below TYPE_CHECKING
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tenantry.company")
    }
    assert importers == {"tenancy/registry.py"}


@pytest.mark.parametrize("library", DRIVERS)
def test_libraries_stay_behind_one_door(library: str):
    """A driver, or Prometheus, is imported where it belongs and nowhere else."""
    users = {
        str(path.relative_to(SOURCE))
        for path in MODULES.values()
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert {user for user in users if not user.startswith(tuple(DRIVERS[library]))} == set()


def test_every_module_says_what_it_is():
    """Every module begins with a docstring."""
    assert [name for name, path in MODULES.items() if ast.get_docstring(parsed(path)) is None] == []


def test_every_module_is_in_the_package():
    """No directory of the package was forgotten without its ``__init__``."""
    found = {
        info.name
        for info in pkgutil.walk_packages([str(SOURCE)], "tenantry.")
        if not info.name.endswith("__main__")
    }
    # The extension in C is there where it was built.
    assert found - {"tenantry.storage.sqlite.engine._engine"} == {
        name for name in MODULES if name not in {"tenantry", "tenantry.__main__"}
    }
