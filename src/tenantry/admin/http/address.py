"""Parses the addresses of clients, and tells which addresses belong to one client."""

import ipaddress
import re
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV6_PREFIX: Final = 64
# What some proxies write: 192.0.2.1:5678, [2001:db8::1], [2001:db8::1]:5678.
_WITH_PORT: Final = re.compile(r"\[(?P<v6>[^\]]*)\](:[0-9]{1,5})?|(?P<v4>[0-9.]+):[0-9]{1,5}", re.ASCII)


def parse_address(text: str) -> Address | None:
    """Return the IP address in a text, with or without a port; None if it is not an address."""
    match = _WITH_PORT.fullmatch(text)
    bare = text if match is None else match["v6"] or match["v4"] or ""
    try:
        # The zone is the sender's name for its own network card.
        return ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None


def network_of(host: str) -> str:
    """Return what identifies a client: its IPv4 address, its IPv6 network, or the host itself if it is not an address."""
    address = parse_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # a server that listens on both
            return str(address.ipv4_mapped)
        # A client with one IPv6 address usually has its whole network.
        return str(ipaddress.IPv6Network((int(address), _IPV6_PREFIX), strict=False))
    return host if address is None else str(address)
