"""Opens the API of a running service; needs httpx from the extra ``cli``."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

import httpx

from tenantry.cli.client.api import Api, Document
from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import print_note
from tenantry.environment import API_KEY

_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 300.0
"""The timeout of a response, which is long because a lifecycle operation waits for its tenant's running calls."""


@asynccontextmanager
async def at_service(text: str) -> AsyncIterator[Api]:
    """Yield the API of the service at a URL.

    Raises:
        CommandError: The service cannot be reached, or the connection failed.
    """
    url = _checked_url(text)
    try:
        async with _client(url) as client:
            yield Api(client, _advise)
    except asyncio.CancelledError:
        print_note("the service continues the operation: 'tenantry audit list' shows its result")
        raise
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        advice = "check that the service runs at this URL"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            advice = "check that the certificate is for this name; for a private certificate, set SSL_CERT_FILE=cert.pem"
        raise CommandError(Exit.UNREACHABLE, f"{url} cannot be reached ({_said(error)}): {advice}") from error
    except httpx.HTTPError as error:
        raise CommandError(
            Exit.UNREACHABLE,
            f"the connection to {url} failed ({_said(error)}): the request may have been carried out, see 'tenantry audit list'",
        ) from error


def _client(url: httpx.URL) -> httpx.AsyncClient:
    headers, timeout = _headers(), httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout)
    except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
        raise CommandError(
            Exit.USAGE,
            f"the environment's settings for certificates or proxies are not valid ({_said(error)}): check that "
            f"SSL_CERT_FILE is a PEM file, and that {', '.join(_PROXIES)} are URLs like http://127.0.0.1:3128",
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _checked_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
        url.host.encode("idna")  # the resolver needs the IDNA form of the name
    except (httpx.InvalidURL, UnicodeError):
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo:
        raise CommandError(Exit.USAGE, "--url is not a valid URL, such as http://127.0.0.1:8321")
    return url


def _headers() -> dict[str, str]:
    headers = {"User-Agent": f"tenantry/{version('tenantry')}"}
    key = os.environ.get(API_KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise CommandError(Exit.KEY, f"{API_KEY} has characters that no key has: set a valid key")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _advise(problem: Document) -> str:
    if problem.get("status") == httpx.codes.UNAUTHORIZED and not os.environ.get(API_KEY):
        return f"set {API_KEY} to a key; 'tenantry key create' creates a key"
    return ""
