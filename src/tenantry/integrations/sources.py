"""Where a request says which tenant it is about: in a header, in its host, in its path, or as a function finds out.

What is found is text from a stranger. It is not looked up before it was parsed as a tenant id, and nothing is made to fit:
only a host is lowered, because DNS says that ``Acme.example.com`` and ``acme.example.com`` are one name (RFC 4343).
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
"""Returns the tenant's id as the request, or the web socket's first one, gives it; None or nothing if it does not."""

_DESCRIPTION: Final = "Which tenant the request is about; there is no default."
# RFC 9110, section 7.2, without the addresses: no company is named by one. RFC 3986, section 3.2.3: a port may be empty.
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9.-]{1,254}?)\.?(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """See `from_header`."""

    name: str

    def __call__(self, connection: HTTPConnection) -> str:
        """Return what the header says."""
        return _only_value(connection, self.name)

    def parameter(self) -> inspect.Parameter:
        """Return the header as a parameter. Not a required one: that it is missing is for `TenantDependency` to say."""
        header = Header(alias=self.name, description=_DESCRIPTION, examples=["acme"])
        return _parameter("tenant_header", Annotated[str | None, header], default=None)


@dataclass(frozen=True, slots=True)
class PathSource:
    """See `from_path`."""

    name: str

    def __call__(self, connection: HTTPConnection) -> str | None:
        """Return what the path says."""
        return connection.path_params.get(self.name)

    def parameter(self) -> inspect.Parameter:
        """Return the part of the path as a parameter."""
        return _parameter(self.name, Annotated[str, Path(description=_DESCRIPTION, examples=["acme"])])


@dataclass(frozen=True, slots=True)
class SubdomainSource:
    """See `from_subdomain`."""

    domain: str
    header: str

    def __call__(self, connection: HTTPConnection) -> str | None:
        """Return what stands before the domain."""
        return subdomain(_only_value(connection, self.header), self.domain)


def from_header(name: str) -> HeaderSource:
    """Find the tenant's id in a header: ``from_header("X-Tenant")``.

    A request that has the header twice is refused: a proxy and the application behind it might each believe another one.
    """
    return HeaderSource(name)


def from_path(name: str) -> PathSource:
    """Find the tenant's id in a parameter of the path: ``from_path("tenant_id")`` for ``/companies/{tenant_id}/tasks``."""
    return PathSource(name)


def from_subdomain(domain: str, *, is_forwarded: bool = False) -> SubdomainSource:
    """Find the tenant's id in the host: ``from_subdomain("example.com")`` finds ``acme`` in ``acme.example.com:8443``.

    It is the one label before the domain. The domain itself, deeper names, addresses and other hosts name no tenant.

    Args:
        domain: What all tenants' hosts end with, in ASCII.
        is_forwarded: Whether a proxy in front tells the host in ``X-Forwarded-Host``. It is read instead of ``Host`` then,
            so the proxy must set it for every request and not pass on a client's: a client that can send it chooses the tenant.

    Raises:
        ValueError: It is no domain.
    """
    match = _HOST.fullmatch(domain)
    if match is None or ":" in domain or not all(match["name"].split(".")):
        raise ValueError(f"{domain!r} is no domain: give it like 'example.com', in ASCII and without a port")
    return SubdomainSource(match["name"].lower(), "x-forwarded-host" if is_forwarded else "host")


def subdomain(host: str, domain: str) -> str | None:
    """Return the one label that stands before a domain in a ``Host`` header, in lower case; None if nothing else does.

    Args:
        host: As the header has it: any case, perhaps with a port and the dot of a full name.
        domain: In lower case, without that dot.
    """
    match = _HOST.fullmatch(host)
    label, _, rest = match["name"].lower().partition(".") if match is not None else ("", "", "")
    return label if label and rest == domain else None


def _only_value(connection: HTTPConnection, name: str) -> str:
    values = connection.headers.getlist(name)
    if len(values) != 1:
        raise TenantRequiredError(
            f"the request has the header {name} {len(values)} times: it must say once which tenant it is about"
        )
    return values[0]


def _parameter(name: str, annotation: Any, *, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
