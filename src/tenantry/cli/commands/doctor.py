"""``tenantry doctor``: examines a data directory."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tenantry.cli.client.target import choose_data_dir, choose_storage, name_schemas
from tenantry.cli.command import DataDirOption, JsonOption, SchemaOption, StorageOption, ending, run_async
from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import plain, print_document

_STYLES: Final = {"ok": "green", "note": "yellow", "wrong": "bold red"}
_SUBJECTS_SHOWN: Final = 5
_OPEN_TENANTS_SHOWN: Final = 20


def doctor(
    *,
    data_dir: DataDirOption = None,
    storage_url: StorageOption = None,
    schema: SchemaOption = None,
    is_json: JsonOption = False,
) -> None:
    """Examine a data directory, which may be in use, without changing anything.

    List problems with their remedies, the processes that have the directory open, and the open tenants with their owners.
    """
    from tenantry.config import RegistryConfig
    from tenantry.doctor import examine
    from tenantry.schemas.loading import load_schemas

    with ending(is_json=is_json):
        config = RegistryConfig.from_environment(data_dir=choose_data_dir(data_dir))
        storage = choose_storage(storage_url, config.data_dir)
        schemas = load_schemas(name_schemas(schema))
        try:
            report = run_async(examine(config, schemas=schemas, snapshot_storage=storage))
        except OSError as error:
            raise CommandError(
                Exit.UNREACHABLE,
                f"cannot read everything in {config.data_dir} ({error}): give another directory, or run this command as the owner",
            ) from error
        print_document(report.model_dump(mode="json"), _show, is_json=is_json)
        if not report.is_ok:
            raise typer.Exit(Exit.REFUSED)


def _show(report: Mapping[str, Any]) -> RenderableType:
    shown = [_findings(report["findings"])]
    if report["processes"]:
        shown.append(_processes(report["processes"]))
    if report["open_tenants"]:
        shown.append(_open_tenants(report["open_tenants"]))
    return Group(*shown)


def _findings(findings: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("check", "", "found", "to do", box=box.SIMPLE_HEAD, pad_edge=False)
    for finding in findings:
        subjects = finding["subjects"][:_SUBJECTS_SHOWN]
        more = " …" if len(finding["subjects"]) > _SUBJECTS_SHOWN else ""
        named = f"\n{plain(', '.join(subjects))}{more}" if subjects else ""
        level = Text(finding["level"], style=_STYLES[finding["level"]])
        table.add_row(
            finding["check"], level, Text(plain(finding["found"]) + named), Text(plain(finding["to_do"]))
        )
    return table


def _processes(processes: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("process", "number", "host", "state", "version", "open since", "socket", "tenants")
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for one in processes:
        since = one["open_since"]
        opened = "" if since is None else f"{datetime.fromisoformat(since):%Y-%m-%d %H:%M:%S} UTC"
        cells = (
            one["pid"],
            one["number"],
            one["host"],
            one["state"],
            one["version"],
            opened,
            one["socket_name"],
        )
        table.add_row(*map(_cell, cells), f"{one['owned_tenants']:,}")
    return table


def _open_tenants(tenants: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("open tenant", "owner", "host", "socket", box=box.SIMPLE_HEAD, pad_edge=False)
    for one in tenants[:_OPEN_TENANTS_SHOWN]:
        cells = (one["tenant_id"], one["pid"], one["host"], one["socket_name"])
        table.add_row(*map(_cell, cells))
    more = len(tenants) - _OPEN_TENANTS_SHOWN
    if more > 0:
        table.caption = f"{more:,} more open tenants: --json lists all"
    return table


def _cell(value: object) -> Text:
    return Text("-" if value in {None, ""} else plain(str(value)))
