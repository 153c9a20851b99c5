"""Requests to an application in this process: as over a network, with nothing kept in memory."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from tenantry.cli.client.in_process import InProcessTransport

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-said", b"yes")]}


def client_of(app: object) -> httpx.AsyncClient:
    """Return a client that speaks to the application."""
    return httpx.AsyncClient(transport=InProcessTransport(app), base_url="http://in-process")  # type: ignore[arg-type]


async def test_an_answer_comes_as_it_is_made():
    """The application does not go on to the end before what it made was taken."""
    made = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for part in (b"one", b"two", b""):
            made.append(part)
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})

    async with client_of(app) as client, client.stream("GET", "/") as response:
        assert (response.status_code, response.headers["x-said"]) == (200, "yes")
        parts = response.aiter_raw()
        assert await anext(parts) == b"one"
        assert b"" not in made
        assert [part async for part in parts if part] == [b"two"]


async def test_a_request_arrives_whole():
    """Method, path, query, headers and a body in parts are what the client sent."""
    seen = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        seen.update(scope, body=body)
        await send(START)
        await send({"type": "http.response.body"})

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with client_of(app) as client:
        await client.post("/a%2Fb", params={"q": "ä"}, content=parts(), headers={"X-Who": "me"})
    assert (seen["method"], seen["raw_path"], seen["query_string"]) == ("POST", b"/a%2Fb", b"q=%C3%A4")
    assert (b"x-who", b"me") in seen["headers"]
    assert seen["body"] == b"onetwo"


@pytest.mark.parametrize("has_begun", [False, True])
async def test_what_the_application_raises_is_raised(has_begun: bool):  # noqa: FBT001
    """An error of the application's own reaches the caller, before its answer and in the middle of it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if has_begun:
            await send(START)
        raise ValueError("odd")

    async with client_of(app) as client:
        with pytest.raises(ValueError, match="odd"):
            await client.get("/")


@pytest.mark.parametrize("has_begun", [False, True])
async def test_who_goes_away_ends_the_work(has_begun: bool):  # noqa: FBT001
    """A caller that is cancelled ends what the application does for it, as a client that hangs up does."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if has_begun:
                await send(START)
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with client_of(app) as client:
        call = asyncio.create_task(client.get("/"))
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended.is_set()
