"""The command line as a whole: handles arguments that are not UTF-8, unusable output, and interruptions."""

import io
import os
import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import discard_output, print_failure, print_note

_UsageError: Final[Any] = typer.BadParameter.__bases__[0]
"""The base class of all usage errors, which has no public name in typer."""
_IS_JSON: Final = "tenantry.is_json"


class Commands(TyperGroup):
    """All commands. Arguments that are not UTF-8 are refused. With ``--json`` a usage error is printed as one line of JSON."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line.

        Raises:
            BadParameter: An argument is not UTF-8. Python decodes invalid bytes to characters that cannot be written.
        """
        for argument in args:
            try:
                argument.encode()
            except UnicodeEncodeError as error:
                raise typer.BadParameter(
                    f"{argument!r} is not valid UTF-8: use UTF-8, with LC_ALL=C.UTF-8 if the locale has another "
                    "encoding"
                ) from error
        ctx.meta[_IS_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the command line names.

        Raises:
            UsageError: The command line is not valid; typer prints the error for people.
            Exit: The command line is not valid, and the error was printed as JSON.
        """
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            # Pydantic, with which typer checks values, adds this prefix to a message.
            error.message = error.message.replace("Value error, ", "")
            if not ctx.meta[_IS_JSON]:
                raise
            print_failure(CommandError(Exit.USAGE, error.format_message()), is_json=True)
            raise typer.Exit(Exit.USAGE) from error


class Application(typer.Typer):
    """The command line of a process."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the process's command, and end the process."""
        _prepare_output()
        try:
            return super().__call__(*args, **kwargs)
        except KeyboardInterrupt:
            sys.exit(Exit.INTERRUPTED)
        except OSError as error:
            # For an operating system's error the message is enough, without a traceback.
            discard_output()
            print_note(f"cannot continue: {error}")
            sys.exit(Exit.REFUSED)


def _prepare_output() -> None:
    """Make standard output accept every character, even if the encoding lacks the character or the output is closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # open until the process ends
            setattr(sys, name, nowhere)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
