"""Lists as pages: people are told that there is more, and how to have it; programs have it in the document."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from commands import WHERE, service
from tenantry import RegistryConfig, Scope, TenantRegistry
from tenantry.cli import app

COUNT = 3
MORE = re.compile(r"tenantry: more items follow: use --all, or --cursor (\S+) for the next page\n")


async def prepare(data_dir: Path) -> tuple[str, str]:
    """Make three of everything that is listed; return a key's secret and a job that has ended."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        for number in range(COUNT):
            await registry.create(f"acme-{number}")
        tokens = [(await registry.keys.create(scopes=[Scope.ADMIN])).token for _ in range(COUNT)]
        for _ in range(COUNT):
            job = await registry.fleet.start("check")
            await registry.fleet.wait(job.id)
    return tokens[0], job.id


@pytest.fixture(scope="module", params=["--url", "--data-dir"])
def where(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, str], str]]:
    """The environment that says where, and a job."""
    data_dir = tmp_path_factory.mktemp("lists") / "data"
    token, job_id = asyncio.run(prepare(data_dir))
    with ExitStack() as stack:
        if request.param == "--url":
            yield stack.enter_context(service(data_dir, key=token)).env, job_id
        else:
            yield {"TENANTRY_DATA_DIR": str(data_dir)}, job_id


@pytest.mark.parametrize(
    "line", ["tenant list", "key list", "audit list", "fleet list", "fleet results {job}"]
)
def test_a_list_that_is_cut_says_so(where: tuple[dict[str, str], str], line: str):
    """The first page says how the next is had, the two are all there is, and all at once say nothing."""
    env, job_id = where

    def run(*options: object) -> Result:
        given = [*line.format(job=job_id).split(), *map(str, options)]
        done = CliRunner().invoke(app, given, env={**dict.fromkeys(WHERE, ""), **env})
        assert done.exit_code == 0, done.output
        return done

    whole = json.loads(run("--all", "--json").stdout)["items"]
    assert len(whole) >= COUNT
    first = json.loads(run("--limit", COUNT - 1, "--json").stdout)
    said = MORE.fullmatch(run("--limit", COUNT - 1).stderr)
    assert said is not None
    assert said[1] == first["next_cursor"]
    rest = json.loads(run("--limit", 1000, "--cursor", said[1], "--json").stdout)
    assert (first["items"] + rest["items"], rest["next_cursor"]) == (whole, None)
    assert run("--limit", 1000, "--cursor", said[1]).stderr == ""
