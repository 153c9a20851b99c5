"""What surrounds every command: what it is given is text, what it prints can be printed, and an interruption is none of its failures."""

import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from tenantry.cli.exits import Exit
from tenantry.cli.output import let_go_of_output, print_note


class Commands(TyperGroup):
    """All commands; refuses what is no text before one of them has it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command line.

        Raises:
            BadParameter: It has bytes that are no text: what Python makes of them fails wherever it is written.
        """
        for argument in args:
            try:
                argument.encode()
            except UnicodeEncodeError as error:
                raise typer.BadParameter(
                    f"{argument!r} is no text in UTF-8: give it in UTF-8, and say that it is with LC_ALL=C.UTF-8 if "
                    "the environment says something else"
                ) from error
        return super().parse_args(ctx, args)


class Application(typer.Typer):
    """The command line as a process runs it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that the process was started with, and end the process."""
        _prepare_output()
        try:
            return super().__call__(*args, **kwargs)
        except KeyboardInterrupt:
            sys.exit(Exit.INTERRUPTED)
        except OSError as error:
            # Of the machine and not of ours: what it says is enough, a traceback would add nothing.
            let_go_of_output()
            print_note(f"cannot go on: {error}")
            sys.exit(Exit.REFUSED)


def _prepare_output() -> None:
    """Have standard output take every character, also where its encoding has no place for it, or it is closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # as long as the process
            setattr(sys, name, nowhere)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
