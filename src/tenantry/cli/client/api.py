"""The commands' client of the admin API, over a network or in this process."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias
from urllib.parse import quote

import typer

from tenantry.cli.client.foreign_responses import foreign_response_error
from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import counting, steps, transfer
from tenantry.errors import SnapshotError, StorageFullError
from tenantry.files.atomic_file import DraftFile, storage_errors

if TYPE_CHECKING:
    import httpx  # only `remote` and `local` import httpx, because the import is slow

Document: TypeAlias = dict[str, Any]

TENANTS: Final = "/v1/tenants"
PAGE_ITEMS_DEFAULT: Final = 100
PAGE_ITEMS_MAX: Final = 1_000
BUNDLE_MEDIA_TYPE: Final = "application/gzip"
DATABASE_MEDIA_TYPE: Final = "application/vnd.sqlite3"
_PART_OF_NO_PATH: Final = {"", ".", ".."}
_CHUNK_BYTES: Final = 256 * 1024
_POLL_SECONDS_MIN: Final = 0.02
_POLL_SECONDS_MAX: Final = 1.0
_KEY_STATUSES: Final = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_LATER_STATUSES: Final = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class Paging:
    """The options of a command that lists items in pages."""

    limit: Annotated[
        int, typer.Option("--limit", min=1, max=PAGE_ITEMS_MAX, help="Maximum number of items.", metavar="N")
    ] = PAGE_ITEMS_DEFAULT
    cursor: Annotated[
        str | None, typer.Option(help="The next_cursor of the previous page.", metavar="CURSOR")
    ] = None
    is_all: Annotated[bool, typer.Option("--all", help="List all items instead of one page.")] = False


class Api:
    """Sends requests and returns the JSON bodies of the responses.

    Args:
        client: The HTTP client; None for a subclass that creates its client on the first request.
        advise: Returns advice for a problem, or an empty string.
    """

    def __init__(self, client: "httpx.AsyncClient | None", advise: Callable[[Document], str]) -> None:
        self._client = client
        self._advise = advise

    async def client(self) -> "httpx.AsyncClient":
        """Return the HTTP client."""
        assert self._client is not None
        return self._client

    async def get(self, path: str, **query: Any) -> Document:
        """Send a GET, and return the JSON body of the response."""
        return await self._ask("GET", path, params=_given(query))

    async def check_missing(self, path: str, message: str) -> None:
        """Check that no resource exists at a path.

        Raises:
            CommandError: A resource exists, or the request was refused.
        """
        if await self.exists(path):
            raise CommandError(Exit.REFUSED, message)

    async def exists(self, path: str) -> bool:
        """Return whether a resource exists at a path."""
        response = await (await self.client()).request("GET", path)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return False
        self._checked(response)
        return True

    async def post(self, path: str, body: Document | None = None) -> Document:
        """Send a POST, and return the JSON body of the response."""
        return await self._ask("POST", path, json=body)

    async def patch(self, path: str, body: Document, headers: dict[str, str]) -> Document:
        """Send a PATCH, and return the JSON body of the response."""
        return await self._ask("PATCH", path, json=body, headers=headers)

    async def delete(self, path: str) -> Document:
        """Send a DELETE, and return the JSON body of the response."""
        return await self._ask("DELETE", path)

    async def operate(
        self, path: str, body: Document | None = None, *, steps_max: int | None = None
    ) -> Document:
        """Start an operation, wait until the operation ends, and return its result.

        Args:
            path: The path of the request that starts the operation.
            body: The request's body.
            steps_max: The number of the operation's steps, for a progress bar; None for an operation without a progress bar.

        Raises:
            CommandError: The operation was refused, or failed.
        """
        import anyio

        operation = await self.post(path, body)
        label = " ".join(filter(None, (operation["action"].replace("_", " "), operation["tenant_id"])))
        with ExitStack() as progress:
            show = progress.enter_context(counting(label)) if steps_max is not None else None
            if show is None:
                progress.enter_context(steps(label))
            for seconds in poll_seconds():
                if show is not None and steps_max is not None:
                    show(len(operation["steps"]), steps_max)
                if operation["state"] != "running":
                    break
                await anyio.sleep(seconds)
                operation = await self.get(api_path("operations", operation["id"]))
        if operation["problem"] is not None:
            raise self.refused(operation["problem"])
        return dict(operation["result"] or {})

    async def pages(self, path: str, paging: Paging, **query: Any) -> Document:
        """Return one page; with `paging.is_all`, return the items of all pages from the cursor on as one page."""
        limit = PAGE_ITEMS_MAX if paging.is_all else paging.limit
        page = await self.get(path, limit=limit, cursor=paging.cursor, **query)
        items = page["items"]
        while paging.is_all and page["next_cursor"] is not None:
            page = await self.get(path, limit=limit, cursor=page["next_cursor"], **query)
            items += page["items"]
        return {"items": items, "next_cursor": page["next_cursor"]}

    async def export(self, tenant_id: str, target: Path) -> int:
        """Write a tenant's bundle to a file, and return its size in bytes. An incomplete file never appears at `target`.

        Raises:
            CommandError: The request was refused, the bundle is incomplete, or the file cannot be written.
        """
        path = tenant_path(tenant_id, "export")
        client = await self.client()
        async with client.stream("GET", path, timeout=None) as response:
            if not response.is_success:
                await response.aread()
                self._checked(response)
            if response.headers.get("content-type") != BUNDLE_MEDIA_TYPE:
                raise foreign_response_error(response)
            bytes_max = int(response.headers["content-length"])
            with _file_errors(f"write {target}"), DraftFile(target) as draft:
                bytes_done = 0
                with transfer(f"export to {target.name}", bytes_max) as show:
                    async for chunk in response.aiter_raw():
                        bytes_done += draft.write(chunk)
                        show(bytes_done)
                if bytes_done != bytes_max:
                    raise CommandError(
                        Exit.REFUSED,
                        f"only {bytes_done:,} of {bytes_max:,} bytes arrived, and no file was written: try again",
                    )
        return bytes_done

    async def adopt(self, *_: Any, **__: Any) -> Document:
        """Create a tenant from another program's database.

        Raises:
            CommandError: The target is a service, not a data directory.
        """
        raise CommandError(
            Exit.USAGE,
            "a service cannot adopt files, because its clients must not name files on its machine: run this command on that "
            "machine, with --data-dir instead of --url",
        )

    async def upload(
        self, path: str, source: Path, *, media_type: str = BUNDLE_MEDIA_TYPE, **query: Any
    ) -> Document:
        """Send a file as the body of a request, and return the result.

        Raises:
            CommandError: The file cannot be read, or the request was refused.
        """
        import anyio

        with _file_errors(f"read {source}"):
            bytes_max = (await anyio.Path(source).stat()).st_size
            headers = {"Content-Type": media_type, "Content-Length": str(bytes_max)}
            with transfer(f"send {source.name}", bytes_max) as show:
                return await self._ask(
                    "POST",
                    path,
                    params=_given(query),
                    headers=headers,
                    content=_chunks(source, show),
                    timeout=None,
                )

    async def _ask(self, method: str, path: str, **options: Any) -> Document:
        response = await (await self.client()).request(method, path, **options)
        return self._checked(response)

    def _checked(self, response: "httpx.Response") -> Document:
        """Return the JSON body of a response; raise if the request was refused."""
        try:
            found = response.json() if response.content else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise foreign_response_error(response)
        if not response.is_success:
            raise self.refused({"status": response.status_code} | found)
        return found

    def refused(self, problem: Document) -> CommandError:
        """Return the error for a refused request, made from the problem in the response."""
        status = problem.get("status")
        exit_code = Exit.REFUSED
        if status in _KEY_STATUSES:
            exit_code = Exit.KEY
        elif problem.get("retry_after_seconds") is not None or status in _LATER_STATUSES:
            exit_code = Exit.LATER
        advice = self._advise(problem)
        message = f"{problem.get('detail', 'refused')}{f' ({advice})' if advice else ''}"
        return CommandError(exit_code, message, problem=problem)


def api_path(*parts: str) -> str:
    """Return a path of the API, with each part quoted.

    Raises:
        CommandError: A part is empty, ``.`` or ``..``. HTTP clients and proxies remove such parts (RFC 3986, section 5.2.4).
    """
    for part in parts:
        if part in _PART_OF_NO_PATH:
            raise CommandError(Exit.USAGE, f"{part!r} is not an id: give an id from a 'list' command")
    return "/".join(("/v1", *(quote(part, safe="") for part in parts)))


def tenant_path(tenant_id: str, *parts: str) -> str:
    """Return the path of a tenant, or of a resource below the tenant."""
    return api_path("tenants", tenant_id, *parts)


def poll_seconds() -> Iterator[float]:
    """Yield the pauses between polls in seconds; each pause is longer than the previous pause, up to a limit."""
    seconds = _POLL_SECONDS_MIN
    while True:
        yield seconds
        seconds = min(seconds * 1.5, _POLL_SECONDS_MAX)


def _given(query: Document) -> Document:
    return {name: value for name, value in query.items() if value is not None}


@contextmanager
def _file_errors(doing: str) -> Iterator[None]:
    try:
        with storage_errors(doing):
            yield
    except (SnapshotError, StorageFullError) as error:
        raise CommandError(Exit.REFUSED, str(error)) from error


async def _chunks(source: Path, show: Callable[[int], None]) -> AsyncIterator[bytes]:
    import anyio

    bytes_done = 0
    async with await anyio.open_file(source, "rb") as file:
        while chunk := await file.read(_CHUNK_BYTES):
            yield chunk
            bytes_done += len(chunk)
            show(bytes_done)
