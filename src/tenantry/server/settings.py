"""The settings of the service."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tenantry.config import RegistryConfig
from tenantry.schemas.schema import Schema
from tenantry.storage.objects.protocol import ObjectStorage


class Tls(NamedTuple):
    """A certificate with its chain, and its key; PEM files."""

    cert: Path
    key: Path


class Endpoint(NamedTuple):
    """An address to listen at; port 0 stands for any free port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def url_host(self) -> str:
        """The host as it is written in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The settings of the service.

    Attributes:
        config: The registry's settings.
        snapshot_storage: Where snapshots are kept; in the data directory if None.
        schemas: The packs of the tenants.
        api: Where the API listens.
        probes: Where the metrics and probes listen; with the API if None.
        tls: The certificate of both; None for no TLS.
        is_behind_proxy: Whether all clients come through a proxy, which forwards their addresses.
        allowed_hosts: The names that requests may be addressed to, beside IP addresses and ``localhost``.
        drain_seconds: How long requests are still accepted after the signal to stop.
        graceful_seconds: How long requests that have begun may take after the drain.
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
        """The allowed names, or None for all of them.

        With TLS all names are allowed unless some are given, because a browser has compared the name with the certificate.
        """
        return None if self.tls is not None and not self.allowed_hosts else self.allowed_hosts

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach the API or the probes."""
        return not all(endpoint.is_loopback for endpoint in (self.api, self.probes) if endpoint is not None)

    @property
    def is_api_exposed(self) -> bool:
        """Whether users of other machines can reach the API, directly or through a proxy on this machine."""
        return self.is_behind_proxy or not self.api.is_loopback
