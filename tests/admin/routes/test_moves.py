"""Moves over HTTP: planned, made as operations, and refused with their problems."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from moves import with_east
from service import Service, check_problem, ended
from tenantry import Statement
from tenantry.cli.commands import tenant_move
from tenantry.tenancy.move.phase import STEPS


@pytest.fixture
async def moving(data_dir: Path) -> AsyncIterator[Service]:
    """The API of a registry with a second back end, ``east``, and a tenant ``acme``."""
    registry = with_east(data_dir)
    async with registry, Service(registry) as running:
        await registry.create("acme")
        yield running


async def move(client: httpx.AsyncClient, to: str, **headers: str) -> dict[str, Any]:
    """Move the tenant, and return the operation at its end."""
    response = await client.post("/v1/tenants/acme/move", json={"to": to}, headers=headers)
    return await ended(client, response)


async def test_a_move(moving: Service):
    """The operation reports its steps, and its result is the tenant at the new place; the audit names the caller and both places."""
    admin = await moving.caller("admin")
    plan = (await admin.get("/v1/tenants/acme/move", params={"to": "east"})).json()
    assert (plan["source"], plan["target"], plan["refusals"]) == ("sqlite", "east", [])
    assert {"messages", "tasks"} <= {table["name"] for table in plan["tables"]}
    operation = await move(admin, "east")
    assert (operation["action"], operation["state"], operation["steps"]) == ("move", "succeeded", list(STEPS))
    assert operation["result"]["backend"] == "east"
    assert operation["result"] | {"owner": None} == (await admin.get("/v1/tenants/acme")).json()
    row = next(row for row in (await admin.get("/v1/audit")).json()["items"] if row["action"] == "move")
    assert (row["outcome"], row["detail"]["to"]) == ("ok", "east")
    assert row["principal"].startswith("key:")


async def test_a_repeated_request(moving: Service):
    """With an idempotency key it gets the first operation; an old revision is refused, and so is a wrong one."""
    admin = await moving.caller("admin")
    headers = {"Idempotency-Key": "once", "If-Match": '"2"'}
    body = {"to": "east"}
    first, again = [await admin.post("/v1/tenants/acme/move", json=body, headers=headers) for _ in range(2)]
    assert first.json()["id"] == again.json()["id"]
    await ended(admin, first)
    late = await admin.post("/v1/tenants/acme/move", json={"to": "sqlite"}, headers={"If-Match": '"2"'})
    check_problem(late, 412, "revision")


@pytest.mark.parametrize(
    "body", [{}, {"to": ""}, {"to": "East"}, {"to": "../x"}, {"to": 1}, {"to": "a" * 32}]
)
async def test_a_name_that_is_none(moving: Service, body: dict[str, Any]):
    """It is refused before anything begins, for a plan as well."""
    admin = await moving.caller("admin")
    check_problem(await admin.post("/v1/tenants/acme/move", json=body), 422, "invalid")
    params = {name: str(value) for name, value in body.items() if value != 1}
    check_problem(await admin.get("/v1/tenants/acme/move", params=params), 422, "invalid")


async def test_refusals(moving: Service):
    """Each has its problem: a back end that is not in the settings, a table without a primary key, a state."""
    admin = await moving.caller("admin")
    problem = (await move(admin, "west"))["problem"]
    assert (problem["type"], problem["setting"]) == (
        "urn:tenantry:problem:backend-not-configured",
        "TENANTRY_DATABASES__west",
    )
    unknown = await admin.get("/v1/tenants/acme/move", params={"to": "west"})
    check_problem(unknown, 409, "backend-not-configured")
    session = moving.registry.tenant("acme")._session
    await session.write(Statement("test.create", "CREATE TABLE notes (text)"))
    plan = (await admin.get("/v1/tenants/acme/move", params={"to": "east"})).json()
    assert plan["refusals"] == ["table 'notes' cannot be moved, because it has no primary key"]
    problem = (await move(admin, "east"))["problem"]
    assert (problem["type"], problem["status"], problem["tables"]) == (
        "urn:tenantry:problem:tenant-not-movable",
        409,
        ["notes"],
    )
    await admin.post("/v1/tenants/acme/quarantine")
    assert (await move(admin, "east"))["problem"]["type"] == "urn:tenantry:problem:tenant-quarantined"


async def test_who_may_move(moving: Service):
    """A plan needs a key that reads; a move needs one for administrators, of this tenant."""
    reader, operator = await moving.caller("read"), await moving.caller("operate")
    assert (await reader.get("/v1/tenants/acme/move", params={"to": "east"})).status_code == 200
    for client in (reader, operator):
        refused = await client.post("/v1/tenants/acme/move", json={"to": "east"})
        check_problem(refused, 403, "scope")
    other = await moving.caller("admin", tenants=["globex"])
    check_problem(await other.post("/v1/tenants/acme/move", json={"to": "east"}), 403, "tenant")
    own = await moving.caller("admin", tenants=["acme"])
    assert (await move(own, "east"))["state"] == "succeeded"


async def test_other_operations_during_a_move(moving: Service):
    """The tenant is shown as busy with its move, and another operation on it is refused until the move has ended."""
    admin, seen = await moving.caller("admin"), asyncio.Event()
    registry = moving.registry
    registry.add_hook(lambda event: seen.set() if getattr(event, "step", None) == "journaled" else None)
    moved = asyncio.create_task(move(admin, "east"))
    await seen.wait()
    assert (await admin.get("/v1/tenants/acme")).json()["busy_with"] == "move"
    await moved
    assert (await admin.get("/v1/tenants/acme")).json()["busy_with"] is None


def test_the_progress_bar_knows_the_steps():
    """The command's number of steps is the number of steps that there are."""
    assert len(STEPS) == tenant_move.STEPS
