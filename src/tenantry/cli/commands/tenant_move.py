"""The command ``tenantry tenant move``, which moves one tenant, or all tenants by a fleet job, to another back end."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType

from tenantry.cli.arguments import tenant_id as parsed_id
from tenantry.cli.client.api import Api, Document, tenant_path
from tenantry.cli.client.target import Target
from tenantry.cli.command import command
from tenantry.cli.commands.fleet import WaitOption, has_failed, wait_for, who_runs
from tenantry.cli.commands.tenant_files import group
from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import listing, record
from tenantry.lifecycle import Permission, states_that_allow

__all__ = ["group"]  # the group has the commands of `tenant`, of `tenant_files` and of this module

STEPS: Final = 9
"""The number of steps of a move, which `tenantry.tenancy.move.phase.STEPS` lists; that module is slow to load."""

_MOVABLE: Final = states_that_allow(Permission.MOVE)
_show_plan: Final = listing("name", "rows", "refusal", items="tables")


def _show(document: Mapping[str, Any]) -> RenderableType:
    return _show_plan(document) if "tables" in document else record(document)


def _is_wrong(document: Document) -> bool:
    is_job = "kind" in document
    return has_failed(document) if is_job else bool(document.get("refusals"))


def _note(target: Target, document: Document) -> str:
    if "kind" in document:
        return who_runs(target, document)
    return "; ".join(document.get("refusals", ()))


@command(group, show=_show, is_wrong=_is_wrong, note=_note)
async def move(
    api: Api,
    tenant_id: Annotated[
        str | None, typer.Argument(parser=parsed_id, metavar="[TENANT]", help="The tenant's id.")
    ] = None,
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="BACKEND",
            help="Where the tenant moves: sqlite, postgres, or another database of the settings.",
        ),
    ],
    is_all: Annotated[
        bool, typer.Option("--all", help="Start a fleet job that moves all tenants that can be moved.")
    ] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the tables, their rows and what cannot be moved.")
    ] = False,
    is_waited_for: WaitOption = False,
) -> Document:
    """Move a tenant to another back end, while its callers keep reading and writing.

    The job of --all is paused, resumed and followed with 'tenantry fleet'. To move tenants in waves, use 'tenantry fleet start move'.
    """
    if is_all == (tenant_id is not None) or (is_all and is_dry_run):
        raise CommandError(Exit.USAGE, "give the id of one tenant, or --all without --dry-run")
    if tenant_id is None:
        job = await api.post("/v1/jobs", {"kind": "move", "states": list(_MOVABLE), "arguments": {"to": to}})
        return await wait_for(api, job["id"]) if is_waited_for else job
    if is_dry_run:
        return await api.get(tenant_path(tenant_id, "move"), to=to)
    return await api.operate(tenant_path(tenant_id, "move"), {"to": to}, steps_max=STEPS)
