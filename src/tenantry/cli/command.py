"""Turns a function that calls the API into a command with a target, an output and an exit code."""

import gc
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
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

JsonOption = Annotated[bool, typer.Option("--json", help="Print only one JSON document.")]
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
        help="The storage of the directory's snapshots: s3://bucket/prefix, a directory, …. Default: the data directory. "
        f"[{SNAPSHOT_STORAGE}]",
        rich_help_panel=_WHERE,
    ),
]
SchemaOption = Annotated[
    list[str] | None,
    typer.Option(
        "--schema",
        metavar="MODULE:PACK",
        help="A schema pack of the directory's tenants, such as invoices:INVOICES. Repeat the option to list all packs. Default: "
        f"only the built-in pack, {SCHEMAS_DEFAULT}. [{SCHEMAS}, separated by commas]",
        rich_help_panel=_WHERE,
    ),
]
_UrlOption = Annotated[
    str | None,
    typer.Option(help=f"A running service, with the key in {API_KEY}. [{URL}]", rich_help_panel=_WHERE),
]
_QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the key.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


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
    check: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Callable[[Work], Work]:
    """Turn a function into a command. The function's first parameter is the API; its other parameters are the command's own.

    If the type of a parameter is a dataclass, each field of the dataclass becomes an option of the command.

    Args:
        group: The command's group.
        show: Formats the function's result for people.
        question: The question to confirm before the command runs, with arguments in braces; None for no question.
        alone: The only field that ``--quiet`` prints; None for a command without ``--quiet``.
        may_create: Whether the command creates a missing data directory.
        needs_service: Whether the command needs the service's modules even if its target is a data directory.
        is_wrong: Returns whether the function's result reports a failure; if so, the exit code is 1.
        note: Returns a note for people, which is printed on standard error; an empty string for no note.
        check: Gets the command's own arguments before anything is opened; raises `typer.BadParameter` if they cannot be used together.
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
                check(given)
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
    """End the command with an exit code if the block fails, and print the error."""
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
    # The API's clients are imported only when they are needed, because they need an extra and are slow to import.
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
    """Run a coroutine and return its result; first enable the garbage collector, which `tenantry_command` has disabled."""
    import asyncio

    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    return asyncio.run(work)


def ask(question: str) -> None:
    """Ask on the terminal whether to continue.

    Raises:
        CommandError: The answer is no, or standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise CommandError(Exit.USAGE, f"{question} Standard input is not a terminal: confirm with --yes")
    # Typer's own function would print a blank on standard output.
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandError(Exit.REFUSED, "the answer was not yes: nothing was changed")


def _expanded(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield a parameter, or for a dataclass one option for each field."""
    if not is_dataclass(parameter.annotation):
        yield parameter
        return
    for field in fields(parameter.annotation):
        yield _option(field.name, field.type, field.default)


def _gathered(work: Work, given: dict[str, Any]) -> dict[str, Any]:
    """Return a command's arguments, with the options of a dataclass gathered into one object; reverses `_expanded`."""
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
