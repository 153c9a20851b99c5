"""``tenantry schema``: the schema packs that the tenants have."""

from typing import Annotated

import typer

from tenantry.cli.client.api import Api, Document, api_path
from tenantry.cli.command import command
from tenantry.cli.output import listing

group = typer.Typer(name="schema", no_args_is_help=True, help="Schema packs that the tenants have.")


def _schema_name(text: str) -> str:
    from pydantic import TypeAdapter, ValidationError

    from tenantry.texts import SchemaName

    try:
        return TypeAdapter(SchemaName).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(
            f"{text!r} is not the name of a schema pack: give a name from 'schema list'"
        ) from error


_NameArgument = Annotated[
    str, typer.Argument(parser=_schema_name, metavar="SCHEMA", help="The schema pack's name.")
]


@command(group, show=listing("name", "recorded_at", "is_missing"))
async def list_(api: Api) -> Document:
    """List the schema packs of the tenants. A pack that --schema does not name is listed as missing."""
    return await api.get("/v1/schemas")


@command(
    group,
    question="Forget the schema pack {name}? The tenants keep its tables, and new tenants will not get them.",
)
async def forget(api: Api, name: _NameArgument) -> Document:
    """Remove a missing pack from the list: then tenants can be created and migrated without the pack. Its tables are kept."""
    return await api.delete(api_path("schemas", name))
