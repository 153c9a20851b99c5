"""The settings of the service."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tenantry.config import RegistryConfig
from tenantry.schemas.schema import Schema
from tenantry.storage.objects.protocol import ObjectStorage


class Tls(NamedTuple):
    """Two PEM files: a certificate with its chain, and the private key of the certificate."""

    cert: Path
    key: Path


class Endpoint(NamedTuple):
    """An address to listen at; port 0 means any free port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def url_host(self) -> str:
        """The host as a part of a URL, with brackets around an IPv6 address."""
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The settings of the service.

    Attributes:
        snapshot_storage: The storage of snapshots; None for the data directory.
        api: The address of the API.
        probes: The address of the metrics and probes; None for the address of the API.
        tls: The certificate of both addresses; None for no TLS.
        is_behind_proxy: Whether all clients come through a proxy, which forwards the clients' addresses.
        allowed_hosts: The allowed host names of requests, beside IP addresses and ``localhost``.
        drain_seconds: The time for which the service still accepts requests after the signal to stop.
        graceful_seconds: The time for which running requests may continue after the drain.
    """

    config: RegistryConfig
    snapshot_storage: ObjectStorage | None
    schemas: tuple[Schema, ...]
    api: Endpoint
    probes: Endpoint | None
    tls: Tls | None
    is_behind_proxy: bool
    allowed_hosts: tuple[str, ...]
    drain_seconds: float
    graceful_seconds: float

    @property
    def checked_hosts(self) -> tuple[str, ...] | None:
        """The allowed host names; None allows all names.

        With TLS all names are allowed by default, because browsers compare the host name with the certificate.
        """
        return None if self.tls is not None and not self.allowed_hosts else self.allowed_hosts

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach the API or the probes."""
        return not all(endpoint.is_loopback for endpoint in (self.api, self.probes) if endpoint is not None)

    @property
    def is_api_exposed(self) -> bool:
        """Whether other machines can reach the API, directly or through a proxy on this machine."""
        return self.is_behind_proxy or not self.api.is_loopback
