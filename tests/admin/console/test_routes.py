"""What the console asks of the API that nobody else does."""

import json

import httpx

from tenantry import Scope, TenantRegistry


async def test_a_key_can_ask_what_it_is_good_for(client: httpx.AsyncClient, registry: TenantRegistry):
    """`/v1/caller` tells a key's holder about it, without its secret."""
    made, key = await registry.keys.create(name="looks", scopes=(Scope.READ,), tenants=["acme"])
    client.headers["Authorization"] = f"Bearer {key}"
    answer = await client.get("/v1/caller")
    assert answer.json() == {"name": f"key:{made.id}", "key": made.model_dump(mode="json")}
    assert key.rpartition("_")[2] not in answer.text


async def test_many_tenants_statistics_come_in_one_answer(
    client: httpx.AsyncClient, registry: TenantRegistry
):
    """`/v1/statistics` tells of the tenants that it is asked about; those that are not there are left out."""
    for name in ("acme", "globex"):
        await registry.create(name)
    answer = await client.get("/v1/statistics", params={"tenant_id": ["globex", "nobody", "acme"]})
    assert [item["tenant_id"] for item in answer.json()["items"]] == ["globex", "acme"]
    single = await client.get("/v1/tenants/acme/statistics")
    assert answer.json()["items"][1] == single.json()
    assert (await client.get("/v1/statistics")).status_code == 422
    assert (await client.get("/v1/statistics", params={"tenant_id": ["a"] * 101})).status_code == 422
    _, key = await registry.keys.create(scopes=(Scope.READ,), tenants=["acme"])
    client.headers["Authorization"] = f"Bearer {key}"
    assert (await client.get("/v1/statistics", params={"tenant_id": ["acme", "globex"]})).status_code == 403


async def test_an_operations_steps_are_streamed(client: httpx.AsyncClient, registry: TenantRegistry):
    """Who follows an operation hears of each of its steps, of no other's, and of its end."""
    for name in ("acme", "globex"):
        await registry.create(name)
    begun = [(await client.post(f"/v1/tenants/{name}/archive")).json() for name in ("acme", "globex")]
    for operation in begun:
        stream = await client.get(f"/v1/operations/{operation['id']}/events")
        seen = [json.loads(line[5:]) for line in stream.text.splitlines() if line.startswith("data:")]
        assert seen[-1]["state"] == "succeeded"
        assert seen[-1]["steps"] == ["begun", "closed", "compacted", "finished"]
        lengths = [len(one["steps"]) for one in seen]
        assert lengths == sorted(lengths)
