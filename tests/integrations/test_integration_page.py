"""The registry's life inside an application's, and the page of the documentation about it."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount, Route

from hosts import ACME, PROBLEM, check_refused, starlette_app
from serving import client_of, serve
from tenantry import RegistryConfig, Repository, Schema, Scope, TenantRegistry, errors
from tenantry.admin import create_admin_app
from tenantry.admin.http.problems import problem_of, status_of
from tenantry.errors import SettingsError
from tenantry.integrations.fastapi import (
    from_header,
    opened_registry,
    registry_lifespan,
)
from tenantry.testing.conformance.samples import make_task


class TestLifespan:
    """The registry's life inside an application's."""

    async def test_it_is_open_as_long_as_the_application_runs(self, data_dir: Path):
        """From a configuration each start gets a registry of its own, which is closed at the end."""
        config = RegistryConfig(data_dir=data_dir)
        app = starlette_app(opened_registry, from_header("X-Tenant"), lifespan=registry_lifespan(config))
        seen: list[TenantRegistry] = []

        async def create(request: Request) -> JSONResponse:
            seen.append(opened_registry(request))
            return JSONResponse((await seen[-1].create("acme")).id)

        app.router.routes.append(Route("/create", create, methods=["POST"]))
        async with serve(app) as client:
            assert (await client.post("/create")).json() == "acme"
        async with serve(app) as client:
            assert (await client.get("/whoami", headers=ACME)).json() == "acme"
            assert (await client.post("/create")).status_code == 409
        assert seen[0] is not seen[1]
        for registry in seen:
            with pytest.raises(Exception, match="the registry is not open"):
                await registry.get("acme")

    async def test_it_is_there_for_a_mounted_application(self, data_dir: Path):
        """An application inside of another finds the registry that the outer one opened."""
        registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
        inner = starlette_app(opened_registry, from_header("X-Tenant"))
        outer = Starlette(routes=[Mount("/inner", inner)], lifespan=registry_lifespan(registry))
        async with serve(outer) as client:
            await registry.create("acme")
            assert (await client.get("/inner/whoami", headers=ACME)).json() == "acme"

    async def test_lifespans_of_mounted_applications(self, data_dir: Path):
        """Those that are named begin after the registry was opened and end before it is closed."""
        registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
        said: list[str] = []

        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            await registry.create("acme")
            said.append("begun")
            yield
            said.append((await registry.get("acme")).id)

        inner = Starlette(lifespan=asynccontextmanager(lifespan))
        outer = Starlette(
            routes=[Mount("/inner", inner)], lifespan=registry_lifespan(registry, mounted=[inner])
        )
        async with serve(outer):
            assert said == ["begun"]
        assert said == ["begun", "acme"]

    async def test_without_a_lifespan(self):
        """An application that opens no registry answers 503, and the error says what is missing."""
        async with client_of(starlette_app(opened_registry, from_header("X-Tenant"))) as client:
            check_refused(await client.get("/whoami", headers=ACME), 503, "registry-closed")

    async def test_the_admin_api_inside(self, data_dir: Path):
        """Mounted, it works on the same registry, and says where things are from outside."""
        registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
        admin = create_admin_app(registry)
        app = starlette_app(
            registry, from_header("X-Tenant"), lifespan=registry_lifespan(registry, mounted=[admin])
        )
        app.mount("/admin", admin)
        async with serve(app) as client:
            key = (await registry.keys.create(scopes=[Scope.ADMIN])).token
            headers = {"Authorization": f"Bearer {key}"}
            once = {**headers, "Idempotency-Key": "once"}
            for _ in range(2):
                made = await client.post("/admin/v1/tenants", json={"id": "acme"}, headers=once)
                assert (made.status_code, made.headers["location"]) == (201, "/admin/v1/tenants/acme")
            assert (await client.get("/whoami", headers=ACME)).json() == "acme"
            unknown = await client.get("/whoami", headers={"X-Tenant": "initech"})
            check_refused(unknown, 404, "tenant-not-found")
            begun = await client.post("/admin/v1/tenants/acme/archive", headers=headers)
            followed = await client.get(f"{begun.headers['location']}/events", headers=headers)
            assert followed.text.count("event: succeeded") == 1
            check_refused(await client.get("/whoami", headers=ACME), 409, "tenant-state")

    async def test_packs_of_a_registry_that_is_made(self, data_dir: Path):
        """The registry has the packs that the lifespan was given."""
        notes = Schema("company", "tenantry.company", {"notes": Repository})
        app = FastAPI(lifespan=registry_lifespan(data_dir, schemas=[notes]))
        async with app.router.lifespan_context(app) as state:
            registry = state["tenant_registry"]
            await registry.create("acme")
            assert isinstance(registry.tenant("acme").notes, Repository)
            assert not hasattr(registry.tenant("acme"), "tasks")

    async def test_packs_of_a_registry_that_is_given(self, registry: TenantRegistry):
        """It has its packs already: giving others would have no effect."""
        with pytest.raises(SettingsError, match="pass schemas= to TenantRegistry"):
            registry_lifespan(registry, schemas=[])


async def test_the_pages_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What docs/integration.md shows runs as it stands, and does what the page says of it."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "integration.md").read_text(encoding="utf-8")
    program: dict[str, Any] = {"__name__": "program"}
    web, _, _ = page.partition(
        "\n## A whole program\n"
    )  # test_documentation.py and test_sqlalchemy.py run the rest
    exec("".join(re.findall(r"```python\n(.*?)```", web, flags=re.DOTALL)), program)
    async with serve(program["app"]) as client:
        [refusal] = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
        await create_tenants(tmp_path / "data", "acme", "sleeping")
        assert [task["id"] for task in (await client.get("/tasks", headers=ACME)).json()] == ["one", "two"]
        assert (await client.get("/count", headers=ACME)).text == "2"
        assert (await client.get("/loads", headers=ACME)).json() == []
        assert (await client.post("/projects/apollo/assign?to=ada", headers=ACME)).json() == 2
        assert (await client.get("/loads", headers=ACME)).json() == [{"assigned_to": "ada", "tasks": 2}]
        assert (await client.get("/titles", headers=ACME)).text == "one Write it\ntwo Write it\n"
        assert (await client.get("/tasks", headers={"X-Tenant": "sleeping"})).json() == json.loads(refusal)
        assert (await client.get("/me", headers={"Authorization": "Bearer t0ken"})).json() == "acme"
        assert (await client.get("/me", headers=ACME)).status_code == 401
        assert (await client.post("/companies/globex")).json() == "globex"
    program["other"].include_router(program["app"].router)
    async with serve(program["other"]) as client:
        assert (await client.post("/companies/initech")).json() == "initech"
    async with serve(program["runtime"]) as client:
        assert (await client.get("/admin/healthz")).text == "ok\n"
        assert (await client.get("/admin/v1/tenants")).status_code == 401


async def create_tenants(data_dir: Path, active: str, suspended: str) -> None:
    """Create two tenants, one of them with two tasks, as an operator does beside a program that runs."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create(active)
        for task_id in ("one", "two"):
            await registry.tenant(active).tasks.save(make_task(task_id, project="apollo"))
        await registry.create(suspended)
        await registry.suspend(suspended)


def test_each_status_of_the_page_is_true():
    """The page's table of statuses is that of the API: each `type` with the status that its error has."""
    page = (Path(__file__).parents[2] / "docs" / "integration.md").read_text(encoding="utf-8")
    known = {slug_of(kind): kind for kind in vars(errors).values() if is_error(kind)}
    rows = re.findall(r"^\| (\d{3}) \|.*\| (`.*`) \|$", page, flags=re.MULTILINE)
    assert len(rows) == 10
    for status, slugs in rows:
        for slug in re.findall(r"`([a-z-]+)`", slugs):
            assert status_of(known[slug].__new__(known[slug])) == int(status), slug


def is_error(value: object) -> bool:
    """Return whether this is one of our errors."""
    return isinstance(value, type) and issubclass(value, errors.TenantryError)


def slug_of(kind: type[errors.TenantryError]) -> str:
    """Return what ends the type of an error's problem."""
    return str(problem_of(kind.__new__(kind))["type"]).removeprefix(PROBLEM)
