"""Operators who are in each other's way: what was decided on something that has changed, and two who want the opposite."""

import asyncio
from typing import Any

import httpx
import pytest

from service import Service, check_problem, ended
from tenantry.lifecycle import TenantState


async def test_changing_what_was_read(admin: httpx.AsyncClient, acme: dict[str, Any]):
    """A change that was decided on what the tenant is not any more is 412, and changes nothing."""
    stale = f'"{acme["revision"]}"'
    first = await admin.patch("/v1/tenants/acme", json={"display_name": "first"}, headers={"If-Match": stale})
    assert first.status_code == 200
    problem = check_problem(
        await admin.patch("/v1/tenants/acme", json={"display_name": "second"}, headers={"If-Match": stale}),
        412,
        "revision",
    )
    assert problem["current_revision"] == first.json()["revision"]
    assert (await admin.get("/v1/tenants/acme")).json()["display_name"] == "first"


@pytest.mark.parametrize(
    ("if_match", "status"),
    [
        ("*", 200),
        ('"{0}"', 200),
        ('"nonsense", "{0}"', 200),
        ('W/"{0}"', 412),
        ("{0}", 412),
        ('"0"', 412),
        ('"nonsense"', 412),
        ("", 412),
        ('"{0}', 412),
    ],
)
async def test_ways_to_say_what_was_read(
    admin: httpx.AsyncClient, acme: dict[str, Any], if_match: str, status: int
):
    """Tags are compared as RFC 9110 says: several may be given, any by a star, and a weak one matches nothing."""
    response = await admin.patch(
        "/v1/tenants/acme",
        json={"display_name": "x"},
        headers={"If-Match": if_match.format(acme["revision"])},
    )
    assert response.status_code == status, response.text


async def test_two_changes_of_the_same_tenant_at_once(admin: httpx.AsyncClient, acme: dict[str, Any]):
    """Of many that were decided on the same revision exactly one takes effect."""
    tag = f'"{acme["revision"]}"'
    answers = await asyncio.gather(
        *(
            admin.patch("/v1/tenants/acme", json={"display_name": f"name {n}"}, headers={"If-Match": tag})
            for n in range(8)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    winner = next(answer.json() for answer in answers if answer.status_code == 200)
    shown = (await admin.get("/v1/tenants/acme")).json()
    assert shown == {**winner, "owner": shown["owner"]}


STEPS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("DELETE", "", None),
    ("POST", "/suspend", None),
    ("POST", "/resume", None),
    ("POST", "/archive", None),
    ("POST", "/unarchive", None),
    ("POST", "/undelete", None),
    ("POST", "/purge", None),
    ("POST", "/rename", {"new_id": "other"}),
    ("POST", "/quarantine", None),
    ("POST", "/repair", None),
    ("POST", "/clone", {"new_id": "other"}),
    ("POST", "/undo-restore", None),
]


@pytest.mark.parametrize(("method", "path", "body"), STEPS)
async def test_a_step_that_was_decided_on_something_else(
    service: Service, acme: dict[str, Any], method: str, path: str, body: dict[str, Any] | None
):
    """Every step of a tenant's life takes If-Match: what was decided on an older tenant is 412, and nothing happens."""
    admin, reader = await service.caller("admin"), await service.caller("read")
    await admin.patch("/v1/tenants/acme", json={"display_name": "changed"})
    before = (await admin.get("/v1/tenants/acme")).json()
    stale = {"If-Match": f'"{acme["revision"]}"'}
    response = await admin.request(method, f"/v1/tenants/acme{path}", json=body, headers=stale)
    problem = check_problem(response, 412, "revision")
    assert problem["current_revision"] == before["revision"]
    assert (await admin.get("/v1/tenants/acme")).json() == before
    # What would be refused without it is refused for that.
    refused = await reader.request(method, f"/v1/tenants/acme{path}", json=body, headers=stale)
    check_problem(refused, 403, "scope")
    missing = await admin.request(method, f"/v1/tenants/missing{path}", json=body, headers=stale)
    check_problem(missing, 404, "tenant-not-found")


async def test_steps_that_were_decided_on_what_is(admin: httpx.AsyncClient, acme: dict[str, Any]):
    """With the tag of the answer before, or any, each step is taken."""
    suspended = await admin.post("/v1/tenants/acme/suspend", headers={"If-Match": f'"{acme["revision"]}"'})
    assert suspended.status_code == 200
    resumed = await admin.post("/v1/tenants/acme/resume", headers={"If-Match": suspended.headers["etag"]})
    assert resumed.status_code == 200
    deleted = await admin.delete("/v1/tenants/acme", headers={"If-Match": "*"})
    assert deleted.status_code == 200
    tag = {"If-Match": deleted.headers["etag"]}
    accepted = await admin.post("/v1/tenants/acme/purge", json={"force": True}, headers=tag)
    assert (await ended(admin, accepted))["state"] == "succeeded"


async def test_steps_that_were_decided_on_the_same(admin: httpx.AsyncClient, acme: dict[str, Any]):
    """Of all that are asked for at once with the same tag exactly one happens, whichever it is."""
    tag = {"If-Match": f'"{acme["revision"]}"'}
    answers = await asyncio.gather(
        admin.post("/v1/tenants/acme/suspend", headers=tag),
        admin.delete("/v1/tenants/acme", headers=tag),
        admin.post("/v1/tenants/acme/quarantine", headers=tag),
        admin.post("/v1/tenants/acme/rename", json={"new_id": "other"}, headers=tag),
        admin.patch("/v1/tenants/acme", json={"display_name": "x"}, headers=tag),
        admin.post("/v1/tenants/acme/suspend", headers=tag),
    )
    statuses = [answer.status_code for answer in answers]
    # Whoever comes after the tenant was renamed finds none.
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 404, 412}


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("one", "other", "ends"),
    [
        ("suspend", "resume", {"suspended", "active"}),
        ("suspend", "delete", {"deleted"}),
        ("suspend", "quarantine", {"suspended", "quarantined"}),
    ],
)
async def test_two_operators_who_want_the_opposite(
    service: Service, admin: httpx.AsyncClient, one: str, other: str, ends: set[str]
):
    """Both at once, again and again: each is done or refused with 409, and the tenant is what one of them wanted."""
    second = await service.caller("admin")

    async def ask(client: httpx.AsyncClient, action: str) -> int:
        if action == "delete":
            return (await client.delete("/v1/tenants/acme")).status_code
        return (await client.post(f"/v1/tenants/acme/{action}")).status_code

    for _ in range(5):
        statuses = await asyncio.gather(ask(admin, one), ask(second, other))
        assert set(statuses) <= {200, 409}
        assert 200 in statuses
        assert (await admin.get("/v1/tenants/acme")).json()["state"] in ends
        for way_back in ("undelete", "repair", "resume"):
            response = await admin.post(f"/v1/tenants/acme/{way_back}")
            if response.status_code == 202:
                await ended(admin, response)
    assert (await admin.get("/v1/audit/verification")).json()["is_intact"]


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("first", ["purge", "undelete"])
async def test_one_purges_while_another_undeletes(service: Service, admin: httpx.AsyncClient, first: str):
    """Exactly one of them gets what they wanted; the other hears that it is too late, whoever asked first."""
    second = await service.caller("admin")
    await admin.delete("/v1/tenants/acme")

    async def purge() -> int:
        begun = await admin.post("/v1/tenants/acme/purge", json={"force": True})
        if begun.status_code != 202:
            return begun.status_code
        operation = await ended(admin, begun)
        return 200 if operation["state"] == "succeeded" else operation["problem"]["status"]

    async def undelete() -> int:
        return (await second.post("/v1/tenants/acme/undelete")).status_code

    calls = {"purge": purge, "undelete": undelete}
    if first == "undelete":
        calls = dict(reversed(calls.items()))
    answers = await asyncio.gather(*(call() for call in calls.values()))
    statuses = dict(zip(calls, answers, strict=True))
    found = await service.registry.list(state=TenantState.ACTIVE)
    winner = "undelete" if [tenant.id for tenant in found] == ["acme"] else "purge"
    loser = "purge" if winner == "undelete" else "undelete"
    assert statuses[winner] == 200
    assert statuses[loser] in {404, 409}


async def test_two_who_want_the_same_id(admin: httpx.AsyncClient):
    """One creates the tenant, the others hear that it exists."""
    answers = await asyncio.gather(*(admin.post("/v1/tenants", json={"id": "acme"}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
