"""Opens the API of a data directory in this process; needs the extra ``service``."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from tenantry.cli.client.api import TENANTS, Api, Document, tenant_path
from tenantry.cli.client.target import choose_storage, note_other_owner
from tenantry.cli.exits import CommandError, Exit, needs_extra
from tenantry.cli.output import print_note, steps
from tenantry.company import COMPANY
from tenantry.config import SQLITE, RegistryConfig
from tenantry.errors import SettingsError, TenantryError
from tenantry.schemas.schema import Schema
from tenantry.tenancy.registry import TenantRegistry

if TYPE_CHECKING:
    import httpx

_OWNED_ELSEWHERE: Final = "urn:tenantry:problem:tenant-owned-elsewhere"


class _LocalApi(Api):
    """The API of a registry in this process.

    Lists of tenants come directly from the registry, because loading the web framework would take longer than the list. Bundles
    are also written directly by the registry, because httpx would keep a whole bundle in memory.

    Args:
        registry: The registry.
        schemas: The registry's schema packs.
        stack: The exit stack that closes the API and waits for its operations.
    """

    def __init__(self, registry: TenantRegistry, schemas: Sequence[Schema], stack: AsyncExitStack) -> None:
        super().__init__(None, _advise)
        self._registry = registry
        self._schemas = schemas
        self._stack = stack

    async def client(self) -> "httpx.AsyncClient":
        if self._client is None:
            self._client = await self._stack.enter_async_context(_client(self._registry))
        return self._client

    async def get(self, path: str, **query: Any) -> Document:
        found = await self._list_tenants(**query) if path == TENANTS else None
        return found or await super().get(path, **query)

    async def export(self, tenant_id: str, target: Path) -> int:
        with steps(f"export to {target.name}"):
            try:
                await self._registry.export(tenant_id, target, replace=True)
            except TenantryError as error:
                raise self._refused(error) from error
        return (await anyio.Path(target).stat()).st_size

    async def adopt(
        self,
        new_id: str,
        path: Path,
        *,
        at: Sequence[tuple[str | None, int]],
        display_name: str | None,
        accepted_tables: Collection[str],
        backend: str | None,
        is_dry_run: bool,
    ) -> Document:
        """Return the new tenant's record, or a dry run's differences. In `at`, None as a name means the only pack."""
        versions: dict[str, int] = {}
        for name, version in at:
            schema = name or self._only_schema()
            if schema in versions:
                raise CommandError(
                    Exit.USAGE,
                    f"--at names the pack {schema!r} more than once: give one migration for each pack",
                )
            versions[schema] = version
        with steps(f"{'compare' if is_dry_run else 'adopt'} {path.name}"):
            try:
                if is_dry_run:
                    differences = await self._registry.compare_database(
                        path, at=versions, accepted_tables=accepted_tables
                    )
                    return {"differences": [asdict(one) for one in differences]}
                await self._registry.adopt(
                    new_id,
                    path,
                    at=versions,
                    display_name=display_name,
                    accepted_tables=accepted_tables,
                    backend=backend,
                )
            except TenantryError as error:
                raise self._refused(error) from error
        return await self.get(tenant_path(new_id))

    def _refused(self, error: TenantryError) -> CommandError:
        from tenantry.admin.http.problems import problem_of

        return self.refused(problem_of(error))

    def _only_schema(self) -> str:
        """Return the name of the only schema pack, or of the only pack beside the built-in pack."""
        names = [schema.name for schema in self._schemas]
        given = [name for name in names if name != COMPANY.name] if len(names) > 1 else names
        if len(given) != 1:
            raise CommandError(
                Exit.USAGE,
                f"--at needs the name of a pack, because there are several ({', '.join(names)}): --at {given[0]}=3",
            )
        return given[0]

    async def _list_tenants(self, *, limit: int, cursor: str | None, **filters: Any) -> Document | None:
        """Return a page of tenants in the API's form; None for an invalid request, because the API then reports the error."""
        from tenantry.admin.query_digest import cursor_prefix
        from tenantry.admin.schemas import TenantOut, TenantPage

        given = {name: str(value) for name, value in filters.items() if value is not None}
        prefix = cursor_prefix("list_tenants", {}, given.items())
        if cursor is not None and not cursor.startswith(prefix):
            return None
        after = None if cursor is None else cursor.removeprefix(prefix)
        try:
            page = await self._registry.list(limit=limit, cursor=after, **filters)
        except TenantryError:
            return None
        next_cursor = None if page.next_cursor is None else prefix + page.next_cursor
        return TenantPage(items=list(map(TenantOut.of, page)), next_cursor=next_cursor).model_dump(
            mode="json"
        )


def load_service() -> None:
    """Load the service's modules, so that a missing extra or Ctrl-C ends the command before the directory is opened."""
    import_module("httpx")
    import_module("tenantry.admin.app")


@asynccontextmanager
async def _client(registry: TenantRegistry) -> AsyncIterator["httpx.AsyncClient"]:
    with needs_extra():
        import httpx

        from tenantry.admin.app import as_process, create_admin_app

    app = create_admin_app(registry, authenticate=as_process, has_probes=False)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://in-process")
    # At the end of the block the app's lifespan waits for running operations.
    async with app.router.lifespan_context(app), client:
        yield client


@asynccontextmanager
async def in_directory(
    data_dir: Path, storage_url: str | None, schemas: Sequence[Schema], *, may_create: bool
) -> AsyncIterator[Api]:
    """Yield the API of a data directory, and wait for all operations at the end of the block.

    Args:
        data_dir: The directory.
        storage_url: The storage of the snapshots; None for the storage that the environment or the directory names.
        schemas: The schema packs of the tenants.
        may_create: Whether to create a missing directory.

    Raises:
        CommandError: The directory cannot be opened.
    """
    config = RegistryConfig.from_environment(data_dir=data_dir)
    has_catalog = config.catalog_backend == SQLITE
    if has_catalog and not may_create and not _is_there(config.data_dir, "catalog.db"):
        if _is_there(config.data_dir, "tenants"):
            raise CommandError(
                Exit.UNREACHABLE,
                f"{config.data_dir} has no catalog.db: if the catalog is in a PostgreSQL database, set TENANTRY_DATABASE; otherwise stop "
                "all processes that use the directory, and put the newest copy of the file back",
            )
        raise CommandError(
            Exit.UNREACHABLE,
            f"{config.data_dir} is not a data directory: 'tenant create', 'tenant import', 'tenant adopt', 'key create' and 'serve' "
            "create one",
        )
    note_other_owner(config.data_dir)
    storage = choose_storage(storage_url, config.data_dir)
    try:
        registry = TenantRegistry(config, schemas=schemas, snapshot_storage=storage)
        await registry.open()
    except SettingsError:
        raise
    except TenantryError as error:
        raise CommandError(Exit.UNREACHABLE, str(error)) from error
    async with registry, AsyncExitStack() as stack:
        try:
            yield _LocalApi(registry, schemas, stack)
        except asyncio.CancelledError:
            print_note(
                "waiting for the operation; if you interrupt again, the next start finishes the operation"
            )
            raise


def _is_there(data_dir: Path, name: str) -> bool:
    try:
        return (data_dir / name).exists()
    except OSError as error:
        raise CommandError(
            Exit.UNREACHABLE,
            f"the data directory cannot be read ({error}): give another directory, or run this command as the directory's owner",
        ) from error


def _advise(problem: Document) -> str:
    if problem.get("type") == _OWNED_ELSEWHERE:
        return "'tenantry doctor' lists the processes that have the directory open; if that process is a service, use --url"
    return ""
