"""Commands as processes that have loaded already: to load the command line takes most of a short command's time.

A process that has imported everything and run nothing waits for orders (`WarmProcess`). For each command it forks a process, which
gets the command's arguments, environment, directory and standard streams, and is from then on what ``python -m tenantry`` would
be after its imports.

Import it by name (``tests`` is on pytest's path): ``from warm_process import WarmProcess``.
"""

import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ORDER_BYTES_MAX = 2**17


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

    def run(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, without a terminal.

        Raises:
            TimeoutExpired: It takes too long, and was killed.
        """
        order = json.dumps({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}).encode()
        done, telling = os.pipe()
        with (
            os.fdopen(done, "rb") as told,
            Path(os.devnull).open("rb") as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            files = [stdin.fileno(), stdout.fileno(), stderr.fileno(), telling]
            socket.send_fds(self._socket, [order], files)
            os.close(telling)
            pid = int(told.readline())
            if not select.select([told], [], [], timeout_seconds)[0]:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, timeout_seconds)
            code = int(told.readline())
            for output in (stdout, stderr):
                output.seek(0)
            said = [output.read().decode() for output in (stdout, stderr)]
        return subprocess.CompletedProcess(list(arguments), code, *said)


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
    _become(json.loads(text), streams)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _become(order: dict[str, object], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    env, cwd, arguments = order["env"], order["cwd"], order["arguments"]
    assert isinstance(env, dict)
    assert isinstance(cwd, str)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["tenantry", *arguments]
    # As the interpreter opens them at its start.
    sys.stdout = io.TextIOWrapper(open(1, "wb"), encoding="utf-8")  # noqa: SIM115  # as long as the process
    sys.stderr = io.TextIOWrapper(
        open(2, "wb"),  # noqa: SIM115
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def _main() -> None:
    for module in ("admin", "cli.client.local", "cli.client.remote", "doctor"):
        importlib.import_module(f"tenantry.{module}")
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("tenantry", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
