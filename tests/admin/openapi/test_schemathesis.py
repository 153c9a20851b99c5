"""schemathesis over the whole document, with every check on, against a real server."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from service import Service, served
from tenantry import TenantRegistry
from tenantry.admin.http.unexpected_errors import REQUEST_FAILED
from tenants import make_message

pytestmark = pytest.mark.unmeasured

SECONDS_MAX = 600.0
HERE = Path(__file__).parent


@pytest.mark.parametrize("examples_max", [2, pytest.param(20, marks=pytest.mark.soak)])
async def test_the_api_is_what_its_document_says(registry: TenantRegistry, examples_max: int):
    """Whatever is sent, in line with the document or not, is answered as the document says, and nothing fails inside.

    What each check is told beforehand, and why, is in ``schemathesis.toml``.
    """
    await registry.create("acme")
    await registry.tenant("acme").messages.save(make_message())
    await registry.snapshots.create("acme")
    structlog.configure()
    with capture_logs() as logs:
        async with Service(registry) as service, served(service.app) as url:
            returncode, said = await schemathesis(
                f"{url}/openapi.json", await service.token("admin"), examples_max
            )
            count = sum(len(item) for item in service.app.openapi()["paths"].values())
    assert returncode == 0, said
    assert f"Tested: {count}" in said
    # Also once an answer has begun, when no status can tell of it any more.
    assert [log for log in logs if log["event"] == REQUEST_FAILED] == []


async def schemathesis(document: str, token: str, examples_max: int) -> tuple[int | None, str]:
    """Run it, and return its exit code and what it says."""
    command = ["--config-file", HERE / "schemathesis.toml", "run", document]
    options = ["--checks", "all", "--max-examples", examples_max, "--workers", 1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli"),
        *map(str, (*command, *options, "-H", f"Authorization: Bearer {token}")),
        cwd=HERE,  # the hooks are there
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS_MAX):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, output.decode()
