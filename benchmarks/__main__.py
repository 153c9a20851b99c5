"""``python -m benchmarks [--only NAME] [--quick] [--dir DIR] [--json DIR] [--charts DIR]``."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from benchmarks.charts import draw_curve
from benchmarks.harness import BenchmarkError, Load
from benchmarks.machine import check_is_disk, machine_facts
from benchmarks.report import as_json, as_table, verdict_table
from benchmarks.verdict import Outcome
from benchmarks.works import WORKS

_FULL_ROUNDS, _FULL_SECONDS = 5, 1.0
_QUICK_ROUNDS, _QUICK_SECONDS = 3, 0.25
_FILE_COLUMNS = 240


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that were asked for and print their tables; return the exit status."""
    options = _parser().parse_args(arguments)
    # So that what is held is given back: a PostgreSQL server would go on running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A table that a pipe's 80 columns would cut is of no use in a file.
    console = Console() if sys.stdout.isatty() else Console(width=_FILE_COLUMNS)
    try:
        check_is_disk(options.dir)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    load = Load(
        options.dir,
        rounds=options.rounds or (_QUICK_ROUNDS if options.quick else _FULL_ROUNDS),
        seconds=options.seconds or (_QUICK_SECONDS if options.quick else _FULL_SECONDS),
        is_quick=options.quick,
    )
    started = time.perf_counter()
    with TemporaryDirectory(prefix=".benchmarks-", dir=options.dir) as directory:
        facts = machine_facts(Path(directory))
    outcomes: list[Outcome] = []
    failed: list[str] = []
    for name in options.only or WORKS:
        try:
            outcome = _run(name, load, console)
        except Exception as error:  # noqa: BLE001  # one that fails must not cost the results of the others
            failed.append(name)
            print(f"benchmarks: {name}: {_in_words(error)}", file=sys.stderr)
        else:
            outcomes.append(outcome)
            _write(outcome, load, facts, options)
            console.print(as_table(outcome))
    console.print(verdict_table(outcomes))
    facts["minutes"] = round((time.perf_counter() - started) / 60, 1)
    console.print(facts)
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, load: Load, console: Console) -> Outcome:
    work = WORKS[name]
    with (
        TemporaryDirectory(prefix=".benchmarks-", dir=load.directory) as directory,
        ExitStack() as resources,
        console.status("measuring …") as status,
    ):
        load = replace(
            load,
            directory=Path(directory),
            progress=lambda words: status.update(f"{name}: {words}"),
            resources=resources,
            made={},
        )
        comparisons = work.run(load)
        curve = work.curve(load) if work.curve is not None and not load.is_quick else ()
    return Outcome(name, work, comparisons, curve)


def _write(outcome: Outcome, load: Load, facts: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json is not None:
        options.json.mkdir(parents=True, exist_ok=True)
        (options.json / f"{outcome.name}.json").write_text(as_json(outcome, load, facts))
    if options.charts is not None and outcome.curve:
        draw_curve(outcome, options.charts)


def _in_words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="tenantry beside its peers")
    parser.add_argument("--only", action="append", choices=list(WORKS), help="run this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="few short rounds: does it run, not how fast")
    parser.add_argument("--rounds", type=int, help=f"how many alternating rounds ({_FULL_ROUNDS})")
    parser.add_argument(
        "--seconds", type=float, help=f"how long one side runs in a round ({_FULL_SECONDS:g})"
    )
    parser.add_argument("--dir", type=Path, default=Path(), help="on which disk (the current directory's)")
    parser.add_argument("--json", type=Path, metavar="DIR", help="write DIR/NAME.json for each benchmark")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="draw the cost curves; not with --quick")
    return parser


if __name__ == "__main__":
    sys.exit(main())
