"""Prints the output of commands: one JSON document for programs, tables for people, and progress on standard error."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from typing import Any, Final, TypeAlias

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from tenantry.cli.exits import CommandError, Exit

Show: TypeAlias = Callable[[Mapping[str, Any]], RenderableType]
"""Formats a command's result for people; a string is printed unchanged."""

_PIPE_COLUMNS: Final = 200
"""The width of tables in a pipe, which is large so that ids are not wrapped."""

_LABEL: Final = TextColumn("{task.description}")
_KIBI: Final = 1024.0
_FOUR_DIGITS_MAX: Final = 10_000
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def print_document(document: Mapping[str, Any], show: Show, *, is_json: bool) -> None:
    """Print a command's result on standard output; for people, note on standard error that more pages follow."""
    shown = _as_json(document) if is_json else show(document)
    if isinstance(shown, str):
        print_text(shown)
    else:
        print_on_console(lambda console: console.print(shown))
    if not is_json and document.get("next_cursor"):
        print_note(f"more items follow: use --all, or --cursor {document['next_cursor']} for the next page")


def print_on_console(render: Callable[[Console], object]) -> None:
    """Print on standard output the text that a function renders on a console; raise the errors of `print_text`."""
    has_width = sys.stdout.isatty() or os.environ.get("COLUMNS")
    console = Console(width=None if has_width else _PIPE_COLUMNS)
    with console.capture() as captured:  # if rich wrote to a closed pipe, rich would end the process
        render(console)
    print_text(captured.get().removesuffix("\n"))


def print_text(text: str) -> None:
    """Print a text on standard output; ignore a pipe that its reader has closed.

    Raises:
        CommandError: The output cannot be written.
    """
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        raise CommandError(
            Exit.REFUSED,
            f"the operation succeeded, but its result could not be printed ({os.strerror(error.errno or 0)}): free some space, "
            "or use another output",
        ) from error


def discard_output() -> None:
    """Redirect standard output to /dev/null: writing the rest of the buffer would fail again when the process ends."""
    with suppress(OSError, ValueError):  # standard output is closed, or a test has replaced it
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())


def print_failure(error: CommandError, *, is_json: bool) -> None:
    """Print the error of a command on standard error, as a sentence or as one line of JSON."""
    _say(json.dumps(error.problem) if is_json else f"tenantry: {plain(str(error))}")


def print_note(text: str) -> None:
    """Print a note for people on standard error."""
    _say(f"tenantry: {plain(text)}")


def _say(line: str) -> None:
    with suppress(OSError):  # standard error is closed, but the exit code still reports the error
        typer.echo(line, err=True)


def _as_json(document: Mapping[str, Any]) -> str:
    # A result may contain control characters from any client. Escaping these characters does not change the JSON's meaning.
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if not text.replace("\n", "").isprintable():
        text = "".join(map(_escaped, text))
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(document, indent=2)
    return text


def _escaped(character: str) -> str:
    """Return a character of a JSON text, or its escape (RFC 8259, section 7) if the character is not printable."""
    # A line break separates fields; line breaks inside strings are already escaped.
    if character.isprintable() or character == "\n":
        return character
    return json.dumps(character)[1:-1]


def listing(*columns: str, items: str = "items") -> Show:
    """Return a formatter that shows the items of a command's result as the rows of a table.

    Args:
        columns: The names of the shown fields, in this order.
        items: The name of the result's field that contains the items.
    """

    def show(document: Mapping[str, Any]) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            is_number = column.endswith(("_bytes", "_second", "_seconds")) or column in {"seq", "revision"}
            table.add_column(_heading(column), justify="right" if is_number else "left", overflow="fold")
        for item in document[items]:
            table.add_row(*(Text(as_text(column, item.get(column))) for column in columns))
        return table

    return show


def record(document: Mapping[str, Any]) -> RenderableType:
    """Format a command's result as a table with a row for each field."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in document.items():
        table.add_row(_heading(name), Text(as_text(name, value)))
    return table


def as_text(name: str, value: Any) -> str:
    """Format a field's value for people, with the unit that the field's name contains."""
    if isinstance(value, list):
        return ", ".join(as_text(name, one) for one in value)
    if isinstance(value, dict):
        return "  ".join(f"{plain(key)}={as_text(key, one)}" for key, one in value.items() if one is not None)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if "_bytes" in name:
            return _size(value)
        if name == "pid":  # is copied into other commands, such as kill
            return str(value)
        is_measured = isinstance(value, float) and not name.endswith("_max") and abs(value) < _FOUR_DIGITS_MAX
        return f"{value:,.4g}" if is_measured else f"{value:,.10g}"
    return _word(name, value)


def _word(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "at" or name.endswith(("_at", "_after")):
        return _time(str(value))
    return plain(str(value))


def plain(text: str) -> str:
    """Replace the characters of a text that could control the terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def steps(label: str) -> AbstractContextManager[object]:
    """Show a spinner on the terminal during the block."""
    return _progress(label, SpinnerColumn(), _LABEL, TimeElapsedColumn())


def transfer(label: str, bytes_max: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show the progress of a transfer on the terminal; the block gets a function that takes the number of transferred bytes."""
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    return _progress(label, _LABEL, *columns, total=bytes_max)


def counting(label: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Show a count on the terminal; the block gets a function that takes the finished and the total number."""
    count = TextColumn("{task.completed:,.0f} of {task.total:,.0f}")
    return _progress(label, _LABEL, BarColumn(), count, TimeElapsedColumn(), total=0)


@contextmanager
def _progress(
    label: str, *columns: ProgressColumn, total: int | None = None
) -> Iterator[Callable[..., None]]:
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(plain(label), total=total)
        yield lambda done, of=total: progress.update(task, completed=done, total=of)


def _heading(name: str) -> str:
    return name.removesuffix("_bytes").removesuffix("_at").replace("_", " ")


def _size(count: float) -> str:
    power = 0
    while count >= _KIBI and power < len(_UNITS) - 1:
        count /= _KIBI
        power += 1
    return f"{count:,.{min(power, 1)}f} {_UNITS[power]}"


def _time(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}Z"
    except ValueError:
        return plain(text)
