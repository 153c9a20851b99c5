"""Export and import: streamed, verified, bounded, and without a trace when one side goes away."""

import asyncio
import io
import random
import socket
import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import pytest

from forgeries import forged, running
from service import Service, check_problem, served
from stores import small_disk
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin import BodyLimits
from tenantry.admin.routes.bundles import TRANSFERS_MAX, TRANSFERS_PER_CALLER_MAX
from tenants import HANG_SECONDS, database_path, make_message, open_files, stored_contents, until

GZIP = {"content-type": "application/gzip"}


def scratch(data_dir: Path) -> list[Path]:
    """Return what lies in the registry's place for files that are being made."""
    return list((data_dir / "scratch").glob("*/*"))


async def create_acme(service: Service, *, megabytes: int = 0) -> None:
    """Create a tenant with a message, and with so many megabytes that cannot be compressed to less than half of it."""
    await service.registry.create("acme", display_name="Acme Ltd.")
    messages = service.registry.tenant("acme").messages
    await messages.save(make_message("in the bundle"))
    for number in range(megabytes):
        await messages.save(make_message(random.Random(number).randbytes(512 * 1024).hex()))


async def bundle_of(service: Service) -> bytes:
    """Return the bundle of a new tenant, which is called acme."""
    await create_acme(service)
    client = await service.caller("operate")
    response = await client.get("/v1/tenants/acme/export")
    assert response.status_code == 200, response.text
    return response.content


async def test_there_and_back(service: Service, admin: httpx.AsyncClient, data_dir: Path):
    """What was exported is an archive that tar reads; a tenant that is made of it has what the first one had."""
    await create_acme(service)
    exported = await admin.get("/v1/tenants/acme/export")
    assert exported.headers["content-type"] == "application/gzip"
    assert exported.headers["content-disposition"] == 'attachment; filename="acme.tar.gz"'
    assert int(exported.headers["content-length"]) == len(exported.content)
    with tarfile.open(fileobj=io.BytesIO(exported.content)) as archive:
        assert archive.getnames() == ["manifest.json", "SHA256SUMS", "tenant.db"]

    imported = await admin.post("/v1/tenants/copy/import", content=exported.content, headers=GZIP)
    assert imported.status_code == 201, imported.text
    assert imported.headers["location"] == "/v1/tenants/copy"
    assert imported.headers["etag"] == (await admin.get("/v1/tenants/copy")).headers["etag"]
    assert imported.json()["display_name"] == "Acme Ltd."
    await service.registry.suspend("copy")
    assert stored_contents(data_dir, "copy") == ["in the bundle"]
    assert scratch(data_dir) == []


async def test_a_file_in_a_tenants_place(service: Service, admin: httpx.AsyncClient, data_dir: Path):
    """The database of a tenant is replaced by a plain file, decided on its ETag; another body and another's file are refused."""
    await create_acme(service)
    await service.registry.suspend("acme")
    content = await anyio.Path(database_path(data_dir, "acme")).read_bytes()
    await service.registry.resume("acme")
    await service.registry.tenant("acme").messages.save(make_message("later"))
    path, headers = "/v1/tenants/acme/replace-file", {"content-type": "application/vnd.sqlite3"}
    check_problem(await admin.post(path, content=content, headers=GZIP), 415, "unsupported-media-type")
    stale = headers | {"if-match": '"1"'}
    check_problem(await admin.post(path, content=content, headers=stale), 412, "revision")
    await service.registry.create("globex")
    other = await admin.post("/v1/tenants/globex/replace-file", content=content, headers=headers)
    check_problem(other, 422, "snapshot-corrupt")
    replaced = await admin.post(path, content=content, headers=headers)
    assert replaced.status_code == 200, replaced.text
    assert replaced.headers["etag"] == (await admin.get("/v1/tenants/acme")).headers["etag"]
    await service.registry.suspend("acme")
    assert stored_contents(data_dir, "acme") == ["in the bundle"]
    assert scratch(data_dir) == []


async def test_import_under_another_name(service: Service, admin: httpx.AsyncClient):
    """The new tenant's name for people can be given."""
    content = await bundle_of(service)
    response = await admin.post("/v1/tenants/b/import?display_name=B%20Inc.", content=content, headers=GZIP)
    assert response.json()["display_name"] == "B Inc."


async def test_whom_nothing_is_given(service: Service):
    """Exporting is for operators, of tenants that exist; importing likewise."""
    content = await bundle_of(service)
    reader, operator = await service.caller("read"), await service.caller("operate")
    check_problem(await reader.get("/v1/tenants/acme/export"), 403, "scope")
    check_problem(await operator.get("/v1/tenants/none/export"), 404, "tenant-not-found")
    check_problem(await reader.post("/v1/tenants/b/import", content=content, headers=GZIP), 403, "scope")


def damaged(content: bytes) -> dict[str, bytes]:
    """Return what is no bundle any more, by what was done to it."""
    middle = len(content) // 2
    return {
        "empty": b"",
        "of one byte": content[:1],
        "cut in the middle": content[:middle],
        "cut at the end": content[:-1],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "longer": content + b"x",
        "no archive": b"x" * len(content),
    }


async def test_what_is_no_bundle(service: Service, admin: httpx.AsyncClient, data_dir: Path):
    """It is 422, nothing is created, and the answer does not say where on this machine it was put."""
    for how, content in damaged(await bundle_of(service)).items():
        response = await admin.post("/v1/tenants/b/import", content=content, headers=GZIP)
        check_problem(response, 422, "snapshot-corrupt")
        assert str(data_dir) not in response.text, how
        assert await service.registry.find("b") is None, how
    assert scratch(data_dir) == []


async def test_a_bundle_of_another_media_type(service: Service, admin: httpx.AsyncClient):
    """It is 415; the names of media types know no upper and lower case."""
    content = await bundle_of(service)
    for content_type in ("application/octet-stream", "application/json", "nonsense"):
        headers = {"content-type": content_type}
        response = await admin.post("/v1/tenants/b/import", content=content, headers=headers)
        check_problem(response, 415, "unsupported-media-type")
    headers = {"content-type": "Application/GZIP"}
    assert (await admin.post("/v1/tenants/b/import", content=content, headers=headers)).status_code == 201


async def trickle(megabytes: int) -> AsyncIterator[bytes]:
    """Send a body whose size is not told beforehand."""
    for _ in range(megabytes):
        yield bytes(2**20)


@pytest.mark.parametrize(
    ("size", "content"), [("4m", bytes(2**20)), ("80m", bytes(40 * 2**20)), ("80m", trickle(40))]
)
async def test_a_disk_without_space(tmp_path: Path, size: str, content: bytes | AsyncIterator[bytes]):
    """507 before tenants could not write any more, by what a body says of itself or by what comes, and nothing is left."""
    with small_disk(tmp_path / "small", size) as disk:
        data_dir = disk / "data"
        async with (
            TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry,
            Service(registry) as service,
        ):
            admin = await service.caller("admin")
            response = await admin.post("/v1/tenants/b/import", content=content, headers=GZIP)
            check_problem(response, 507, "storage-full")
            assert scratch(data_dir) == []
            assert (await admin.post("/v1/tenants", json={"id": "acme"})).status_code == 201


async def test_a_small_bundle_of_a_large_tenant(service: Service, tmp_path: Path):
    """What it would fill the disk with is known before it is unpacked."""
    await service.registry.create("acme")
    for _ in range(24):
        await service.registry.tenant("acme").messages.save(make_message("x" * 2**20))
    content = (await (await service.caller("operate")).get("/v1/tenants/acme/export")).content
    assert len(content) < 2**20
    with small_disk(tmp_path / "small", "80m") as disk:
        config = RegistryConfig(data_dir=disk / "data")
        async with TenantRegistry(config) as registry, Service(registry) as full:
            admin = await full.caller("admin")
            response = await admin.post("/v1/tenants/b/import", content=content, headers=GZIP)
            check_problem(response, 507, "storage-full")
            assert await registry.find("b") is None


async def test_an_id_that_is_taken_is_said_before_the_bundle_is_read(service: Service):
    """Nobody sends gigabytes for nothing."""
    await service.registry.create("acme")

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    operator = await service.caller("operate")
    problem = check_problem(
        await operator.post("/v1/tenants/acme/import", content=never(), headers=GZIP), 409, "tenant-exists"
    )
    assert problem["tenant_id"] == "acme"


async def test_a_database_with_objects_of_somebodys_own(
    service: Service, admin: httpx.AsyncClient, tmp_path: Path
):
    """It is 422 with their names; tables are accepted by name, from callers with the scope admin."""
    (tmp_path / "acme.tar.gz").write_bytes(await bundle_of(service))
    forge = running("CREATE TABLE notes (word TEXT)")
    content = forged(tmp_path / "acme.tar.gz", forge).read_bytes()
    operator = await service.caller("operate")
    problem = check_problem(
        await operator.post("/v1/tenants/b/import", content=content, headers=GZIP), 422, "foreign-schema"
    )
    assert problem["objects"] == ["table 'notes'"]
    path = "/v1/tenants/b/import?accept_tables=Notes,others"
    check_problem(await operator.post(path, content=content, headers=GZIP), 403, "scope")
    assert (await admin.post(path, content=content, headers=GZIP)).status_code == 201


@asynccontextmanager
async def sending(callers: Sequence[httpx.AsyncClient], count: int) -> AsyncIterator[None]:
    """Have each caller send so many bundles, none of which has come to its end in the block."""
    started = [asyncio.Event() for _ in range(len(callers) * count)]
    ending = asyncio.Event()

    async def slow(begun: asyncio.Event) -> AsyncIterator[bytes]:
        begun.set()
        await ending.wait()
        yield b"x"

    uploads = [
        asyncio.create_task(
            callers[number % len(callers)].post(
                f"/v1/tenants/t{number}/import", content=slow(begun), headers=GZIP
            )
        )
        for number, begun in enumerate(started)
    ]
    for begun in started:
        await begun.wait()
    yield
    ending.set()
    for upload in uploads:
        check_problem(await upload, 422, "snapshot-corrupt")


async def test_too_many_at_once(service: Service, admin: httpx.AsyncClient):
    """There is a limit to how many bundles are on their way; whoever comes then hears when to come again."""
    callers = [await service.caller("operate") for _ in range(TRANSFERS_MAX // TRANSFERS_PER_CALLER_MAX)]
    async with sending(callers, TRANSFERS_PER_CALLER_MAX):
        check_problem(await admin.get("/v1/tenants/acme/export"), 503, "too-many-transfers")
    check_problem(await admin.get("/v1/tenants/acme/export"), 404, "tenant-not-found")


async def test_too_many_of_one_caller(service: Service, admin: httpx.AsyncClient):
    """Others have their turn beside somebody who has very many."""
    caller = await service.caller("operate")
    async with sending([caller], TRANSFERS_PER_CALLER_MAX):
        check_problem(await caller.get("/v1/tenants/acme/export"), 503, "too-many-transfers")
        check_problem(await admin.get("/v1/tenants/acme/export"), 404, "tenant-not-found")
    check_problem(await caller.get("/v1/tenants/acme/export"), 404, "tenant-not-found")


async def test_a_client_that_goes_away_while_it_sends(
    service: Service, data_dir: Path, caplog: pytest.LogCaptureFixture
):
    """Nothing is created, no file is left, and no failure is logged."""
    token = await service.token("operate")
    head = f"POST /v1/tenants/b/import HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/gzip"
    async with served(service.app) as url, asyncio.timeout(HANG_SECONDS):
        _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(f"{head}\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 100_000)
        await until(lambda: scratch(data_dir) != [])
        writer.transport.abort()
        await until(lambda: scratch(data_dir) == [])
    assert await service.registry.find("b") is None
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


@pytest.mark.parametrize("how", ["goes away", "stalls"])
async def test_a_client_that_does_not_take_what_it_asked_for(
    service: Service, data_dir: Path, how: str, caplog: pytest.LogCaptureFixture
):
    """Whether it goes away or stops reading: the bundle is removed, and its file is not open any more."""
    await create_acme(service, megabytes=12)
    token = await service.token("operate")
    hasty = Service(service.registry, bodies=BodyLimits(seconds_max=0.2))
    app = hasty.app if how == "stalls" else service.app
    async with served(app) as url, asyncio.timeout(HANG_SECONDS):
        client = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(
            f"GET /v1/tenants/acme/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        await until(lambda: any(path.endswith("bundle.tar.gz") for path in open_files(data_dir)))
        assert (await asyncio.get_running_loop().run_in_executor(None, client.recv, 12)).startswith(
            b"HTTP/1.1 200"
        )
        if how == "goes away":
            client.close()
        await until(lambda: scratch(data_dir) == [])
        assert not any("scratch" in path for path in open_files(data_dir) if not path.endswith(".lock"))
        client.close()
    failures = {record.message for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}}
    # What the server says when it gives a client up, unless that has gone by then.
    assert failures <= {"ASGI callable returned without completing response."}
