"""``python -m benchmarks [--only NAME] [--quick] [--dir DIR] [--json DIR]``."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.harness import BenchmarkError, Load
from benchmarks.machine import check_is_disk, machine_facts
from benchmarks.report import as_json, as_table
from benchmarks.works import WORKS

_FULL_ROUNDS, _FULL_SECONDS = 5, 1.0
_FILE_COLUMNS = 160
_QUICK_ROUNDS, _QUICK_SECONDS = 3, 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that were asked for and print their tables; return the exit status."""
    options = _parser().parse_args(arguments)
    # A table that a pipe's 80 columns would cut is of no use in a file.
    console = Console() if sys.stdout.isatty() else Console(width=_FILE_COLUMNS)
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _FULL_ROUNDS)
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else _FULL_SECONDS)
    try:
        check_is_disk(options.dir)
        with tempfile.TemporaryDirectory(prefix=".benchmarks-", dir=options.dir) as directory:
            facts = machine_facts(Path(directory))
            with console.status("measuring …") as status:
                load = Load(Path(directory), rounds, seconds, status.update)
                for name in options.only or WORKS:
                    comparisons = WORKS[name](load)
                    console.print(as_table(name, comparisons))
                    if options.json is not None:
                        options.json.mkdir(parents=True, exist_ok=True)
                        (options.json / f"{name}.json").write_text(as_json(name, load, facts, comparisons))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    console.print(facts)
    return 0


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
    return parser


if __name__ == "__main__":
    sys.exit(main())
