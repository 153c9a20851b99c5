"""``tenantry audit``: lists and verifies the audit log of operations."""

from typing import Annotated

import typer

from tenantry.cli.arguments import (
    identifier,
    tenant_id,
)
from tenantry.cli.client.api import Api, Document, Paging
from tenantry.cli.command import command
from tenantry.cli.output import listing

group = typer.Typer(name="audit", no_args_is_help=True, help="List and verify the audit log of operations.")


@command(group, show=listing("seq", "at", "principal", "action", "tenant_id", "outcome", "detail"))
async def list_(
    api: Api,
    *,
    tenant: Annotated[
        str | None,
        typer.Option(
            parser=tenant_id,
            metavar="TENANT",
            help="Only rows in which a tenant had this id. Several tenants may have had the same id.",
        ),
    ] = None,
    tenant_uid: Annotated[
        str | None,
        typer.Option(
            parser=identifier,
            metavar="UID",
            help="Only rows of the tenant with this uid, even under a former id. `tenant get` shows the uid.",
        ),
    ] = None,
    paging: Paging,
) -> Document:
    """List operations, newest first, including operations that failed or that a tenant's state refused.

    Requests that are refused before an operation begins, for example because of their key, are not in the audit.
    """
    return await api.pages("/v1/audit", paging, tenant_id=tenant, tenant_uid=tenant_uid)


@command(group, is_wrong=lambda found: not found["is_intact"])
async def verify(api: Api) -> Document:
    """Verify the audit's hash chain, and find the first row that was altered, removed or inserted."""
    return await api.get("/v1/audit/verification")
