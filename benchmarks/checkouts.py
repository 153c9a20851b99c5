"""``python -m benchmarks.checkouts OLD NEW [--slices N] [--seconds S] [--dir DIR]``: what calls cost in two checkouts of tenantry.

OLD and NEW are directories with a checkout and its ``.venv``. A process of each has a tenant open, and the two call in turn for a fraction
of a second each. So a machine that is busy for some seconds slows both down, and the medians of the ratios differ by 1 or 2%. The processor
time of a call is the most exact of the three measures, and the rate the least.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final

_MEASURES: Final = {"cpu": "processor µs of a call", "p50": "p50 µs", "rate": "calls/s"}
_SETTINGS: Final = (("get", 1), ("get", 64), ("save", 1), ("save", 64))
_TASKS: Final = 200
_WARM_UP_SLICES: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the two checkouts, and print a line for each setting and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkouts", description="calls in two checkouts"
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--slices", type=int, default=60, help="of each checkout, for each setting (60)")
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a slice is (0.1)")
    parser.add_argument("--dir", type=Path, default=Path(), help="on which disk (the current directory's)")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        old, new = (stack.enter_context(_caller(one, options.dir)) for one in (options.old, options.new))
        for what, callers in _SETTINGS:
            command = {"what": what, "callers": callers, "seconds": options.seconds}
            samples = [_in_turn(old, new, command, old_is_first=bool(n % 2)) for n in range(options.slices)]
            for measure, words in _MEASURES.items():
                print(_line(f"{what}, {callers} callers, {words}", samples[_WARM_UP_SLICES:], measure))
    return 0


def _in_turn(
    old: subprocess.Popen[str],
    new: subprocess.Popen[str],
    command: dict[str, Any],
    *,
    old_is_first: bool,
) -> tuple[dict[str, float], dict[str, float]]:
    if old_is_first:
        ours = _ask(old, command)
        return ours, _ask(new, command)
    theirs = _ask(new, command)
    return _ask(old, command), theirs


def _line(setting: str, samples: Sequence[tuple[dict[str, float], dict[str, float]]], measure: str) -> str:
    old, new = ([pair[side][measure] for pair in samples] for side in (0, 1))
    ratios = [later / earlier for earlier, later in zip(old, new, strict=True)]
    least, _, most = quantiles(ratios, n=4)
    return (
        f"{setting:45} old {median(old):10.1f}  new {median(new):10.1f}  new/old {median(ratios):.3f} "
        f"(quartiles {least:.2f}-{most:.2f})"
    )


@contextmanager
def _caller(checkout: Path, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run this file with the code of a checkout."""
    python = checkout.resolve() / ".venv" / "bin" / "python"
    command = [str(python), str(Path(__file__).resolve()), str(directory.resolve())]
    with subprocess.Popen(
        command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def _ask(process: subprocess.Popen[str], command: dict[str, Any]) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()
    answer: dict[str, float] = json.loads(process.stdout.readline())
    return answer


async def _call(directory: Path) -> None:
    """Call a tenant as the lines of the standard input say, with the code of the checkout that is the current directory."""
    sys.path.insert(0, str(Path.cwd()))
    # Imported late, because the modules are those of the checkout.
    from benchmarks.harness import Caller, Load, measure  # noqa: PLC0415
    from benchmarks.peers.message_row import message_builder  # noqa: PLC0415
    from benchmarks.peers.task_row import build_tasks, task_id_picker  # noqa: PLC0415
    from benchmarks.peers.tenantry_registry import open_tenantry  # noqa: PLC0415

    tasks = build_tasks(_TASKS)
    with TemporaryDirectory(prefix=".benchmarks-", dir=directory) as data_dir:
        async with open_tenantry(Path(data_dir), tasks) as store:
            calling = {
                "save": Caller(message_builder(), store.save),
                "get": Caller(task_id_picker(tasks), store.get),
            }
            while line := await asyncio.to_thread(sys.stdin.readline):
                command = json.loads(line)
                load = Load(directory, rounds=1, seconds=command["seconds"])
                began = _cpu_seconds()
                measured = await measure([calling[command["what"]]] * command["callers"], load)
                cpu_seconds = _cpu_seconds() - began
                sample = measured.sample(None)
                assert not measured.failed, sample.first_error
                answer = {
                    "cpu": cpu_seconds / measured.answered * 1e6,
                    "p50": (sample.p50_seconds or 0.0) * 1e6,
                    "rate": sample.calls_per_second,
                }
                print(json.dumps(answer), flush=True)


def _cpu_seconds() -> float:
    """Return the processor time of all threads of this process, more exactly than `os.times` does."""
    nanoseconds = 0
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has ended since
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


if __name__ == "__main__":
    if __spec__ is None:  # started by `_caller` as a file
        asyncio.run(_call(Path(sys.argv[1])))
    else:
        sys.exit(main())
