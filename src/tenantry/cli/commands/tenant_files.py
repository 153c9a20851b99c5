"""The commands of ``tenantry tenant`` that read or write files, such as bundles and other programs' databases."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType

from tenantry.cli.arguments import BackendOption, DisplayNameOption, NewIdArgument, TenantArgument
from tenantry.cli.client.api import DATABASE_MEDIA_TYPE, Api, Document, tenant_path
from tenantry.cli.command import command
from tenantry.cli.commands.tenant import group
from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import record

__all__ = ["group"]  # the group has the commands of `tenant` and of this module

_VERSION: Final = re.compile(r"(?:(?P<schema>[a-z][a-z0-9_]*)=)?(?P<version>[0-9]{1,4})")
_AcceptTablesOption = Annotated[
    str | None,
    typer.Option(help="Names of tables to accept although no schema pack has them, separated by commas."),
]


@command(group)
async def export(
    api: Api,
    tenant_id: TenantArgument,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The path of the bundle, a .tar.gz that contains a plain SQLite file."
        ),
    ],
    *,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> Document:
    """Write a bundle of a tenant's current data to a file, while the tenant accepts calls."""
    if path.exists() and not path.is_file():
        raise CommandError(Exit.USAGE, f"{path} is not a regular file: give another path")
    if path.exists() and not is_forced:
        raise CommandError(Exit.USAGE, f"{path} exists: give another path, or replace the file with --force")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CommandError(Exit.USAGE, f"no file can be created in {path.parent}: give another path")
    size_bytes = await api.export(tenant_id, path)
    return {"tenant_id": tenant_id, "path": str(path), "size_bytes": size_bytes}


@command(
    group,
    question="Make the file {path} the database of tenant {tenant_id}? 'tenantry snapshot undo-restore' undoes it.",
)
async def replace_file(
    api: Api,
    tenant_id: TenantArgument,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A plain SQLite file.")
    ],
    *,
    owner: Annotated[
        str | None,
        typer.Option(
            metavar="UID",
            help="The uid of another tenant whose mark the file may have. The mark is replaced by this tenant's uid.",
        ),
    ] = None,
    accept_tables: _AcceptTablesOption = None,
) -> Document:
    """Replace a tenant's database with a plain SQLite file, which is verified first.

    The old database is kept with its log, and `snapshot undo-restore` undoes the replacement.
    """
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            raise CommandError(
                Exit.USAGE,
                f"{path} is not the whole database, because {beside} exists: close the database in all programs, or if both files "
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
    path: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The bundle.")],
    *,
    display_name: DisplayNameOption = None,
    accept_tables: _AcceptTablesOption = None,
    backend: BackendOption = None,
) -> Document:
    """Create a tenant from a bundle, which is verified first. A bundle is refused if it has objects of no schema pack."""
    if not path.is_file():
        raise CommandError(
            Exit.USAGE, f"{path} is not a regular file with a known size: write the bundle to a file first"
        )
    # The check runs before the transfer, because a refusal during a transfer may be lost.
    await api.check_missing(tenant_path(new_id), f"tenant {new_id!r} already exists")
    return await api.upload(
        tenant_path(new_id, "import"),
        path,
        display_name=display_name,
        accept_tables=accept_tables,
        backend=backend,
    )


def _version(text: str) -> tuple[str | None, int]:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not the number of a migration, such as 3 or notes=3")
    return match["schema"], int(match["version"])


def _show_adopted(document: Mapping[str, Any]) -> RenderableType:
    differences = document.get("differences")
    if differences is None:
        return record(document)
    return "\n".join("{object}: {detail}: {advice}".format_map(one) for one in differences) or (
        "the tables are the same as in the schema packs"
    )


@command(
    group, show=_show_adopted, may_create=True, is_wrong=lambda document: bool(document.get("differences"))
)
async def adopt(
    api: Api,
    new_id: NewIdArgument,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="The SQLite file, which is not changed."
        ),
    ],
    *,
    at: Annotated[
        list[Any] | None,
        typer.Option(
            parser=_version,
            metavar="[SCHEMA=]NUMBER",
            help="The last applied migration: a number for the only schema pack, or the pack's name and a number.",
        ),
    ] = None,
    display_name: DisplayNameOption = None,
    accept_tables: _AcceptTablesOption = None,
    backend: BackendOption = None,
    is_dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Compare without creating a tenant. The exit code is 1 if there are differences.",
        ),
    ] = False,
) -> Document:
    """Create a tenant with a copy of another program's database.

    The tables must match the schema packs at the migrations that --at names. Later migrations are then applied.
    """
    return await api.adopt(
        new_id,
        path,
        at=at or (),
        display_name=display_name,
        accepted_tables=list(filter(None, map(str.strip, (accept_tables or "").split(",")))),
        backend=backend,
        is_dry_run=is_dry_run,
    )
