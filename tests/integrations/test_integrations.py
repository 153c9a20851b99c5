"""tenantry in somebody's application: which tenant a request is about, and what is answered when it is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from hosts import ACME, PROBLEM, check_refused, starlette_app
from serving import client_of, connect_web_socket, serve
from tenantry import (
    RegistryConfig,
    TenantHandle,
    TenantLimits,
    TenantRegistry,
    TenantState,
)
from tenantry.integrations.fastapi import (
    Source,
    TenantDependency,
    from_header,
    from_path,
    from_subdomain,
    install_error_handlers,
)
from tenantry.integrations.sources import subdomain
from tenants import Recorder, database_path, make_message, query

DOMAIN = "example.com"


tenant_ids = st.from_regex(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?", fullmatch=True)


def make_app(registry: TenantRegistry, source: Source, path: str = "/messages") -> FastAPI:
    """Return an application that keeps messages."""
    app = FastAPI()
    install_error_handlers(app)
    company_of = TenantDependency(registry, source=source)
    company = Annotated[TenantHandle, Depends(company_of)]

    @app.post(path, status_code=201)
    async def save(company: company, content: str) -> str:  # type: ignore[valid-type]
        await company.messages.save(make_message(content))
        return str(company.id)

    @app.get(path)
    async def history(company: company) -> list[str]:  # type: ignore[valid-type]
        return [message.content for message in await company.messages.get_history("general")]

    @app.websocket("/live")
    async def live(socket: WebSocket, company: company) -> None:  # type: ignore[valid-type]
        await socket.accept()
        async for content in socket.iter_text():
            await company.messages.save(make_message(content))

    return app


async def asked_token(connection: HTTPConnection) -> str | None:
    """Find the tenant as a host does that has it in a token, asynchronously."""
    await asyncio.sleep(0)
    return {"Bearer of-acme": "acme"}.get(connection.headers.get("authorization", ""))


@pytest.fixture
async def acme(registry: TenantRegistry) -> TenantRegistry:
    """A registry with one tenant."""
    await registry.create("acme")
    return registry


@pytest.fixture
async def client(acme: TenantRegistry) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with one tenant, which is told by a header."""
    async with client_of(make_app(acme, from_header("X-Tenant"))) as opened:
        yield opened


def check_comes_again(answer: httpx.Response) -> None:
    """Check that an answer says when to come again: in whole seconds, and not too early."""
    seconds = int(answer.headers["retry-after"])
    assert answer.json()["retry_after_seconds"] <= seconds <= answer.json()["retry_after_seconds"] + 1


class TestSources:
    """Where a request says which tenant it is about."""

    @pytest.mark.parametrize(
        ("source", "path", "url", "headers"),
        [
            (from_header("X-Tenant"), "/messages", "/messages", ACME),
            (from_subdomain(DOMAIN), "/messages", "/messages", {"Host": "acme.example.com"}),
            (from_path("tenant_id"), "/{tenant_id}/messages", "/acme/messages", {}),
            (lambda c: c.query_params.get("company"), "/messages", "/messages?company=acme", {}),
            (asked_token, "/messages", "/messages", {"Authorization": "Bearer of-acme"}),
        ],
        ids=["header", "subdomain", "path", "function", "asynchronous function"],
    )
    async def test_each_leads_to_the_tenant(
        self, acme: TenantRegistry, source: Source, path: str, url: str, headers: dict[str, str]
    ):
        """By each of them a request reaches its tenant's own data, and is refused without it."""
        async with client_of(make_app(acme, source, path)) as client:
            saved = await client.post(url, params={"content": "hello", "company": "acme"}, headers=headers)
            assert (saved.status_code, saved.json()) == (201, "acme")
            assert (await client.get(url, headers=headers)).json() == ["hello"]
            nobody = url.replace("/acme/", "/initech/").partition("?")[0]
            assert (await client.get(nobody)).status_code in {400, 404}

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [("X-Tenant", "")],
            [("X-Tenant", "acme"), ("X-Tenant", "acme")],
            [("X-Tenant", "acme"), ("x-tenant", "globex")],
        ],
        ids=["none", "empty", "twice", "two"],
    )
    async def test_a_header_is_needed_once(self, client: httpx.AsyncClient, headers: list[tuple[str, str]]):
        """Without the header, or with two, there is no tenant: none is the default, and none is chosen."""
        answer = await client.get("/messages", headers=headers)
        check_refused(answer, 400, "tenant-required", has_detail=True)

    @pytest.mark.parametrize(
        "value",
        [
            "Acme",
            "ACME",
            "acme,globex",
            "acme, acme",
            "acme/../globex",
            "../catalog",
            "%61cme",
            "acme;",
            "acme-",
            "-acme",
            "1acme",
            "acme.",
            "acm\xe9",
            "a" * 49,
            "a" * 8000,
            "'; DROP TABLE tenants; --",
            "(catalog)",
        ],
    )
    async def test_what_is_no_id_is_not_looked_up(self, acme: TenantRegistry, value: str):
        """What the header says is not made to fit; the catalog is not even asked, and the answer stays short."""
        seen = Recorder()
        acme.add_hook(seen)
        app = make_app(acme, from_header("X-Tenant"))
        async with client_of(app) as client:
            answer = await client.get("/messages", headers=[(b"X-Tenant", value.encode("latin-1"))])
        check_refused(answer, 422, "invalid-tenant-id", has_detail=True)
        assert seen.events == []
        assert len(answer.content) < 500

    @pytest.mark.parametrize("text", ["/a%2e%2e/messages", "/%2e%2e%2fcatalog/messages", "/ACME/messages"])
    async def test_a_path_is_no_way_out(self, acme: TenantRegistry, text: str):
        """A part of the path that is encoded comes out as what it is: no id."""
        async with client_of(make_app(acme, from_path("tenant_id"), "/{tenant_id}/messages")) as client:
            assert (await client.get(text)).status_code in {404, 422}

    async def test_a_path_without_the_parameter_names_nobody(self, acme: TenantRegistry):
        """A plain Starlette route that has no such parameter is refused, and not served for somebody."""
        app = starlette_app(acme, from_path("tenant_id"))
        async with client_of(app) as client:
            check_refused(await client.get("/whoami"), 400, "tenant-required", has_detail=True)

    async def test_a_source_refuses_in_its_own_way(self, acme: TenantRegistry):
        """A function that checks a token answers 401 itself, and nothing is looked up."""

        def source(_: HTTPConnection) -> str:
            raise HTTPException(401, "sign in")

        async with client_of(make_app(acme, source)) as client:
            answer = await client.get("/messages")
        assert (answer.status_code, answer.json()) == (401, {"detail": "sign in"})

    async def test_what_is_no_text_is_no_id(self, acme: TenantRegistry):
        """A function that returns something else, a number of a row perhaps, is refused like any text that is no id."""
        async with client_of(make_app(acme, lambda _: 7)) as client:  # type: ignore[arg-type,return-value]
            check_refused(await client.get("/messages"), 422, "invalid-tenant-id", has_detail=True)

    async def test_the_document_tells_of_the_parameter(self, acme: TenantRegistry):
        """Who reads the API's document finds the header; and of a path, the parameter without which it would be invalid."""
        by_header = make_app(acme, from_header("X-Tenant")).openapi()["paths"]["/messages"]["get"]
        by_path = make_app(acme, from_path("company"), "/{company}/m").openapi()["paths"]["/{company}/m"]
        by_function = make_app(acme, asked_token).openapi()["paths"]["/messages"]["get"]
        found = [(p["in"], p["name"], p["required"]) for p in by_header["parameters"]]
        assert found == [("header", "X-Tenant", False)]
        assert [(p["in"], p["name"]) for p in by_path["get"]["parameters"]] == [("path", "company")]
        assert "parameters" not in by_function


class TestHosts:
    """A tenant that is told by a subdomain."""

    @given(
        tenant_id=tenant_ids,
        upper=st.booleans(),
        dot=st.sampled_from(["", "."]),
        port=st.sampled_from(["", ":", ":80", ":65535"]),
    )
    def test_one_name_in_all_its_spellings(self, tenant_id: str, upper: bool, dot: str, port: str):  # noqa: FBT001
        """Case, the dot of a full name and a port make no difference: it is the same host."""
        host = f"{tenant_id}.{DOMAIN}"
        host = host.upper() if upper else host
        assert subdomain(f"{host}{dot}{port}", DOMAIN) == tenant_id

    @given(st.text(st.sampled_from("acme.xple:ACME-0@[]/ \t\0é"), max_size=40))
    @example("evil.com/acme.example.com")
    @example("acme.example.com\n")
    @example("acme.example.com:80:80")
    def test_nothing_else_is_a_tenants_host(self, host: str):
        """Whatever stands in the header: what is found is the one label before the domain, or nothing."""
        found = subdomain(host, DOMAIN)
        if found is not None:
            name, _, port = host.partition(":")
            assert name.lower().removesuffix(".") == f"{found}.{DOMAIN}"
            assert "." not in found
            assert port == "" or port.isdigit()

    @pytest.mark.parametrize(
        "host",
        [
            "",
            "example.com",
            ".example.com",
            "acme.example.com..",
            "acme.example.com.evil.com",
            "acmeexample.com",
            "evil-example.com",
            "eu.acme.example.com",
            "acme..example.com",
            "acme.example.com:http",
            "acme.example.com:999999",
            "acme.example.com@evil.com",
            "user@acme.example.com",
            "acme.example.com, globex.example.com",
            "acme.example.com acme.example.com",
            "acme\u3002example\u3002com",
            "127.0.0.1",
            "[::1]",
            "[::1]:8000",
            "a" * 10_000 + ".example.com",
        ],
    )
    def test_hosts_of_nobody(self, host: str):
        """The domain itself, other domains, deeper names, addresses, and what is no host at all."""
        assert subdomain(host, DOMAIN) is None

    async def test_hosts_over_a_real_socket(self, acme: TenantRegistry):
        """A request is its host's: with another host it is refused, and a forwarded one is not looked at."""
        await acme.create("globex")
        app = make_app(acme, from_subdomain("Example.COM."))
        async with serve(app) as client:
            saved = await client.post("/messages?content=hi", headers={"Host": "ACME.example.com.:8443"})
            assert saved.json() == "acme"
            spoofed = {"Host": "acme.example.com", "X-Forwarded-Host": "globex.example.com"}
            assert (await client.get("/messages", headers=spoofed)).json() == ["hi"]
            for host in ("example.com", "127.0.0.1", "acme.evil.com"):
                answer = await client.get("/messages", headers={**spoofed, "Host": host})
                check_refused(answer, 400, "tenant-required", has_detail=True)
            unknown = await client.get("/messages", headers={"Host": "initech.example.com"})
            check_refused(unknown, 404, "tenant-not-found")

    async def test_a_forwarded_host_when_told_so(self, acme: TenantRegistry):
        """Behind a proxy its header is read instead of the host: once, and needed."""
        async with client_of(make_app(acme, from_subdomain(DOMAIN, is_forwarded=True))) as client:
            inner = ("Host", "acme.example.com")
            told = ("X-Forwarded-Host", "acme.example.com")
            assert (await client.get("/messages", headers=[told])).status_code == 200
            appended = ("X-Forwarded-Host", "acme.example.com, globex.example.com")
            for headers in ([inner], [inner, told, told], [inner, appended]):
                answer = await client.get("/messages", headers=headers)
                check_refused(answer, 400, "tenant-required", has_detail=True)

    @pytest.mark.parametrize("domain", ["", ".", "example.com:80", ".com", "a..b", "exämple.com", "a b"])
    def test_a_domain_that_is_none(self, domain: str):
        """A mistake in the domain is found when the application is made, not when a request comes."""
        with pytest.raises(ValueError, match=r"is not a domain: give a domain like 'example.com'"):
            from_subdomain(domain)


class TestRefusals:
    """What is answered when a tenant is not served."""

    async def test_an_unknown_tenant_evicts_nobody(self, acme: TenantRegistry):
        """With every place taken, requests for tenants that nobody has, or that are suspended, close no tenant."""
        for name in ("b", "c", "d"):
            await acme.create(name)
        await acme.create("sleeping")
        await acme.suspend("sleeping")
        async with client_of(make_app(acme, from_header("X-Tenant"))) as client:
            for name in ("acme", "b", "c", "d"):
                assert (await client.get("/messages", headers={"X-Tenant": name})).status_code == 200
            before = acme.statistics().pool
            answers = await asyncio.gather(
                *(client.get("/messages", headers={"X-Tenant": f"nobody-{n}"}) for n in range(50)),
                *(client.get("/messages", headers={"X-Tenant": "sleeping"}) for _ in range(50)),
            )
            assert {answer.status_code for answer in answers} == {404, 409}
            after = acme.statistics().pool
            assert after.open_tenants == before.open_tenants == 4
            assert after.closed_by_reason == before.closed_by_reason

    @pytest.mark.parametrize(
        ("state", "slug"),
        [
            (TenantState.SUSPENDED, "tenant-suspended"),
            (TenantState.ARCHIVED, "tenant-state"),
            (TenantState.QUARANTINED, "tenant-quarantined"),
            (TenantState.DELETED, "tenant-deleted"),
        ],
    )
    async def test_each_state_that_serves_nobody(
        self, acme: TenantRegistry, client: httpx.AsyncClient, state: TenantState, slug: str
    ):
        """409 with the state in its type, and nothing of the operator's reason; afterwards it is served again."""
        reason = "unpaid; see /srv/secret"
        leave, come_back = {
            TenantState.SUSPENDED: (acme.suspend, acme.resume),
            TenantState.ARCHIVED: (acme.archive, acme.unarchive),
            TenantState.QUARANTINED: (acme.quarantine, acme.repair),
            TenantState.DELETED: (acme.delete, acme.undelete),
        }[state]
        await leave("acme", reason=reason)  # type: ignore[operator]
        answer = await client.get("/messages", headers=ACME)
        check_refused(answer, 409, slug)
        assert "secret" not in answer.text
        await come_back("acme")
        assert (await client.get("/messages", headers=ACME)).status_code == 200

    async def test_a_purged_tenant_is_unknown(self, acme: TenantRegistry, client: httpx.AsyncClient):
        """Of a purged tenant nothing is told."""
        await acme.delete("acme")
        await acme.purge("acme", force=True)
        check_refused(await client.get("/messages", headers=ACME), 404, "tenant-not-found")

    async def test_a_tenant_with_too_many_calls(self, acme: TenantRegistry, client: httpx.AsyncClient):
        """429 with when to come again, at the rate and at the calls in flight."""
        await acme.update("acme", limits=TenantLimits(calls_in_flight_max=1))
        async with acme.tenant("acme").transaction():
            full = await client.get("/messages", headers=ACME)
        check_refused(full, 429, "tenant-overloaded")
        check_comes_again(full)
        await acme.update("acme", limits=TenantLimits(calls_per_second_max=0.01, calls_burst_max=1))
        assert (await client.get("/messages", headers=ACME)).status_code == 200
        fast = await client.get("/messages", headers=ACME)
        check_refused(fast, 429, "tenant-rate-limited")
        check_comes_again(fast)

    async def test_no_place_in_the_pool(self, data_dir: Path):
        """503 with when to come again, if every place stays in use."""
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.create("acme")
            await registry.create("globex")
        config = RegistryConfig(data_dir=data_dir, open_tenants_max=1, pool_wait_timeout_seconds=0.05)
        async with (
            TenantRegistry(config) as registry,
            client_of(make_app(registry, from_header("X-Tenant"))) as client,
            registry.tenant("globex").transaction(),
        ):
            answer = await client.get("/messages", headers=ACME)
        check_refused(answer, 503, "pool-exhausted")
        check_comes_again(answer)

    async def test_a_full_database(self, acme: TenantRegistry, client: httpx.AsyncClient):
        """507 for what does not fit; reads go on."""
        await acme.update("acme", limits=TenantLimits(database_bytes_max=64 * 1024))
        for _ in range(4):
            answer = await client.post("/messages", params={"content": "x" * 50_000}, headers=ACME)
        check_refused(answer, 507, "storage-full")
        assert (await client.get("/messages", headers=ACME)).status_code == 200

    async def test_a_record_that_exists(self, acme: TenantRegistry):
        """409 for a second record with the same id: the caller's matter, not a failure of ours."""
        app = make_app(acme, from_header("X-Tenant"))
        message = make_message()

        @app.put("/message")
        async def put() -> None:
            await acme.tenant("acme").messages.save(message)

        async with client_of(app) as client:
            assert (await client.put("/message")).status_code == 200
            check_refused(await client.put("/message"), 409, "duplicate-record")

    async def test_our_own_fault_is_logged_and_not_told(
        self,
        acme: TenantRegistry,
        client: httpx.AsyncClient,
        data_dir: Path,
        capsys: pytest.CaptureFixture[str],
    ):
        """A row that cannot be read is answered with 500 and not a word of it; the log says which tenant's."""
        assert (await client.post("/messages?content=hi", headers=ACME)).status_code == 201
        await acme.suspend("acme")  # closes it
        query(database_path(data_dir, "acme"), "UPDATE messages SET type = 'gossip'")
        await acme.resume("acme")
        check_refused(await client.get("/messages", headers=ACME), 500, "malformed-row")
        assert "tenantry.request.failed" in (log := capsys.readouterr().err)
        assert "tenant_id=acme" in log

    async def test_a_registry_that_is_closed(self, data_dir: Path):
        """503 while the registry is not open: the application is going, or never came."""
        registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
        async with client_of(make_app(registry, from_header("X-Tenant"))) as client:
            check_refused(await client.get("/messages", headers=ACME), 503, "registry-closed")


class TestWebSockets:
    """A web socket is about one tenant, from its first request on."""

    async def test_one_of_nobody_is_refused(self, acme: TenantRegistry):
        """Before it is accepted, the refusal is an answer like any other."""
        app = make_app(acme, from_header("X-Tenant"))
        start, body = await connect_web_socket(app, "/live", {"X-Tenant": "initech"})
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 404)
        assert json.loads(body["body"])["type"] == PROBLEM + "tenant-not-found"

    async def test_one_that_is_open_is_closed(self, acme: TenantRegistry):
        """An error in an open one closes it, and its code says whether to come again."""
        app = make_app(acme, from_header("X-Tenant"))
        await acme.update("acme", limits=TenantLimits(calls_per_second_max=0.01, calls_burst_max=1))
        said = {"type": "websocket.receive", "text": "hi"}
        sent = await connect_web_socket(app, "/live", ACME, said, said)
        assert [(m["type"], m.get("code")) for m in sent] == [
            ("websocket.accept", None),
            ("websocket.close", 1013),
        ]
        await acme.update("acme", limits=TenantLimits())
        assert len(await acme.tenant("acme").messages.get_history("general")) == 1


class TestLoad:
    """Many requests at once."""

    async def test_many_requests_through_a_small_pool(self, registry: TenantRegistry):
        """64 requests at once over 8 tenants through a pool of 4: all are served, each with its own tenant's data."""
        names = [f"company-{number}" for number in range(8)]
        for name in names:
            await registry.create(name)
        app = make_app(registry, from_header("X-Tenant"))
        async with serve(app) as client:

            async def save(number: int) -> None:
                name = names[number % 8]
                params = {"content": f"{name} {number}"}
                answer = await client.post("/messages", params=params, headers={"X-Tenant": name})
                assert (answer.status_code, answer.json()) == (201, name)

            async with asyncio.TaskGroup() as group:
                for number in range(64):
                    group.create_task(save(number))
            for index, name in enumerate(names):
                found = (await client.get("/messages", headers={"X-Tenant": name})).json()
                assert sorted(found) == sorted(f"{name} {number}" for number in range(index, 64, 8))
