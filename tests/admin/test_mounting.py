"""Inside another application, below a prefix, and behind a real server."""

import asyncio
import json
from functools import partial
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from service import Service, check_problem, ended, files_with
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin import create_admin_app
from tenantry.events import OperationStepped
from tenants import HANG_SECONDS, Recorder, python, read_line, until


def in_starlette(app: FastAPI) -> Starlette:
    """Mount it into Starlette."""
    return Starlette(routes=[Mount("/admin", app)])


def in_fastapi(app: FastAPI) -> FastAPI:
    """Mount it into FastAPI."""
    outer = FastAPI()
    outer.mount("/admin", app)
    return outer


@pytest.mark.parametrize("mount", [in_starlette, in_fastapi])
async def test_below_a_prefix(service: Service, mount: "type[FastAPI]"):
    """Everything works, each Location leads back to where the API is, and the document says where that is."""
    client = await service.client(await service.token("admin"), app=mount(service.app))
    created = await client.post("/admin/v1/tenants", json={"id": "acme"}, headers={"Idempotency-Key": "k"})
    assert created.headers["location"] == "/admin/v1/tenants/acme"
    again = await client.post("/admin/v1/tenants", json={"id": "acme"}, headers={"Idempotency-Key": "k"})
    assert again.headers["location"] == "/admin/v1/tenants/acme"
    direct = await service.client(client.headers["authorization"].removeprefix("Bearer "))
    elsewhere = await direct.post("/v1/tenants", json={"id": "acme"}, headers={"Idempotency-Key": "k"})
    assert elsewhere.headers["idempotency-replayed"] == "true"
    snapshot = partial(client.post, "/admin/v1/tenants/acme/snapshots", headers={"Idempotency-Key": "s"})
    accepted = await snapshot()
    assert accepted.headers["location"].startswith("/admin/v1/operations/")
    assert (await ended(client, accepted))["state"] == "succeeded"
    await service.app.state.service.operations.aclose()
    assert (await snapshot()).headers["location"] == accepted.headers["location"]
    document = (await client.get("/admin/openapi.json")).json()
    assert document["servers"] == [{"url": "/admin"}]
    check_problem(await client.get("/admin/v1/nothing"), 404, "not-found")
    refused = await client.put("/admin/v1/tenants")
    assert refused.headers["allow"] == "GET, POST"
    bundle = await client.get("/admin/v1/tenants/acme/export")
    imported = await client.post(
        "/admin/v1/tenants/b/import", content=bundle.content, headers={"content-type": "application/gzip"}
    )
    assert imported.headers["location"] == "/admin/v1/tenants/b"


async def test_its_lifespan_may_be_left_out(data_dir: Path):
    """A mounted application's does not run: what it has begun is finished when the registry closes, and nothing is left."""
    before, recorder = asyncio.all_tasks(), Recorder()
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), hooks=[recorder]) as registry:
        app = in_starlette(create_admin_app(registry))
        made = await registry.keys.create(scopes=["operate"])
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://service/admin",
            headers={"Authorization": f"Bearer {made.token}"},
        ) as client:
            await client.post("/v1/tenants", json={"id": "acme"})
            assert (await client.post("/v1/tenants/acme/archive")).status_code == 202
            await recorder.wait_for(OperationStepped, action="archive")
    await until(lambda: asyncio.all_tasks() == before)
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        assert (await registry.get("acme")).state == "archived"


SERVER = """
import asyncio, logging, socket, sys
import structlog, uvicorn
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin import create_admin_app

async def main():
    logging.basicConfig(level=logging.DEBUG)
    structlog.configure()
    async with TenantRegistry(RegistryConfig(data_dir=sys.argv[1])) as registry:
        made = await registry.keys.create(scopes=["admin"])
        bound = socket.create_server(("127.0.0.1", 0))
        print(f"http://127.0.0.1:{bound.getsockname()[1]}", made.token, flush=True, file=sys.__stdout__)
        config = uvicorn.Config(create_admin_app(registry), log_level="trace", ws="none")
        await uvicorn.Server(config).serve([bound])

sys.stdout = sys.stderr = open(sys.argv[2], "w", buffering=1)
asyncio.run(main())
"""


async def test_no_secret_in_any_log(data_dir: Path, tmp_path: Path):
    """With every logger at its most talkative, a token, good or wrong, and a body's content are in no log and in no file."""
    log = tmp_path / "log"
    with python(SERVER, data_dir, log) as process:
        url, token = read_line(process).split()
        async with httpx.AsyncClient(base_url=url, timeout=HANG_SECONDS) as client:
            wrong = f"tnt_{'1' * 16}_{'2' * 64}"
            headers = {"Authorization": f"Bearer {token}"}
            made = await client.post("/v1/keys", json={"name": "n"}, headers=headers)
            assert made.status_code == 201
            assert (await client.get("/v1/tenants", headers=headers)).status_code == 200
            assert (
                await client.get("/v1/tenants", headers={"Authorization": f"Bearer {wrong}"})
            ).status_code == 401
            body = json.dumps({"id": "s3cret!"})
            json_headers = {**headers, "content-type": "application/json"}
            assert (await client.post("/v1/tenants", content=body, headers=json_headers)).status_code == 422
            assert (
                await client.post("/v1/tenants", content=body[:-2], headers=json_headers)
            ).status_code == 400
        process.terminate()
        process.wait(HANG_SECONDS)
    said = log.read_text()
    assert "POST /v1/keys" in said
    assert "Traceback" not in said
    for secret in (token, made.json()["token"], wrong):
        assert secret.rpartition("_")[2] not in said
        assert files_with(data_dir, secret.rpartition("_")[2]) == []
    assert "s3cret!" not in said
