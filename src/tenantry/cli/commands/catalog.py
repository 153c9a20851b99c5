"""``tenantry catalog``: the catalog, the durable list of tenants."""

from dataclasses import asdict
from typing import Annotated

import typer

from tenantry.cli.client.target import choose_data_dir
from tenantry.cli.command import DataDirOption, JsonOption, YesOption, ask, ending, run_async
from tenantry.cli.exits import EPILOG, CommandError, Exit
from tenantry.cli.output import counting, print_document, print_note, record
from tenantry.errors import SettingsError, TenantryError

group = typer.Typer(name="catalog", no_args_is_help=True, help="The catalog, the durable list of tenants.")


@group.callback()
def _catalog() -> None:
    """Keep the group a group: typer would make a group with one command that command."""


@group.command(epilog=EPILOG)
def move(
    to: Annotated[
        str,
        typer.Option(
            metavar="BACKEND",
            help="The back end that gets the catalog: postgres (the database of TENANTRY_DATABASE), sqlite (the data directory), or "
            "the name of a database of TENANTRY_DATABASES__….",
        ),
    ],
    *,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check whether the move is possible, and change nothing.")
    ] = False,
    is_sure: YesOption = False,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Move the catalog to another back end; the tenants stay where they are. All services must be stopped first.

    If the move is interrupted, repeat it: until it is complete, the old catalog remains the catalog, or the command says so.
    """
    from tenantry.config import RegistryConfig
    from tenantry.tenancy.catalog_move.move import Observer
    from tenantry.tenancy.catalog_move.run import (
        has_storage_elsewhere,
        move_catalog,
        place_of,
        setting_after,
        source_name,
    )

    with ending(is_json=is_json):
        config = RegistryConfig.from_environment(data_dir=choose_data_dir(data_dir))
        try:
            if not is_sure and not is_dry_run:
                here = place_of(config, source_name(config, to))
                ask(
                    f"Move the catalog from {here} to the back end {to}? Stop all services that use the catalog first."
                )
            with counting("copying rows") as progress:
                observer = Observer(report_rows=progress)
                report = run_async(move_catalog(config, to, is_dry_run=is_dry_run, observer=observer))
        except SettingsError:
            raise
        except TenantryError as error:
            raise CommandError(Exit.REFUSED, str(error)) from error
        print_document({**asdict(report), "setting": setting_after(report)}, record, is_json=is_json)
        if not is_json:
            print_note(f"{'after the move' if is_dry_run else 'now'}: {setting_after(report)}")
            if has_storage_elsewhere(config.data_dir):
                print_note(
                    "then run 'tenantry snapshot claim-storage': the catalog's database owns the storage"
                )
