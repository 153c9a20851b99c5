"""The client's address behind a proxy."""

import pytest
from starlette.types import Receive, Scope, Send

from tenantry.server.forwarded_client import ForwardedClient


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"192.0.2.1")], ("192.0.2.1", 0)),
        ([(b"x-forwarded-for", b"198.51.100.1, 192.0.2.1")], ("192.0.2.1", 0)),
        ([(b"x-forwarded-for", b"198.51.100.1"), (b"x-forwarded-for", b"192.0.2.1")], ("192.0.2.1", 0)),
        ([(b"x-forwarded-for", b"192.0.2.1:5678")], ("192.0.2.1", 0)),
        ([(b"x-forwarded-for", b"192.0.2.1:5679")], ("192.0.2.1", 0)),
        ([(b"x-forwarded-for", b"198.51.100.1, [2001:db8::1]:5678")], ("2001:db8::1", 0)),
        ([(b"x-forwarded-for", b"[2001:db8::1]")], ("2001:db8::1", 0)),
        ([(b"x-forwarded-for", b"2001:DB8:0::1")], ("2001:db8::1", 0)),
        ([(b"x-forwarded-for", b"")], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"192.0.2.1,")], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"unknown")], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"_hidden:5678")], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"192.0.2.1:x")], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"[192.0.2.1")], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"[]:1")], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"1" * 10_000 + b":1")], ("127.0.0.1", 1)),
        ([(b"x-forwarded-for", b"\xff")], ("127.0.0.1", 1)),
    ],
)
async def test_the_last_forwarded_address(headers: list[tuple[bytes, bytes]], expected: tuple[str, int]):
    """The client's address is the last entry, which the proxy wrote, without a port; an entry that is not an address is ignored."""
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["client"])

    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": headers}
    await ForwardedClient(app)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [expected]
