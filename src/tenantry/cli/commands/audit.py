"""``tenantry audit``: who did what to which tenant."""

from typing import Annotated

import typer

from tenantry.cli.arguments import (
    identifier,
    tenant_id,
)
from tenantry.cli.client.api import Api, Document, Paging
from tenantry.cli.command import command
from tenantry.cli.output import listing

group = typer.Typer(name="audit", no_args_is_help=True, help="Who did what to which tenant.")


@command(group, show=listing("seq", "at", "principal", "action", "tenant_id", "outcome", "detail"))
async def list_(
    api: Api,
    *,
    tenant: Annotated[
        str | None,
        typer.Option(
            parser=tenant_id,
            metavar="TENANT",
            help="Only rows in which the tenant had this id; an earlier tenant with this id has rows here too.",
        ),
    ] = None,
    tenant_uid: Annotated[
        str | None,
        typer.Option(
            parser=identifier,
            metavar="UID",
            help="Only rows of the tenant with this uid, whatever its id was then; `tenant get` shows it.",
        ),
    ] = None,
    paging: Paging,
) -> Document:
    """List operations, newest first, also those that failed or that the tenant's state refused.

    A request that was refused before its operation began, such as one that its key does not allow, is not in the audit.
    """
    return await api.pages("/v1/audit", paging, tenant_id=tenant, tenant_uid=tenant_uid)


@command(group, is_wrong=lambda found: not found["is_intact"])
async def verify(api: Api) -> Document:
    """Compute the hash chain again, and find the first row that was altered, removed or inserted."""
    return await api.get("/v1/audit/verification")
