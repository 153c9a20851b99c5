"""What the service sends for the console."""

import json
import re

import httpx
import pytest
from fastapi import FastAPI

from tenantry import TenantRegistry
from tenantry.admin import create_admin_app
from tenantry.admin.routes.console import load_assets

# The SVG namespace is a name; nothing is fetched from there.
NAMESPACE = "http://www.w3.org/2000/svg"


async def test_every_file_comes_with_strict_headers(client: httpx.AsyncClient):
    """Each file says that nothing from elsewhere runs with it, that nobody frames it, and how it is kept."""
    for name in load_assets():
        await _check_headers(client, f"/console/{name}")


async def _check_headers(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert {"script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
    assert {"frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} <= set(policy)
    assert "unsafe" not in " ".join(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"
    known = await client.get(path, headers={"If-None-Match": f'"x", W/{answer.headers["etag"]}'})
    assert (known.status_code, known.content) == (304, b"")
    changed = await client.get(path, headers={"If-None-Match": '"x"'})
    assert changed.content == answer.content
    head = await client.head(path)
    assert (head.status_code, head.headers["etag"]) == (200, answer.headers["etag"])


@pytest.mark.parametrize("name", sorted(load_assets()))
def test_nothing_is_fetched_from_elsewhere(name: str):
    """No file names another place, or a file that is not there; none has a script or a style in its markup."""
    text = load_assets()[name].body.decode()
    code = re.sub(r"^\s*(//|\*|/\*).*$", "", text, flags=re.MULTILINE).replace(NAMESPACE, "")
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", code) == []
    named = re.findall(r'(?:from|import|href|src)[ =(]"(?:\./)?([\w.-]+\.\w+)"', code)
    assert set(named) - set(load_assets()) == set()
    assert re.search(r"<script(?! type=\"module\" src)|<style| style=| on\w+=\"", code) is None
    assert "innerHTML" not in code


async def test_only_its_files_are_served(client: httpx.AsyncClient):
    """A name leads to a file of the console or to nothing, however it is written."""
    for path in (
        "/console/none.js",
        "/console/../app.py",
        "/console/%2e%2e%2fapp.py",
        "/console/..%5capp.py",
    ):
        assert (await client.get(path)).status_code == 404


async def test_it_finds_its_api_wherever_it_is_mounted(registry: TenantRegistry):
    """The page's own address is relative, so that an application can mount the service below a path."""
    host = FastAPI()
    host.mount("/inside", create_admin_app(registry))
    transport = httpx.ASGITransport(host)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        moved = await client.get("/inside/console")
        assert (moved.status_code, moved.headers["location"]) == (308, "console/")
        page = await client.get("/inside/console", follow_redirects=True)
        assert page.url.path == "/inside/console/"
        assert page.text.startswith("<!doctype html>")


async def test_a_host_can_leave_it_out(registry: TenantRegistry):
    """Without the console there is no page, and the document of the API never speaks of it."""
    transport = httpx.ASGITransport(create_admin_app(registry, has_console=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        assert (await client.get("/console")).status_code == 404
    assert "/console" not in json.dumps(create_admin_app(registry).openapi()["paths"])
