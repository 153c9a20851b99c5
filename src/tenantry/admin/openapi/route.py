"""The route of the OpenAPI document. Requests for the document need no key, so it is encoded only once."""

import gzip
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from tenantry.admin.http.single_flight import SingleFlight
from tenantry.threads import run_in_thread

_MEDIA_TYPE: Final = "application/json"
_PREFIXES_MAX: Final = 16
_KEPT_FOREVER: Final = float("inf")


def make_document_route(make: Callable[[], dict[str, Any]]) -> APIRouter:
    """Return the router for ``/openapi.json``. The OpenAPI document does not describe this route.

    Args:
        make: Returns the OpenAPI document. The first request calls `make` once, on a thread.
    """
    router = APIRouter(include_in_schema=False)
    encode = SingleFlight(lambda: run_in_thread(lambda: _as_text(make())), kept_seconds=_KEPT_FOREVER)

    @router.get("/openapi.json")
    async def get_document(request: Request) -> Response:
        plain, compressed = _encoded(await encode(), request.scope.get("root_path", "").rstrip("/"))
        headers = {"Vary": "Accept-Encoding"}
        if not _takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(plain, media_type=_MEDIA_TYPE, headers=headers)
        return Response(compressed, media_type=_MEDIA_TYPE, headers={**headers, "Content-Encoding": "gzip"})

    return router


def _as_text(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


# The cache is limited, because the prefix may come from the request's path if a path parameter is part of the mount point.
@lru_cache(_PREFIXES_MAX)
def _encoded(text: str, prefix: str) -> tuple[bytes, bytes]:
    """Return the OpenAPI document of an API at a prefix, once as plain text and once compressed with gzip."""
    servers = f'"servers":{json.dumps([{"url": prefix}])},' if prefix else ""
    plain = ("{" + servers + text.removeprefix("{")).encode()
    return plain, gzip.compress(plain, mtime=0)


def _takes_gzip(accepted: str) -> bool:
    """Return whether an ``Accept-Encoding`` header accepts gzip with a weight above zero (RFC 9110, section 12.5.3)."""
    for coding in accepted.lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or weight == ""
    return False
