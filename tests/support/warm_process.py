"""Processes that have imported tenantry already: to import it takes most of the time of a short process.

A process that has imported everything and run nothing waits for orders (`WarmProcess`). For each it forks a process, which gets
arguments, environment, directory and standard streams of its own. It is from then on what ``python -m tenantry``, or ``python -c``
with a script, would be after its imports.

Import it by name (``tests/support`` is on pytest's path): ``from warm_process import warm_process``.
"""

import atexit
import builtins
import gc
import importlib
import io
import json
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Self, TextIO

import typer.main
from coverage import Coverage

import tenantry
from measuring import MEASURED

ORDER_BYTES_MAX = 2**17

_IMPORTED = (
    *("tenantry_command", "others", "stores", "uvicorn"),
    # Libraries import these with their first call. httpcore imports trio if it is installed, which takes 0.1 s.
    *(
        "anyio._backends._asyncio",
        "certifi",
        "encodings.idna",
        "h11",
        "httpcore",
        "importlib.readers",  # a process that becomes another user may not be able to read Python's own files
        "rich._emoji_codes",
        "rich.markdown",
    ),
)

# No command uses them, and to load the first runs the command line.
_NOT_IMPORTED = ("tenantry.__main__", "tenantry.integrations", "tenantry.testing")


class WarmChild:
    """A process that was forked; to be used as a ``subprocess.Popen`` with text streams.

    Attributes:
        args: Its arguments.
        pid: Its number.
        stdin: Its standard input, if it is a pipe.
        stdout: Its standard output, if it is a pipe.
        stderr: Its standard error, if it is a pipe.
        returncode: How it ended; None while it runs.
    """

    def __init__(self, args: Sequence[str], told: BinaryIO) -> None:
        self.args = args
        self.pid = int(told.readline())
        self.stdin: TextIO | None = None
        self.stdout: TextIO | None = None
        self.stderr: TextIO | None = None
        self.returncode: int | None = None
        self._told = told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self.wait()

    def poll(self) -> int | None:
        """Return how it ended, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return how.

        Raises:
            TimeoutExpired: It runs after so many seconds.
        """
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def communicate(self, said: str = "") -> tuple[str, None]:
        """Give it its input, and return its output when it has ended."""
        assert self.stdin is not None
        assert self.stdout is not None
        with suppress(BrokenPipeError):
            self.stdin.write(said)
            self.stdin.close()
        output = self.stdout.read()
        self.wait()
        return output, None

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class WarmProcess:
    """The process that waits for orders; it ends when its owner does.

    Args:
        env: Its environment.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ORDER_BYTES_MAX)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, env=dict(env), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self._socket = ours

    def start(
        self,
        arguments: Sequence[str],
        *,
        streams: Sequence[int],
        env: Mapping[str, str],
        cwd: Path | None = None,
        script: str | None = None,
    ) -> WarmChild:
        """Start a process.

        Args:
            arguments: Its arguments.
            streams: Its standard input, output and error.
            env: Its environment.
            cwd: Its directory; this process's if None.
            script: What it runs; the command line if None.
        """
        order = {
            "script": script,
            "arguments": list(arguments),
            "cwd": str(cwd or Path.cwd()),
            "env": dict(env),
        }
        done, telling = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [*streams, telling])
        finally:
            os.close(telling)
        return WarmChild(arguments, os.fdopen(done, "rb", buffering=0))

    def start_with_pipes(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        script: str | None = None,
        stderr_path: Path | None = None,
    ) -> WarmChild:
        """Start a process whose input is written and whose output is read here.

        Args:
            arguments: Its arguments.
            env: Its environment.
            script: What it runs; the command line if None.
            stderr_path: A new file for its standard error; it has this process's if None.
        """
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        with ExitStack() as stack:
            stack.callback(os.close, theirs_in)
            stack.callback(os.close, theirs_out)
            stderr = 2 if stderr_path is None else stack.enter_context(stderr_path.open("w")).fileno()
            started = self.start(arguments, streams=[theirs_in, theirs_out, stderr], env=env, script=script)
        started.stdin, started.stdout = os.fdopen(ours_in, "w"), os.fdopen(ours_out)
        return started

    def run(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, without a terminal.

        Raises:
            TimeoutExpired: It takes too long, and was killed.
        """
        with (
            Path(os.devnull).open("rb") as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            streams = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
            started = self.start(arguments, streams=streams, env=env, cwd=cwd)
            try:
                code = started.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                started.kill()
                raise
            for output in (stdout, stderr):
                output.seek(0)
            said = [output.read().decode() for output in (stdout, stderr)]
        return subprocess.CompletedProcess(list(arguments), code, *said)


_starting = threading.Lock()


def warm_process(*, is_measured: bool = False) -> WarmProcess:
    """Return what starts processes for this process's tests.

    Args:
        is_measured: Whether their coverage counts, if this process's does.
    """
    with _starting:  # tests start commands in several threads
        return _make_warm_process(is_measured=is_measured)


@cache
def _make_warm_process(*, is_measured: bool) -> WarmProcess:
    # The tenantry that is tested here, wherever another one is installed.
    paths = [str(Path(tenantry.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    measured = MEASURED if is_measured else {}
    return WarmProcess({**os.environ, **measured, "PYTHONPATH": os.pathsep.join(paths)})


def _serve(orders: socket.socket) -> None:
    """Fork a process for each order; return in the processes that are to run one, and at the end."""
    while True:
        text, files, _, _ = socket.recv_fds(orders, ORDER_BYTES_MAX, 4)
        if not text:
            sys.exit()
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
        _reap()
    orders.close()
    *streams, telling = files
    pid = os.fork()
    if pid != 0:  # waits for the command, which is its child
        for stream in streams:
            os.close(stream)
        os.write(telling, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(telling, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(telling)
    _run(json.loads(text), streams)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _run(order: dict[str, Any], streams: list[int]) -> None:
    """Be what was ordered, from here to the end of the process."""
    _take(order, streams)
    try:
        _run_program(order)
    except SystemExit as exited:
        if exited.code is not None and not isinstance(exited.code, int):
            raise
        _end(exited.code or 0)
        raise
    _end(0)


def _end(code: int) -> None:
    """End the process as the interpreter does, but free no memory: that takes longer than a short command.

    Return if an output cannot be written: the interpreter then reports it.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


def _take(order: dict[str, Any], streams: list[int]) -> None:
    """Take the environment, the directory and the standard streams that were ordered."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    random.seed()
    # As the interpreter opens them at its start.
    sys.stdin = io.TextIOWrapper(open(0, "rb"), encoding="utf-8")  # noqa: SIM115  # as long as the process
    sys.stdout = io.TextIOWrapper(open(1, "wb"), encoding="utf-8")  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(
        open(2, "wb"),  # noqa: SIM115
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]  # not final here


def _run_program(order: dict[str, Any]) -> None:
    """Run the script that was ordered, or the command line."""
    if order["script"] is None:
        sys.argv = ["tenantry", *order["arguments"]]
        runpy.run_module("tenantry", run_name="__main__", alter_sys=True)
        return
    sys.argv = ["-c", *order["arguments"]]
    sys.path[:0] = filter(None, order["env"].get("PYTHONPATH", "").split(os.pathsep))
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    exec(compile(order["script"], "<string>", "exec"), main.__dict__)


def _main() -> None:
    # One by one, because packages load their modules when these are first used.
    for module in pkgutil.walk_packages(tenantry.__path__, "tenantry."):
        if not module.name.startswith(_NOT_IMPORTED):
            importlib.import_module(module.name)
    for name in _IMPORTED:
        importlib.import_module(name)
    # To make the tree of commands takes half of a short command's time, and it is the same in each.
    typer.main.get_command = cache(typer.main.get_command)
    typer.main.get_command(importlib.import_module("tenantry.cli").app)
    # What was imported stays: to look through it would copy its pages in each process.
    gc.collect()
    gc.freeze()
    # Each forked process goes on with this one's measurement: it is not to save again what was executed before.
    if (measuring := Coverage.current()) is not None:
        measuring.save()
    _serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    _main()
