"""What every answer has, and where to go from the root."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from service import Service


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v1/tenants", 200),
        ("POST", "/v1/tenants/acme/suspend", 404),
        ("POST", "/v1/tenants", 422),
        ("PUT", "/v1/tenants", 405),
        ("GET", "/nowhere", 404),
    ],
)
async def test_no_answer_is_kept_or_guessed_at(admin: httpx.AsyncClient, method: str, path: str, status: int):
    """Whatever the answer is: nobody on the way keeps it, and no browser takes it for something else."""
    response = await admin.request(method, path)
    assert response.status_code == status
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_failure_is_not_kept_either(service: Service):
    """What nobody expected has the headers too."""

    @service.app.get("/broken")
    async def broken() -> None:
        raise ValueError

    response = await (await service.client()).get("/broken")
    assert (response.status_code, response.headers["cache-control"]) == (500, "no-store")


async def test_the_console_is_kept(service: Service):
    """What says itself how long it may be kept is left alone."""
    response = await (await service.client()).get("/console/")
    assert response.headers.get_list("cache-control") == ["no-cache"]
    assert response.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_every_link_leads_somewhere(service: Service):
    """The root says what is where, also below a prefix and to whoever has no key; what needs one says so."""
    mounted = Starlette(routes=[Mount("/admin", service.app)])
    for app, root in ((service.app, ""), (mounted, "/admin")):
        client = await service.client(app=app)
        links = (await client.get(f"{root}/")).json()["links"]
        assert links["console"] == f"{root}/console/"
        for link in links.values():
            assert (await client.get(link)).status_code == (401 if "/v1/" in link else 200), link


async def test_what_is_not_there_is_not_linked(service: Service):
    """Without a console and probes the root names neither."""
    bare = Service(service.registry, has_probes=False, has_console=False)
    links = (await (await service.client(app=bare.app)).get("/")).json()["links"]
    assert set(links) == {"document", "tenants", "jobs", "audit"}
