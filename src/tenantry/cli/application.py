"""The command line as a whole: arguments that are not UTF-8, output that cannot be printed, and interruptions."""

import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from tenantry.cli.exits import Exit
from tenantry.cli.output import discard_output, print_note


class Commands(TyperGroup):
    """All commands; refuses arguments that are not UTF-8 before a command gets them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command line.

        Raises:
            BadParameter: An argument is not UTF-8. Python's replacement for such bytes fails wherever it is written.
        """
        for argument in args:
            try:
                argument.encode()
            except UnicodeEncodeError as error:
                raise typer.BadParameter(
                    f"{argument!r} is not valid UTF-8: give it in UTF-8, with LC_ALL=C.UTF-8 if the locale has another "
                    "encoding"
                ) from error
        return super().parse_args(ctx, args)


class Application(typer.Typer):
    """The command line as a process runs it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the process's command, and end the process."""
        _prepare_output()
        try:
            return super().__call__(*args, **kwargs)
        except KeyboardInterrupt:
            sys.exit(Exit.INTERRUPTED)
        except OSError as error:
            # An error of the machine: a traceback would add nothing to its message.
            discard_output()
            print_note(f"cannot continue: {error}")
            sys.exit(Exit.REFUSED)


def _prepare_output() -> None:
    """Make standard output accept every character, even if its encoding lacks it or the output is closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # as long as the process
            setattr(sys, name, nowhere)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
