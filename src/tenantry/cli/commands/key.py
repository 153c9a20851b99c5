"""``tenantry key``: API keys of the admin API."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tenantry.cli.arguments import (
    duration_seconds,
    identifier,
    tenant_id,
)
from tenantry.cli.client.api import Api, Document, Paging, api_path
from tenantry.cli.command import command
from tenantry.cli.output import as_text, listing
from tenantry.scope import Scope

group = typer.Typer(name="key", no_args_is_help=True, help="API keys of the admin API.")

_COLUMNS = ("id", "name", "scopes", "tenants", "created_at", "created_by", "expires_at", "revoked_at")


def _made(document: Mapping[str, Any]) -> str:
    """Show the key on a separate line outside of tables, so that it is not wrapped and can be copied."""
    scopes = as_text("scopes", document["scopes"])
    return f"Key {document['id']} ({scopes}). The key is shown only once: the service keeps only its hash.\n\n{document['token']}"


@command(group, show=_made, alone="token", may_create=True)
async def create(
    api: Api,
    *,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="A scope of the key; may be repeated. Default: read.")
    ] = None,
    tenant: Annotated[
        list[str] | None,
        typer.Option(parser=tenant_id, metavar="TENANT", help="Allow only this tenant; may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option(help="The key's name for people.")] = "",
    expires_in: Annotated[
        float | None,
        typer.Option(parser=duration_seconds, metavar="TIME", help="The key's lifetime, such as 12h or 90d."),
    ] = None,
) -> Document:
    """Create a key. The key is shown only once: the service keeps only its hash."""
    body = {
        "name": name,
        "scopes": scope or [Scope.READ],
        "tenants": tenant or None,
        "expires_in_seconds": expires_in,
    }
    return await api.post("/v1/keys", body)


@command(group, show=listing(*_COLUMNS))
async def list_(
    api: Api,
    *,
    paging: Paging,
) -> Document:
    """List keys, oldest first, including expired and revoked keys."""
    return await api.pages("/v1/keys", paging)


@command(group, question="Revoke key {key_id}?")
async def revoke(
    api: Api,
    key_id: Annotated[str, typer.Argument(parser=identifier, metavar="KEY", help="The key's id.")],
) -> Document:
    """Revoke a key, with immediate effect."""
    return await api.delete(api_path("keys", key_id))
