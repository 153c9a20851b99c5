"""What the documentation shows is run as it stands."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tenantry import RegistryConfig, lifecycle

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).parents[2]


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_readme_example_runs(tmp_path: Path):
    """The README's example works as written, without a warning, also a second time, and leaves the data where it says."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"executed by tests/[a-z_/.]+ -->\n```python\n(.*?)```", readme, flags=re.DOTALL)
    for _ in range(2):
        done = _run(sys.executable, "-W", "error", "-c", example, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "tenantry-data" / "catalog.db").is_file()


def test_readme_example_is_short():
    """The first thing a newcomer reads fits on a screen."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"executed by tests/[a-z_/.]+ -->\n```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 16


def test_the_documentation_imports_public_names_only():
    """What a code block of a page, or an example, imports is public: a package with ``__all__``, or `tenantry.errors`."""
    doors = {"tenantry", "tenantry.errors"} | {
        f"tenantry.{package}"
        for package in ("admin", "company", "integrations", "observability", "storage", "testing")
    }
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.py")]
    for page in pages:
        found = re.findall(
            r"^\s*(?:from|import) (tenantry[\w.]*)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert set(found) <= doors, f"{page.name} imports from {set(found) - doors}"


def test_own_schema_example_runs(tmp_path: Path):
    """The example of a schema pack keeps an invoice with one company and not with the other, also when it is run again."""
    own_schema = str(ROOT / "examples" / "own_schema.py")
    for _ in range(2):
        done = _run(sys.executable, "-W", "error", own_schema, str(tmp_path / "data"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["acme: ['2026-001 99.90']", "globex: []"]


def test_the_whole_program_runs(tmp_path: Path):
    """The program of docs/integration.md has at most 80 lines, runs twice without a warning, and its own test passes."""
    page = (ROOT / "docs" / "integration.md").read_text(encoding="utf-8")
    section = page.partition("\n## A whole program\n")[2].partition("\n## ")[0]
    shown = re.findall(r"\]\(\.\./(examples/\S+)\)\n\n```\w+\n(.*?)```", section, flags=re.DOTALL)
    assert shown == [(name, (ROOT / name).read_text(encoding="utf-8")) for name, _ in shown]
    lines = [line for _, text in shown for line in text.splitlines()]
    assert len(lines) <= 80
    assert [line for line in lines if re.search(r"\b_[a-z]|\._", line)] == []
    names = [name for name, _ in shown]
    assert names[-2:] == ["examples/notes_program.py", "examples/test_notes.py"]
    program, tests = (str(ROOT / name) for name in names[-2:])
    for before in (0, 1_000):
        done = _run(sys.executable, "-W", "error", program, str(tmp_path / "data"), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        pages = [f"note {number % 1_000} on inbox" for number in range(0, before + 1_000, 250)]
        assert done.stdout.splitlines() == ["1000", *pages]
    done = _run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        tests,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_commands_for_several_processes_are_those_of_the_examples():
    """Each command of docs/processes.md is in an example, with whose commands tests start servers."""
    page = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
    shown = [
        line for block in re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL) for line in block.splitlines()
    ]
    examples = [path.read_text(encoding="utf-8") for path in (ROOT / "examples" / "processes").glob("*.py")]
    assert len(shown) > 3
    assert [line for line in shown if not any(line in example for example in examples)] == []


def test_the_troubleshooting_of_several_processes_quotes_messages():
    """Each message and log event in the table of docs/processes.md is in the source."""
    page = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
    table = page.partition("\n## Troubleshooting\n")[2].partition("\n## ")[0]
    quoted = re.findall(r'^\| .*?"(.+?)" \|', table, flags=re.MULTILINE) + re.findall(
        r"`(tenantry\.peer[\w.]+)`", table
    )
    texts = {
        node.value
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert len(quoted) > 10
    assert [one for one in quoted if not any(one in text for text in texts)] == []


def test_the_reasons_for_an_engine_are_quoted():
    """Each reason in the table of docs/operations.md is in the source."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("\n## The engine\n")[2].partition("\n## ")[0]
    quoted = re.findall(r'"(the engine .+?|SQLite .+?)"', section)
    source = (ROOT / "src/tenantry/storage/sqlite/engine/choice.py").read_text(encoding="utf-8")
    assert len(quoted) == 5
    assert [one for one in quoted if one not in source] == []


def test_lifecycle_diagram_is_the_tables():
    """The diagram in the design page is the one that the table prints."""
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert lifecycle.diagram() in design


def test_permissions_in_the_documentation_are_the_tables():
    """The design page's table of states and permissions says what `lifecycle.STATES` says."""
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    header = ["state", *lifecycle.Permission]
    rows = [
        [state, *("yes" if state.allows(permission) else "" for permission in lifecycle.Permission)]
        for state in lifecycle.TenantState
    ]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in design.splitlines()]
    begin = table.index(header)
    assert table[begin + 2 : begin + 2 + len(rows)] == rows


def test_every_setting_is_in_the_documentation():
    """The design page's tables of limits and defaults have each setting of a registry but for its place."""
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tables = [line for line in design.splitlines() if line.startswith("|")]
    settings = RegistryConfig.model_fields.keys() - {"data_dir"}
    assert {name for name in settings if not any(f"`{name}`" in line for line in tables)} == set()


def test_links_of_the_documentation_lead_somewhere():
    """Every relative link of the Markdown pages names a file or folder that exists."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_files_that_the_documentation_names_exist():
    """Each Python file that a Markdown page names with a folder is there, in a folder of that name."""
    files = {
        f"/{path.relative_to(ROOT)}"
        for room in ("src", "tests", "examples", "dashboards")
        for path in (ROOT / room).rglob("*.py")
    }
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"`((?:\w+/)+\w+\.py)`", page.read_text(encoding="utf-8")):
            assert any(path.endswith(f"/{name}") for path in files), f"{page.name} names {name}"


def test_the_makefile_names_tests_that_exist():
    """Every path of ``make test-part`` exists; pytest would run nothing if one of them were missing."""
    named = _run(
        "make", "--silent", "--no-print-directory", "--eval=show: ; @echo $(PART)", "show", cwd=ROOT
    ).stdout.split()
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_each_guarantee_names_a_test_that_exists():
    """Each sentence of the page of guarantees links at least one test, and the named file defines that test."""
    page = ROOT / "docs" / "guarantees.md"
    text = page.read_text(encoding="utf-8")
    guarantees = re.findall(r"^- .*?(?=^- |^#|^$|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert len(guarantees) > 20
    for guarantee in guarantees:
        proofs = re.findall(r"\[`(\w+)`\]\(([^)]+)\)", guarantee)
        assert proofs, f"no test is linked: {guarantee}"
        for name, path in proofs:
            source = (page.parent / path).read_text(encoding="utf-8")
            assert re.search(rf"\bdef {name}\(", source), f"{path} has no {name}"
