"""Reads the tenant's id from a request: from a header, from the host, from the path, or with a function of the application.

The id comes from an untrusted client. An invalid id is refused before the catalog is read; tenantry never corrects an id. Only
a host is converted to lower case, because host names are case-insensitive (RFC 4343).
"""

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

from fastapi import Header, Path
from starlette.requests import HTTPConnection

from tenantry.errors import TenantRequiredError

Source: TypeAlias = Callable[[HTTPConnection], str | Awaitable[str | None] | None]
"""Returns the tenant's id from a request or a web socket's opening request; None or "" if the request names no tenant."""

_DESCRIPTION: Final = "The id of the tenant; there is no default."
# A Host header with a host name (RFC 9110, section 7.2); RFC 3986, section 3.2.3, allows an empty port. IP addresses fail.
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9.-]{1,254}?)\.?(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """See `from_header`."""

    name: str

    def __call__(self, connection: HTTPConnection) -> str:
        """Return the header's value."""
        return _only_value(connection, self.name)

    def parameter(self) -> inspect.Parameter:
        """Return the header as an optional parameter for FastAPI; `TenantDependency` reports a missing header."""
        header = Header(alias=self.name, description=_DESCRIPTION, examples=["acme"])
        return _parameter("tenant_header", Annotated[str | None, header], default=None)


@dataclass(frozen=True, slots=True)
class PathSource:
    """See `from_path`."""

    name: str

    def __call__(self, connection: HTTPConnection) -> str | None:
        """Return the path parameter's value."""
        return connection.path_params.get(self.name)

    def parameter(self) -> inspect.Parameter:
        """Return the path parameter for FastAPI."""
        return _parameter(self.name, Annotated[str, Path(description=_DESCRIPTION, examples=["acme"])])


@dataclass(frozen=True, slots=True)
class SubdomainSource:
    """See `from_subdomain`."""

    domain: str
    header: str

    def __call__(self, connection: HTTPConnection) -> str | None:
        """Return the label before the domain."""
        return subdomain(_only_value(connection, self.header), self.domain)


def from_header(name: str) -> HeaderSource:
    """Return a source that reads the tenant's id from a header: ``from_header("X-Tenant")``.

    A request with this header twice is refused, because a proxy and the application could read different values.
    """
    return HeaderSource(name)


def from_path(name: str) -> PathSource:
    """Return a source that reads the tenant's id from a path parameter, such as ``tenant_id`` in ``/{tenant_id}/tasks``."""
    return PathSource(name)


def from_subdomain(domain: str, *, is_forwarded: bool = False) -> SubdomainSource:
    """Return a source that reads the tenant's id from the host: with "example.com", ``acme.example.com:8443`` means ``acme``.

    The id is the single label before the domain. The domain itself, names with more labels, IP addresses and other hosts name no
    tenant.

    Args:
        domain: The common domain of all tenants' host names, in ASCII.
        is_forwarded: Whether to read ``X-Forwarded-Host`` instead of ``Host``. The proxy must set ``X-Forwarded-Host`` in every
            request; otherwise a client can choose the tenant.

    Raises:
        ValueError: The domain is not valid.
    """
    match = _HOST.fullmatch(domain)
    if match is None or ":" in domain or not all(match["name"].split(".")):
        raise ValueError(
            f"{domain!r} is not a domain: give a domain like 'example.com', in ASCII and without a port"
        )
    return SubdomainSource(match["name"].lower(), "x-forwarded-host" if is_forwarded else "host")


def subdomain(host: str, domain: str) -> str | None:
    """Return the single label before the domain in a ``Host`` header, in lower case; None if the host has another form.

    Args:
        host: The header's value in upper or lower case, with or without a port and a final dot.
        domain: The domain in lower case, without a final dot.
    """
    match = _HOST.fullmatch(host)
    label, _, rest = match["name"].lower().partition(".") if match is not None else ("", "", "")
    return label if label and rest == domain else None


def _only_value(connection: HTTPConnection, name: str) -> str:
    values = connection.headers.getlist(name)
    if len(values) != 1:
        raise TenantRequiredError(
            f"the request has {len(values)} headers {name}: send exactly one, with the tenant's id"
        )
    return values[0]


def _parameter(name: str, annotation: Any, *, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
