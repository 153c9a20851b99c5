"""What is no id reaches nothing: whatever stands in its place, no command does something to something else."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from commands import WHERE, service, tenantry
from tenantry import RegistryConfig, Scope, TenantRegistry
from tenantry.cli import app
from tenantry.cli.client.api import api_path, tenant_path
from tenantry.cli.exits import CommandError, Exit
from tenants import query

pytestmark = pytest.mark.unmeasured

NO_IDS = ["..", ".", "", "%2e%2e", "../..", "a/b"]


@dataclass(frozen=True)
class Place:
    """Where commands work in one mode.

    Attributes:
        where: The options that say it.
        env: What else does.
        data_dir: The directory that they work on in the end.
        names: For each metavariable something that is there.
    """

    where: list[str]
    env: dict[str, str]
    data_dir: Path
    names: dict[str, str]

    def content(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all that the catalog holds but for the audit, which tells of what was refused too."""
        with closing(sqlite3.connect(self.data_dir / "catalog.db")) as catalog:
            tables = catalog.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%audit%'"
            ).fetchall()
            return {name: catalog.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables}


async def prepare(data_dir: Path) -> tuple[str, dict[str, str]]:
    """Make one of everything that has an id; return a key's secret and the ids."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        snapshot = await registry.snapshots.create("acme")
        job = await registry.fleet.start("check")
        await registry.fleet.wait(job.id)
        key, token = await registry.keys.create(scopes=[Scope.ADMIN])
    query(data_dir / "catalog.db", "INSERT INTO schemas VALUES ('old', '2026-11-23T12:00:00.000000+00:00')")
    names = {
        "TENANT": "acme",
        "NEW_ID": "new",
        "SNAPSHOT": snapshot.id,
        "JOB": job.id,
        "KEY": key.id,
        "SCHEMA": "old",
    }
    return token, names


@pytest.fixture(scope="module", params=["--url", "--data-dir"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service or a directory with one of everything."""
    data_dir = tmp_path_factory.mktemp("ids") / "data"
    token, names = asyncio.run(prepare(data_dir))
    bundle = data_dir.parent / "bundle"
    bundle.touch()
    names |= {"FILE": str(bundle), "KIND": "check"}
    with ExitStack() as stack:
        where = ["--data-dir", str(data_dir)]
        if request.param == "--url":
            where = ["--url", stack.enter_context(service(data_dir, key=token)).url]
        yield Place(where, {**dict.fromkeys(WHERE, ""), "TENANTRY_API_KEY": token}, data_dir, names)


OPTIONS = {"BACKEND": "sqlite"}
"""Values of options that a command needs, by their metavariables."""


def commands() -> Iterator[tuple[list[str], list[str], list[str]]]:
    """Yield each command's words, the metavariables of its arguments, and the options that it needs to run without a question."""
    for name, group in get_command(app).commands.items():
        for one, command in getattr(group, "commands", {}).items():
            # The name of an optional argument is in brackets.
            arguments = [
                (p.metavar or p.name.upper()).strip("[]")
                for p in command.params
                if p.param_type_name == "argument"
            ]
            options = [p for p in command.params if p.param_type_name == "option"]
            needed = [word for p in options if p.required for word in (p.opts[0], OPTIONS[p.metavar])]
            has_question = any("--yes" in p.opts for p in options)
            yield [name, one], arguments, [*needed, *(["--yes"] if has_question else [])]


# A file may be called %2e%2e or ?, and a storage lie anywhere; a job's kind is a name in a body, and looked up there.
FILES = {"..", ".", "", "../.."}
CASES = [
    pytest.param(words, arguments, position, text, sure, id=f"{' '.join(words)} {arguments[position]}={text}")
    for words, arguments, sure in commands()
    for position, metavar in enumerate(arguments)
    for text in NO_IDS
    if metavar not in {"KIND", "STORAGE"} and (metavar != "FILE" or text in FILES)
]


@pytest.mark.parametrize(("words", "arguments", "position", "text", "sure"), CASES)
def test_what_is_no_id_is_refused(
    place: Place, words: list[str], arguments: list[str], position: int, text: str, sure: list[str]
):
    """In the place of any argument of any command it ends the command with 2, and nothing is another than it was."""
    given = [place.names[metavar] for metavar in arguments]
    given[position] = text
    before = place.content()
    done = CliRunner().invoke(app, [*words, *sure, *place.where, "--", *given], env=place.env)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr
    assert place.content() == before


@pytest.mark.parametrize("text", ["..", ".", "../.."])
def test_a_tenant_is_not_taken_for_its_snapshot(place: Place, text: str):
    """As a process: to forget the snapshot ``..`` of a tenant is not to delete the tenant."""
    before = place.content()
    done = tenantry("snapshot", "delete", "acme", text, "--yes", *place.where, env=place.env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not an id" in done.stderr
    assert place.content() == before


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_a_path_has_no_parts_that_shorten_it(part: str):
    """Whatever a command passes on, no path is made with what would make it another one."""
    for make in (lambda: tenant_path("acme", "snapshots", part), lambda: api_path(part, "x")):
        with pytest.raises(CommandError, match="is not an id") as caught:
            make()
        assert caught.value.exit_code is Exit.USAGE


def test_parts_of_a_path_stay_parts():
    """What has a meaning in a URL has none in a part."""
    assert api_path("keys", "a/../b?c#d%2e") == "/v1/keys/a%2F..%2Fb%3Fc%23d%252e"
