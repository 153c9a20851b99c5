"""Arguments and options that several commands share."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tenantry.errors import InvalidTenantIdError
from tenantry.ids import parse_tenant_id

_DURATION: Final = re.compile(r"(?P<count>\d{1,9}(?:\.\d{1,3})?)(?P<unit>[smhd]?)")
# The pattern allows more than this version's own ids, so that ids of another version are accepted too.
_IDENTIFIER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def tenant_id(text: str) -> str:
    """Return a tenant's id.

    Raises:
        BadParameter: The text is not a tenant id.
    """
    try:
        return parse_tenant_id(text)
    except InvalidTenantIdError as error:
        raise typer.BadParameter(str(error)) from error


def directory(text: str) -> Path:
    """Return a directory's path.

    Raises:
        BadParameter: The text is empty, for example because a shell variable is not set.
    """
    if not text:
        raise typer.BadParameter("the path is empty: name a directory")
    return Path(text)


def identifier(text: str) -> str:
    """Return the id of a snapshot, a job or a key, without checking whether the object exists.

    Raises:
        BadParameter: The text is not an id.
    """
    if _IDENTIFIER.fullmatch(text) is None:
        raise typer.BadParameter(f"{text!r} is not an id: give an id from a 'list' command")
    return text


def json_value(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, or has values that only Python accepts: ``NaN``, ``1e999``, lone surrogates.
    """
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def duration_seconds(text: str) -> float:
    """Return the number of seconds of a duration, such as ``90``, ``45s``, ``30m``, ``12h`` or ``7d``.

    Raises:
        BadParameter: The text is not a duration.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is not a duration: use seconds, or a number with s, m, h or d, such as 90d"
        )
    return float(match["count"]) * _UNIT_SECONDS[match["unit"]]


TenantArgument = Annotated[str, typer.Argument(parser=tenant_id, metavar="TENANT", help="The tenant's id.")]
NewIdArgument = Annotated[str, typer.Argument(parser=tenant_id, metavar="NEW_ID", help="The new id.")]
SnapshotArgument = Annotated[
    str, typer.Argument(parser=identifier, metavar="SNAPSHOT", help="The snapshot's id.")
]
DisplayNameOption = Annotated[str | None, typer.Option(help="The tenant's name for people.")]
PrefixOption = Annotated[str | None, typer.Option("--prefix", help="Only tenants with this id prefix.")]
BackendOption = Annotated[
    str | None,
    typer.Option(
        metavar="BACKEND",
        help="Where the tenant's database is: sqlite, postgres, or another database of the settings. Default: the settings' default.",
    ),
]
ReasonOption = Annotated[str | None, typer.Option(help="The reason, for other operators.")]
