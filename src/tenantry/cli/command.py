"""Makes a command of a function that calls the API: its target, its output and its exit code."""

import gc
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import typer

from tenantry.cli.arguments import directory
from tenantry.cli.client.api import Api, Document
from tenantry.cli.client.target import DATA_DIR, Target, choose_target
from tenantry.cli.exits import EPILOG, CommandError, Exit, needs_extra
from tenantry.cli.output import Show, print_document, print_failure, print_note, record
from tenantry.environment import API_KEY, SCHEMAS, SCHEMAS_DEFAULT, SNAPSHOT_STORAGE, URL
from tenantry.errors import SettingsError

T = TypeVar("T")

Work: TypeAlias = Callable[..., Awaitable[Document]]
Group: TypeAlias = typer.Typer

_WHERE: Final = "Where"

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        parser=directory,
        metavar="DIR",
        help=f"The data directory, opened in this process. [{DATA_DIR}]",
        rich_help_panel=_WHERE,
    ),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--snapshot-storage",
        help="Where the directory's snapshots are kept: s3://bucket/prefix, a directory, …; in the data directory if left out. "
        f"[{SNAPSHOT_STORAGE}]",
        rich_help_panel=_WHERE,
    ),
]
SchemaOption = Annotated[
    list[str] | None,
    typer.Option(
        "--schema",
        metavar="MODULE:PACK",
        help="A schema pack of the directory's tenants, such as invoices:INVOICES; may be repeated. Lists all packs: left out, it is "
        f"the built-in one, {SCHEMAS_DEFAULT}. [{SCHEMAS}, separated by commas]",
        rich_help_panel=_WHERE,
    ),
]
_UrlOption = Annotated[
    str | None,
    typer.Option(help=f"A running service; the key is taken from {API_KEY}. [{URL}]", rich_help_panel=_WHERE),
]
_QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the key alone.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def command(
    group: Group,
    *,
    show: Show = record,
    question: str | None = None,
    alone: str | None = None,
    may_create: bool = False,
    needs_service: bool = True,
    is_wrong: Callable[[Document], bool] = lambda _: False,
    note: Callable[[Target, Document], str] = lambda *_: "",
) -> Callable[[Work], Work]:
    """Make a command of a function whose first parameter is the API, and whose other parameters are the command's.

    A parameter whose type is a dataclass stands for its fields: each field is an option of the command.

    Args:
        group: The group that the command is added to.
        show: Formats the function's document for people.
        question: Asked before the command runs, with its arguments in braces; None to ask nothing.
        alone: The field that ``--quiet`` prints alone; None for a command without ``--quiet``.
        may_create: Whether the command creates a missing data directory.
        needs_service: Whether the command, on a data directory, sends requests that the service in this process answers.
        is_wrong: Returns whether the document reports a failure, which is exit code 1.
        note: Returns what people are told beside the document, on standard error; an empty text for nothing.
    """

    def add(work: Work) -> Work:
        def run(
            *,
            url: str | None,
            data_dir: Path | None,
            storage: str | None,
            schema: list[str] | None,
            is_json: bool,
            is_sure: bool = False,
            is_quiet: bool = False,
            **given: Any,
        ) -> None:
            with ending(is_json=is_json):
                target = choose_target(url, data_dir, storage, schema)
                if question is not None and not is_sure:
                    ask(question.format_map(given))
                document = _run(
                    target, work, _gathered(work, given), may_create=may_create, needs_service=needs_service
                )
                shown = (lambda found: str(found[alone])) if is_quiet else show
                print_document(document, shown, is_json=is_json and not is_quiet)
                told = note(target, document)
                if told and not is_json:
                    print_note(told)
                if is_wrong(document):
                    raise typer.Exit(Exit.REFUSED)

        own = [
            one for each in list(inspect.signature(work).parameters.values())[1:] for one in _expanded(each)
        ]
        if question is not None:
            own.append(_option("is_sure", YesOption, default=False))
        if alone is not None:
            own.append(_option("is_quiet", _QuietOption, default=False))
        run.__signature__ = inspect.Signature([*own, *_SHARED])  # type: ignore[attr-defined]  # typer reads it
        run.__doc__ = work.__doc__
        group.command(work.__name__.rstrip("_").replace("_", "-"), epilog=EPILOG)(run)
        return work

    return add


@contextmanager
def ending(*, is_json: bool) -> Iterator[None]:
    """End the command with an exit code if the block fails, and print why."""
    try:
        yield
    except SettingsError as error:
        print_failure(CommandError(Exit.USAGE, str(error)), is_json=is_json)
        raise typer.Exit(Exit.USAGE) from error
    except CommandError as error:
        print_failure(error, is_json=is_json)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(Exit.INTERRUPTED) from error


def _run(
    target: Target, work: Work, given: dict[str, Any], *, may_create: bool, needs_service: bool
) -> Document:
    opened = _opened(target, may_create=may_create, needs_service=needs_service)

    async def main() -> Document:
        async with opened as api:
            return await work(api, **given)

    return run_async(main())


def _opened(target: Target, *, may_create: bool, needs_service: bool) -> AbstractAsyncContextManager[Api]:
    # Imported only when needed: they need an extra, and are slow to import.
    with needs_extra():
        if target.url is not None:
            from tenantry.cli.client.remote import at_service

            return at_service(target.url)
        from tenantry.cli.client.local import in_directory, load_service
        from tenantry.schemas.loading import load_schemas

        if needs_service:
            load_service()
        assert target.data_dir is not None
        return in_directory(
            target.data_dir, target.snapshot_storage, load_schemas(target.schemas), may_create=may_create
        )


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, and return its result; `tenantry_command` has disabled the garbage collector until then."""
    import asyncio

    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    return asyncio.run(work)


def ask(question: str) -> None:
    """Ask at the terminal whether to go on.

    Raises:
        CommandError: The answer is no, or there is no terminal.
    """
    if not sys.stdin.isatty():
        raise CommandError(Exit.USAGE, f"{question} There is no terminal to ask: give --yes")
    # Not typer's own function, which prints a blank on standard output.
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandError(Exit.REFUSED, "nothing was done")


def _expanded(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield a parameter, or the fields of a dataclass in its place: each is an option of the command."""
    if not is_dataclass(parameter.annotation):
        yield parameter
        return
    for field in fields(parameter.annotation):
        yield _option(field.name, field.type, field.default)


def _gathered(work: Work, given: dict[str, Any]) -> dict[str, Any]:
    """Return a command's arguments with the fields of a dataclass gathered into one: the reverse of `_expanded`."""
    gathered = dict(given)
    for parameter in inspect.signature(work).parameters.values():
        if is_dataclass(parameter.annotation) and isinstance(parameter.annotation, type):
            values = {field.name: gathered.pop(field.name) for field in fields(parameter.annotation)}
            gathered[parameter.name] = parameter.annotation(**values)
    return gathered


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_SHARED: Final = (
    _option("url", _UrlOption, None),
    _option("data_dir", DataDirOption, None),
    _option("storage", StorageOption, None),
    _option("schema", SchemaOption, None),
    _option("is_json", JsonOption, default=False),
)
