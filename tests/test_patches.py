"""What the tests replace in modules of tenantry.

A limit is a parameter: a patch of the module that does not read a constant changes nothing, and no test tells. A function may be
replaced where a test needs a failure, or a moment, that nothing real gives it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import tenantry

TESTS = Path(__file__).parent
SOURCE = Path(tenantry.__file__).parent.parent

REPLACED = {
    "tenantry.doctor.open_tenants.held_locks": "a kernel that lists no locks, as in a container",
    "tenantry.storage.archive.compression.check_cancelled": "counts how often a thread asks whether it was cancelled",
    "tenantry.storage.artifacts.check": "a copy whose check takes as long as a test needs",
    "tenantry.storage.postgres.copies.copy_out.read_rows": "a table that takes as long to read as a test needs",
    "tenantry.storage.postgres.copies.new_schema.copy_in": "rows that take as long to load as a test needs",
    "tenantry.storage.postgres.copies.new_schema.migrate": "migrations that take as long as a test needs",
    "tenantry.storage.sqlite.backend.closed_database": "a disk that refuses every lock",
    "tenantry.storage.sqlite.connections.opening._set_up": "the moment while a connection is opened",
    "tenantry.storage.sqlite.connections.opening.add_functions": "a connection that fails half way through its settings",
    "tenantry.storage.sqlite.connections.opening.read_file_version": "the moment between a look at a file and its first read",
    "tenantry.storage.sqlite.connections.transaction.roll_back": "a ROLLBACK that fails",
    "tenantry.storage.sqlite.engine.choice._why_not_native": "a process that cannot use the engine in C",
    "tenantry.storage.sqlite.maintenance.integrity._row_counts": "a process without file descriptors in the middle of a check",
    "tenantry.storage.sqlite.maintenance.integrity.check_connection": "a check that takes minutes",
    "tenantry.storage.sqlite.maintenance.online_backup.copy_database": "a disk that damages a copy",
    "tenantry.storage.sqlite.migrations.migrator.apply_migrations": "the moment between the plan and its first step",
    "tenantry.storage.sqlite.statements.batch.read_batch": "counts the batches that run in Python",
    "tenantry.storage.sqlite.statements.batch.roll_back": "a ROLLBACK that fails",
    "tenantry.storage.sqlite.statements.batch.write_batch": "counts the batches that run in Python",
    "tenantry.storage.sqlite.statements.marks.find_results": "an owner that runs repeated units again without looking for their marks",
    "tenantry.storage.sqlite.tenant_files.replacement.place": "the death of a process before it places a file",
    "tenantry.tenancy.transfers.import_bundle.read_bundle": "a bundle that is unpacked for as long as a test needs, or on a disk that others fill",
}
"""Each attribute that tests replace, and the failure or the moment that it stands for."""


def is_module(name: str) -> bool:
    """Return whether this is the name of a module of tenantry."""
    path = SOURCE.joinpath(*name.split("."))
    return name.split(".", maxsplit=1)[0] == "tenantry" and (
        path.is_dir() or path.with_suffix(".py").is_file()
    )


def imported_modules(tree: ast.AST) -> dict[str, str]:
    """Return the modules of tenantry that a file imports, by the names that it gives them."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                package = one.name.partition(".")[0]
                names[one.asname or package] = one.name if one.asname else package
        elif isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return {name: module for name, module in names.items() if is_module(module)}


def targets(node: ast.expr, names: dict[str, str]) -> Iterator[str]:
    """Yield the dotted names that an expression may have, with an imported module's own name in front."""
    if isinstance(node, ast.IfExp):
        yield from targets(node.body, names)
        yield from targets(node.orelse, names)
    elif isinstance(node, ast.Attribute):
        yield from (f"{target}.{node.attr}" for target in targets(node.value, names))
    elif isinstance(node, ast.Name) and node.id in names:
        yield names[node.id]


def patched(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    """Yield the dotted names that a call of ``setattr`` or ``delattr`` replaces, pytest's or Python's own."""
    first, *rest = call.args
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        yield first.value
    elif rest:
        name = rest[0].value if isinstance(rest[0], ast.Constant) else ast.unparse(rest[0])
        yield from (f"{target}.{name}" for target in targets(first, names))


def replaced(source: str) -> Iterator[str]:
    """Yield each attribute of a module of tenantry that a test file replaces. mypy finds plain assignments."""
    if "attr(" not in source:  # parsing takes time
        return
    tree = ast.parse(source)
    names = imported_modules(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and node.args
            and ast.unparse(node.func).endswith(("setattr", "delattr"))
        ):
            yield from (one for one in patched(node, names) if is_module(one.rpartition(".")[0]))


def test_what_is_replaced_has_a_reason():
    """Tests replace no constant of tenantry's modules, and no function but those whose reason is listed."""
    found = {one for path in TESTS.rglob("*.py") for one in replaced(path.read_text())}
    assert found == set(REPLACED)
    assert [one for one in found if one.rpartition(".")[2].isupper()] == []


def test_no_way_to_replace_is_overlooked():
    """Modules are recognized by every name that an import gives them, and as text."""
    source = """
import tenantry.pages
import tenantry.ids as ours
from tenantry import pages
from tenantry.company import records as rows

def test(monkeypatch):
    monkeypatch.setattr(tenantry.pages, "A", 1)
    monkeypatch.delattr(ours, "B")
    monkeypatch.setattr(pages if ours else rows, "C", 1)
    monkeypatch.setattr("tenantry.pages.D", 1)
    setattr(rows, f"E_{pages}", 1)
    monkeypatch.setattr(pages.json, "loads", None)
    monkeypatch.setattr("tenantry.pages.Page.items", None)
    monkeypatch.setattr(monkeypatch, "F", 1)
"""
    assert list(replaced(source)) == [
        "tenantry.pages.A",
        "tenantry.ids.B",
        "tenantry.pages.C",
        "tenantry.company.records.C",
        "tenantry.pages.D",
        "tenantry.company.records.f'E_{pages}'",
    ]
