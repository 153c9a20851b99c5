"""Parses client addresses, and groups the addresses that belong to the same client."""

import ipaddress
import re
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV6_PREFIX: Final = 64
# Some proxies add a port or brackets to an address: 192.0.2.1:5678, [2001:db8::1] or [2001:db8::1]:5678.
_WITH_PORT: Final = re.compile(r"\[(?P<v6>[^\]]*)\](:[0-9]{1,5})?|(?P<v4>[0-9.]+):[0-9]{1,5}", re.ASCII)


def parse_address(text: str) -> Address | None:
    """Return the IP address in a string, with or without a port; None if the string is not an address."""
    match = _WITH_PORT.fullmatch(text)
    bare = text if match is None else match["v6"] or match["v4"] or ""
    try:
        # Drop the IPv6 zone, which names a network interface of the sender.
        return ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None


def network_of(host: str) -> str:
    """Return a client's identifier: its IPv4 address, its IPv6 network, or the unchanged host if the host is not an address."""
    address = parse_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # an IPv4 client of a socket for IPv6 and IPv4
            return str(address.ipv4_mapped)
        # A client usually controls the whole /64 network of its IPv6 address.
        return str(ipaddress.IPv6Network((int(address), _IPV6_PREFIX), strict=False))
    return host if address is None else str(address)
