"""``tenantry tenant``: create, list, change and export tenants, and take them through their lifecycle."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType

from tenantry.cli.arguments import (
    DisplayNameOption,
    NewIdArgument,
    PrefixOption,
    ReasonOption,
    TenantArgument,
    identifier,
    json_value,
)
from tenantry.cli.client.api import DATABASE_MEDIA_TYPE, TENANTS, Api, Document, Paging, tenant_path
from tenantry.cli.command import command
from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import listing, print_note, record
from tenantry.lifecycle import TenantState

_AcceptTablesOption = Annotated[
    str | None,
    typer.Option(help="Tables of no schema pack that the tenant may have: names, separated by commas."),
]

group = typer.Typer(name="tenant", no_args_is_help=True, help="Tenants and their lifecycle.")

_COLUMNS = ("id", "state", "display_name", "schema_versions", "state_changed_at", "busy_with", "reason")
_NONE = "none"
_VERSION: Final = re.compile(r"(?:(?P<schema>[a-z][a-z0-9_]*)=)?(?P<version>[0-9]{1,4})")
LIMITS = (
    *("database_bytes_max", "calls_per_second_max", "calls_burst_max", "calls_in_flight_max"),
    "durability",
)
"""The fields of `tenantry.TenantLimits`, which is slow to load."""


def _limit(text: str) -> tuple[str, object]:
    from pydantic import ValidationError

    from tenantry.limits import TenantLimits

    name, separator, value = text.partition("=")
    if not separator or name not in LIMITS:
        names = ", ".join(LIMITS)
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE with one of {names}")
    if value == _NONE:
        return name, None
    try:
        limit = json_value(value)
    except ValueError:
        limit = value
    try:
        TenantLimits.model_validate({name: limit})
    except ValidationError as error:
        # Only errors of this limit: the service checks it together with the others.
        wrong = [detail["msg"].removeprefix("Value error, ") for detail in error.errors() if detail["loc"]]
        if wrong:
            raise typer.BadParameter(f"{name} cannot be {value[:80]!r}: {'; '.join(wrong)}") from error
    return name, limit


@command(group, may_create=True)
async def create(
    api: Api,
    tenant_id: TenantArgument,
    *,
    display_name: DisplayNameOption = None,
    if_not_exists: Annotated[
        bool,
        typer.Option(
            "--if-not-exists", help="Show the tenant as it is if it exists; refused if it is deleted."
        ),
    ] = False,
) -> Document:
    """Create a tenant with a migrated database."""
    existed = if_not_exists and await api.exists(tenant_path(tenant_id))
    body: Document = {"id": tenant_id, "display_name": display_name}
    tenant = await api.post(TENANTS, body | ({"if_not_exists": True} if if_not_exists else {}))
    if existed:
        print_note(f"{tenant_id} exists already and is {tenant['state']}: nothing was changed")
    return tenant


@command(group, show=listing(*_COLUMNS))
async def list_(
    api: Api,
    *,
    state: Annotated[TenantState | None, typer.Option(help="Only tenants in this state.")] = None,
    prefix: PrefixOption = None,
    paging: Paging,
) -> Document:
    """List tenants, ordered by id."""
    return await api.pages(TENANTS, paging, state=state, id_prefix=prefix)


@command(group)
async def get(api: Api, tenant_id: TenantArgument) -> Document:
    """Show a tenant's record in the catalog."""
    return await api.get(tenant_path(tenant_id))


@command(group)
async def update(
    api: Api,
    tenant_id: TenantArgument,
    *,
    display_name: DisplayNameOption = None,
    is_protected: Annotated[
        bool | None,
        typer.Option("--protect/--no-protect", help="Whether the tenant is protected from being deleted."),
    ] = None,
    limit: Annotated[
        list[Any] | None,
        typer.Option(
            parser=_limit,
            metavar="NAME=VALUE",
            help=f"Set a limit, or remove it with NAME={_NONE}; other limits stay. Names: "
            f"{', '.join(LIMITS)}.",
        ),
    ] = None,
    revision: Annotated[
        int | None, typer.Option("--if-revision", help="Only if the tenant is still at this revision.")
    ] = None,
) -> Document:
    """Change a tenant's settings and limits, with immediate effect."""
    changes: Document = {"display_name": display_name, "deletion_protected": is_protected}
    if limit:
        # The API replaces all limits, so they are read first; the revision refuses the change if they differ by then.
        tenant = await api.get(tenant_path(tenant_id))
        changes["limits"] = tenant["limits"] | dict(limit)
        revision = tenant["revision"] if revision is None else revision
    headers = {} if revision is None else {"If-Match": f'"{revision}"'}
    return await api.patch(tenant_path(tenant_id), changes, headers)


@command(group)
async def suspend(api: Api, tenant_id: TenantArgument, *, reason: ReasonOption = None) -> Document:
    """Refuse a tenant's calls; its data is kept."""
    return await api.post(tenant_path(tenant_id, "suspend"), {"reason": reason})


@command(group)
async def resume(api: Api, tenant_id: TenantArgument) -> Document:
    """Let a suspended tenant serve calls again."""
    return await api.post(tenant_path(tenant_id, "resume"))


@command(group)
async def archive(api: Api, tenant_id: TenantArgument, *, reason: ReasonOption = None) -> Document:
    """Close a tenant for a long time: its database becomes one compacted file."""
    return await api.operate(tenant_path(tenant_id, "archive"), {"reason": reason})


@command(group)
async def unarchive(api: Api, tenant_id: TenantArgument) -> Document:
    """Let an archived tenant serve calls again."""
    return await api.post(tenant_path(tenant_id, "unarchive"))


@command(group, question="Delete tenant {tenant_id}? Its calls are refused from now on.")
async def delete(api: Api, tenant_id: TenantArgument) -> Document:
    """Refuse a tenant's calls and begin its grace period, in which it can be undeleted."""
    return await api.delete(tenant_path(tenant_id))


@command(group)
async def undelete(api: Api, tenant_id: TenantArgument) -> Document:
    """Return a deleted tenant to its state before the deletion."""
    return await api.post(tenant_path(tenant_id, "undelete"))


@command(group, question="Remove the files and the snapshots of tenant {tenant_id} permanently?")
async def purge(
    api: Api,
    tenant_id: TenantArgument,
    *,
    is_forced: Annotated[bool, typer.Option("--force", help="Purge even within the grace period.")] = False,
) -> Document:
    """Remove a deleted tenant's files and snapshots permanently."""
    return await api.operate(tenant_path(tenant_id, "purge"), {"force": is_forced})


@command(group)
async def rename(api: Api, tenant_id: TenantArgument, new_id: NewIdArgument) -> Document:
    """Give a tenant another id; its data, files and snapshots stay where they are."""
    return await api.post(tenant_path(tenant_id, "rename"), {"new_id": new_id})


@command(group)
async def clone(
    api: Api,
    tenant_id: TenantArgument,
    new_id: NewIdArgument,
    *,
    snapshot: Annotated[
        str | None,
        typer.Option(
            parser=identifier,
            metavar="SNAPSHOT",
            help="The snapshot to clone; the present data if left out.",
        ),
    ] = None,
    display_name: DisplayNameOption = None,
) -> Document:
    """Create a tenant with another tenant's data."""
    body = {"new_id": new_id, "snapshot_id": snapshot, "display_name": display_name}
    return await api.operate(tenant_path(tenant_id, "clone"), body)


@command(group)
async def quarantine(api: Api, tenant_id: TenantArgument, *, reason: ReasonOption = None) -> Document:
    """Quarantine an active tenant: its calls are refused until it is repaired or restored."""
    return await api.post(tenant_path(tenant_id, "quarantine"), {"reason": reason})


@command(group)
async def repair(api: Api, tenant_id: TenantArgument) -> Document:
    """Check a quarantined tenant's database, repair what can be repaired, and let it serve again."""
    before = await api.get(tenant_path(tenant_id))
    repaired = await api.operate(tenant_path(tenant_id, "repair"))
    if repaired["revision"] == before["revision"]:
        print_note(
            f"{tenant_id} is {repaired['state']}: nothing was checked or repaired; to check it: "
            f"tenantry fleet start check --tenant {tenant_id} --wait"
        )
    return repaired


@command(group)
async def statistics(api: Api, tenant_id: TenantArgument) -> Document:
    """Show a tenant's size and, while the service (or with --data-dir this command) has it open, its counters."""
    return await api.get(tenant_path(tenant_id, "statistics"))


@command(group, show=listing("tenant_id", "calls_per_second"))
async def top(
    api: Api, *, limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 10
) -> Document:
    """List the tenants with the most calls over the last minute, in the service's own process."""
    return await api.get("/v1/statistics/top", limit=limit)


@command(group)
async def export(
    api: Api,
    tenant_id: TenantArgument,
    path: Annotated[Path, typer.Argument(help="The bundle: a .tar.gz with a plain SQLite file in it.")],
    *,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> Document:
    """Write a bundle of a tenant's present data into a file, while the tenant serves calls."""
    if path.exists() and not path.is_file():
        raise CommandError(Exit.USAGE, f"{path} is not a regular file: give another path")
    if path.exists() and not is_forced:
        raise CommandError(Exit.USAGE, f"{path} exists: give another path, or --force")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CommandError(
            Exit.USAGE, f"{path.parent} is not a directory in which files can be created: give another path"
        )
    size_bytes = await api.export(tenant_id, path)
    return {"tenant_id": tenant_id, "path": str(path), "size_bytes": size_bytes}


@command(
    group,
    question="Make the file {path} the database of tenant {tenant_id}? 'tenantry snapshot undo-restore' undoes it.",
)
async def replace_file(
    api: Api,
    tenant_id: TenantArgument,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A plain SQLite file.")],
    *,
    owner: Annotated[
        str | None,
        typer.Option(
            metavar="UID",
            help="The uid of another tenant that the file may be marked with; the file becomes this tenant's.",
        ),
    ] = None,
    accept_tables: _AcceptTablesOption = None,
) -> Document:
    """Replace a tenant's database by a plain SQLite file, which is verified first.

    The old database is kept with its log: `snapshot undo-restore` undoes the replacement.
    """
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            raise CommandError(
                Exit.USAGE,
                f"{beside} is beside the file, so the file is not the whole database: close the database, or if the two "
                f"belong together run sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'",
            )
    return await api.upload(
        tenant_path(tenant_id, "replace-file"),
        path,
        media_type=DATABASE_MEDIA_TYPE,
        owner=owner,
        accept_tables=accept_tables,
    )


@command(group, may_create=True)
async def import_(
    api: Api,
    new_id: NewIdArgument,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The bundle.")],
    *,
    display_name: DisplayNameOption = None,
    accept_tables: _AcceptTablesOption = None,
) -> Document:
    """Create a tenant from a bundle, which is verified first.

    A bundle whose database has objects of no schema pack is refused with their names.
    """
    if not path.is_file():
        raise CommandError(
            Exit.USAGE, f"{path} is not a regular file with a known size: write the bundle to a file first"
        )
    # Before the bundle is sent: a refusal during the transfer may be lost.
    await api.check_missing(tenant_path(new_id), f"tenant {new_id!r} exists already")
    return await api.upload(
        tenant_path(new_id, "import"), path, display_name=display_name, accept_tables=accept_tables
    )


def _version(text: str) -> tuple[str | None, int]:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a migration: use its number, such as 3, or notes=3")
    return match["schema"], int(match["version"])


def _show_adopted(document: Mapping[str, Any]) -> RenderableType:
    differences = document.get("differences")
    if differences is None:
        return record(document)
    return "\n".join("{object}: {detail}: {advice}".format_map(one) for one in differences) or (
        "the tables are what the schema packs make"
    )


@command(
    group, show=_show_adopted, may_create=True, is_wrong=lambda document: bool(document.get("differences"))
)
async def adopt(
    api: Api,
    new_id: NewIdArgument,
    path: Annotated[Path, typer.Argument(help="The database: a file of SQLite, which is not changed.")],
    *,
    at: Annotated[
        list[Any] | None,
        typer.Option(
            parser=_version,
            metavar="[SCHEMA=]NUMBER",
            help="The last migration that the database has: a number for the only schema pack, or the pack's name and a number.",
        ),
    ] = None,
    display_name: DisplayNameOption = None,
    accept_tables: _AcceptTablesOption = None,
    is_dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only compare, and create no tenant; exit code 1 with differences."),
    ] = False,
) -> Document:
    """Create a tenant with a copy of a database that another program made.

    Its tables are compared with what the schema packs make at the named migrations. Later migrations are applied.
    """
    return await api.adopt(
        new_id,
        path,
        at=at or (),
        display_name=display_name,
        accepted_tables=list(filter(None, map(str.strip, (accept_tables or "").split(",")))),
        is_dry_run=is_dry_run,
    )
