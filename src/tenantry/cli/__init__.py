"""The command line: ``tenantry``. Exit codes are in `tenantry.cli.exits`."""

import sys
from typing import Annotated, Final

import typer

from tenantry.cli.application import Application, Commands
from tenantry.cli.commands import (
    audit,
    catalog,
    demo,
    doctor,
    fleet,
    key,
    schema,
    serve,
    snapshot,
    tenant_move,
)
from tenantry.cli.exits import EPILOG
from tenantry.eventlog import EventLog

# Only `demo` and `serve` log for their operators; the other commands print their errors.
_LOG_LEVELS: Final = {"demo": "warning", "serve": "info"}

app = Application(
    name="tenantry",
    cls=Commands,
    no_args_is_help=True,
    help="Stores the data of many tenants, each in a database of its own.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Pretty tracebacks would print the values of variables, such as keys.
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:  # noqa: FBT001  # typer calls it with the option's value
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"tenantry {version('tenantry')}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  # acted on by its callback
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            help="The lowest level of log events on standard error: debug, info, warning or error. Default: info for serve, "
            "warning for demo, no log for other commands."
        ),
    ] = None,
) -> None:
    """Store the data of many tenants, each in a database of its own."""
    name = context.invoked_subcommand or ""
    level = log_level or _LOG_LEVELS.get(name)
    EventLog.is_quiet = level is None
    if level is None:
        return
    from tenantry.observability.logging import configure_logging

    is_service = name == "serve" and not sys.stderr.isatty()
    try:
        configure_logging(level, "json" if is_service else "console")
    except KeyError as error:
        raise typer.BadParameter(f"{log_level!r}: use debug, info, warning or error") from error


for function in (serve.serve, demo.demo, doctor.doctor):
    app.command(epilog=EPILOG)(function)
for group in (
    tenant_move.group,
    snapshot.group,
    fleet.group,
    catalog.group,
    schema.group,
    key.group,
    audit.group,
):
    app.add_typer(group)
