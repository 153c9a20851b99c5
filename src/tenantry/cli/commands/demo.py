"""``tenantry demo``: runs busy and quiet companies in a small pool, and then checks their data."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from tenantry.cli.arguments import directory
from tenantry.cli.command import ending, run_async
from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.output import print_on_console, print_text
from tenantry.environment import BACKEND
from tenantry.errors import TenantryError

if TYPE_CHECKING:
    from tenantry.demo import DemoResult, DemoSettings, LoadResult
    from tenantry.demo.load import Progress


class DemoBackend(StrEnum):
    """Where the demo keeps its companies."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


def demo(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="The companies' working time.")] = 10.0,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            parser=directory,
            metavar="DIR",
            help="A new or empty data directory, which is kept. Default: a temporary directory.",
        ),
    ] = None,
    quiet_companies: Annotated[int, typer.Option(min=0, max=10_000)] = 200,
    callers: Annotated[
        int, typer.Option(min=1, max=1024, help="The number of callers of each busy company.")
    ] = 64,
    backend: Annotated[
        DemoBackend,
        typer.Option(
            envvar=BACKEND,
            help="Where the companies' data is: in files, or in a PostgreSQL server that the demo starts and ends.",
        ),
    ] = DemoBackend.SQLITE,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Run the same load on one aiosqlite connection for each company, and print both results.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Run busy and quiet companies in a small pool, and then check that no record was lost or mixed up."""
    from tenantry.demo import DemoSettings, run_demo
    from tenantry.demo.report import as_json, print_tables

    _check_empty(data_dir)
    if compare:
        _check_comparable(backend, quiet_companies)
    with ending(is_json=json):
        with _directory(data_dir) as directory, _display(is_shown=not json) as show:
            try:
                with _database(backend, Path(directory).parent) as database:
                    settings = DemoSettings(
                        Path(directory),
                        database,
                        seconds,
                        callers=callers,
                        quiet_companies=quiet_companies,
                    )
                    result = run_async(run_demo(settings, show))
                compared = _compared(settings, result, show) if compare else None
            except TenantryError as error:
                raise CommandError(Exit.USAGE, str(error)) from error
        if json:
            print_text(as_json(result, compared))
        else:
            print_on_console(partial(print_tables, result, compared))
        if not (result.is_whole and (compared is None or compared.is_whole)):
            raise typer.Exit(Exit.REFUSED)


def _database(backend: DemoBackend, directory: Path) -> AbstractContextManager[str | None]:
    """Start the server of the demo on PostgreSQL, and give its URL."""
    if backend is DemoBackend.SQLITE:
        return nullcontext()
    from tenantry.demo.postgres_server import temporary_server

    return temporary_server(directory)


def _check_comparable(backend: DemoBackend, quiet_companies: int) -> None:
    from tenantry.demo.aiosqlite_load import CONNECTIONS_MAX

    if backend is not DemoBackend.SQLITE:
        raise typer.BadParameter(
            "aiosqlite has no PostgreSQL: use the backend sqlite", param_hint="--compare"
        )
    if quiet_companies > CONNECTIONS_MAX:
        raise typer.BadParameter(
            f"each aiosqlite connection has a thread: compare with at most {CONNECTIONS_MAX} quiet companies",
            param_hint="--quiet-companies",
        )


def _compared(
    settings: "DemoSettings", result: "DemoResult", show: "Callable[[Progress], None]"
) -> "LoadResult":
    """Run the same load on aiosqlite, in a temporary directory beside the demo's."""
    from tenantry.demo import run_on_aiosqlite

    beside = settings.data_dir.absolute().parent
    with tempfile.TemporaryDirectory(prefix=".tenantry-demo-", dir=beside) as directory:
        return run_async(run_on_aiosqlite(settings, result.durability, Path(directory), show))


def _check_empty(data_dir: Path | None) -> None:
    try:
        is_empty = data_dir is None or not data_dir.exists() or not any(data_dir.iterdir())
    except OSError as error:
        raise typer.BadParameter(
            f"the directory cannot be used ({error})", param_hint="--data-dir"
        ) from error
    if not is_empty:
        raise typer.BadParameter(
            f"{data_dir} is not empty: give a new or an empty directory", param_hint="--data-dir"
        )


def _directory(given: Path | None) -> AbstractContextManager[str | Path]:
    if given is not None:
        return nullcontext(given)
    # The demo measures durable writes, so it does not use /tmp, which may be in memory.
    return tempfile.TemporaryDirectory(prefix=".tenantry-demo-", dir=Path.cwd())


@contextmanager
def _display(*, is_shown: bool) -> Iterator["Callable[[Progress], None]"]:
    """Show the progress on a terminal, and on standard error, so that standard output contains only the result."""
    columns = (
        TextColumn("[bold]{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    # What is not a terminal would get a copy of the last bar, also after Ctrl-C.
    with ProgressBar(*columns, console=console, disable=not (is_shown and console.is_terminal)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(progress: "Progress") -> None:
            if progress.phase not in tasks:
                tasks[progress.phase] = bar.add_task(progress.phase, total=1.0, figures="")
            figures = f"{progress.writes:,} writes  {progress.reads:,} reads"
            if progress.pool is not None:
                pool = progress.pool
                figures += (
                    f"  {pool.open_tenants} of {pool.open_tenants_max} open  {pool.evictions:,} evicted"
                )
            bar.update(tasks[progress.phase], completed=progress.fraction, figures=figures)

        yield show
