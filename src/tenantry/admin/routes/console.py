"""Serves the console, a web page for operators. The console is an ordinary client of the API and has no special rights.

The console's files (`console/`) are read into memory once and looked up by name, so a request cannot reach another file. The
console's files contain no secret and need no key. The console sends the operator's key only to the API.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

_INDEX: Final = "index.html"
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# The browser runs only the console's own scripts and sends requests only to the console's service, even if a tenant's name or an
# error contains markup. Trusted Types keep the console's scripts from turning text into markup.
# https://www.w3.org/TR/CSP3/, https://www.w3.org/TR/trusted-types/
_POLICY: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
HEADERS: Final = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # The browser revalidates each cached file, so a page never mixes old and new modules after an upgrade.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the console."""

    body: bytes
    media_type: str
    etag: str


def make_console() -> APIRouter:
    """Return the routes of the console's page at ``/console/`` and of its files."""
    assets = load_assets()
    router = APIRouter(prefix="/console", include_in_schema=False)

    @router.api_route("", methods=["GET", "HEAD"])
    async def redirect() -> Response:
        # A relative Location works with every prefix of the application or of a proxy.
        return Response(status_code=308, headers={**HEADERS, "Location": "console/"})

    @router.api_route("/{name}", methods=["GET", "HEAD"])
    async def serve(name: str, request: Request) -> Response:
        asset = assets.get(name)
        if asset is None:
            raise HTTPException(404)
        return _answer(asset, request)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def serve_index(request: Request) -> Response:
        return _answer(assets[_INDEX], request)

    return router


def load_assets() -> dict[str, Asset]:
    """Return the console's files by name."""
    directory = resources.files("tenantry.admin").joinpath("console")
    return {
        file.name: _asset(file.read_bytes(), _MEDIA_TYPES[PurePath(file.name).suffix])
        for file in directory.iterdir()
    }


def _asset(body: bytes, media_type: str) -> Asset:
    return Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _answer(asset: Asset, request: Request) -> Response:
    headers = {**HEADERS, "ETag": asset.etag}
    # RFC 9110, section 13.1.2: If-None-Match uses the weak comparison, and `*` matches any ETag.
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if known & {asset.etag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
