"""schemathesis over the whole document, with every check on, against a real server."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from service import Service, served
from tenantry import TenantRegistry
from tenantry.admin.auth import KeyAuthenticator
from tenants import HandClock, make_message

SECONDS_MAX = 600.0
EXAMPLES_MAX = 5
HERE = Path(__file__).parent


class LeapingClock(HandClock):
    """A clock by which any two failures lie far apart: there are checks that show wrong keys again and again."""

    def monotonic_seconds(self) -> float:
        self.seconds += 3600
        return self.seconds


async def test_the_api_is_what_its_document_says(registry: TenantRegistry):
    """Whatever is sent, in line with the document or not, is answered as the document says, and nothing fails inside.

    What each check is told beforehand, and why, is in ``schemathesis.toml``.
    """
    await registry.create("acme")
    await registry.tenant("acme").messages.save(make_message())
    await registry.snapshots.create("acme")
    authenticate = KeyAuthenticator(registry.keys, LeapingClock())
    async with Service(registry, authenticate=authenticate) as service, served(service.app) as url:
        command = ["--config-file", HERE / "schemathesis.toml", "run", f"{url}/openapi.json"]
        options = ["--checks", "all", "--max-examples", EXAMPLES_MAX, "--workers", 1]
        header = ["-H", f"Authorization: Bearer {await service.token('admin')}"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli"),
            *map(str, (*command, *options, *header)),
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
        count = sum(len(item) for item in service.app.openapi()["paths"].values())
    said = output.decode()
    assert process.returncode == 0, said
    assert f"Tested: {count}" in said
