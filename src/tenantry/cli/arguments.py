"""Arguments and options that several commands have."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tenantry.cli.client.api import PAGE_ITEMS_MAX
from tenantry.errors import InvalidTenantIdError
from tenantry.ids import parse_tenant_id

PAGE_ITEMS_DEFAULT: Final = 100
_DURATION: Final = re.compile(r"(?P<count>\d{1,9}(?:\.\d{1,3})?)(?P<unit>[smhd]?)")
# Wider than any of them is, so that the ids of another version are ids too.
_IDENTIFIER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def tenant_id(text: str) -> str:
    """Return a tenant's id.

    Raises:
        BadParameter: It is none.
    """
    try:
        return parse_tenant_id(text)
    except InvalidTenantIdError as error:
        raise typer.BadParameter(str(error)) from error


def directory(text: str) -> Path:
    """Return a directory's path.

    Raises:
        BadParameter: It is empty, as a variable is that nobody has set: the working directory is not meant by that.
    """
    if not text:
        raise typer.BadParameter("it is empty: name a directory")
    return Path(text)


def identifier(text: str) -> str:
    """Return the id of a snapshot, a job or a key; whether there is one, the service knows.

    Raises:
        BadParameter: It is none.
    """
    if _IDENTIFIER.fullmatch(text) is None:
        raise typer.BadParameter(f"{text!r} is no id: give one as the lists show it")
    return text


def json_value(text: str) -> Any:
    """Return what a text says in JSON.

    Raises:
        ValueError: It is none, or none that others read too: Python also takes ``NaN``, ``1e999`` and halves of characters.
    """
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def duration_seconds(text: str) -> float:
    """Return how many seconds ``90``, ``45s``, ``30m``, ``12h`` or ``7d`` are.

    Raises:
        BadParameter: It is none of these.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is no time: use seconds, or a number with s, m, h or d, such as 90d"
        )
    return float(match["count"]) * _UNIT_SECONDS[match["unit"]]


TenantArgument = Annotated[str, typer.Argument(parser=tenant_id, metavar="TENANT", help="The tenant's id.")]
NewIdArgument = Annotated[str, typer.Argument(parser=tenant_id, metavar="NEW_ID", help="The new id.")]
SnapshotArgument = Annotated[
    str, typer.Argument(parser=identifier, metavar="SNAPSHOT", help="The snapshot's id.")
]
DisplayNameOption = Annotated[str | None, typer.Option(help="For people.")]
PrefixOption = Annotated[str | None, typer.Option("--prefix", help="Only those whose ids begin so.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why; shown to whoever looks at the tenant.")]
LimitOption = Annotated[
    int, typer.Option("--limit", min=1, max=PAGE_ITEMS_MAX, help="How many at most.", metavar="N")
]
CursorOption = Annotated[
    str | None, typer.Option(help="The next_cursor of the page before.", metavar="CURSOR")
]
AllOption = Annotated[bool, typer.Option("--all", help="All of them, not a page.")]
