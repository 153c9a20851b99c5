"""Addresses of clients: read from text, and which of them are one client's."""

import ipaddress
import re
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV6_PREFIX: Final = 64
# What some proxies write: 192.0.2.1:5678, [2001:db8::1], [2001:db8::1]:5678.
_WITH_PORT: Final = re.compile(r"\[(?P<v6>[^\]]*)\](:[0-9]{1,5})?|(?P<v4>[0-9.]+):[0-9]{1,5}", re.ASCII)


def parse_address(text: str) -> Address | None:
    """Return the address that a text has, with a port or without; None if it has none."""
    match = _WITH_PORT.fullmatch(text)
    bare = text if match is None else match["v6"] or match["v4"] or ""
    try:
        # The zone is the sender's name for its own network card.
        return ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None


def network_of(host: str) -> str:
    """Return what all addresses of one client have in common: an IPv4 address, or an IPv6 network; else the host itself."""
    address = parse_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # a server that listens on both
            return str(address.ipv4_mapped)
        # Whoever has one address has the whole network of it.
        return str(ipaddress.IPv6Network((int(address), _IPV6_PREFIX), strict=False))
    return host if address is None else str(address)
