"""The entry point of the command ``tenantry``. Loading the package takes most of a short command's time."""

import gc
import os
import signal
import sys

_UNUSABLE = 2
_INTERRUPTED = 130


def main() -> None:
    """Load and run the command line.

    Ctrl-C while the package loads ends the process immediately, before the command begins. If the extra ``cli`` is not installed,
    an error says what to install.
    """
    # Loaded modules are never garbage, and the collector would spend a fifth of a short command's time on them. `run_async`
    # enables the collector again.
    gc.disable()
    # A process that a shell runs in the background ignores Ctrl-C, and must continue to ignore Ctrl-C.
    was = signal.getsignal(signal.SIGINT)
    if was is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        from tenantry.cli import app  # noqa: PLC0415  # what may be interrupted
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing == "tenantry":
            raise
        sys.stderr.write(
            f"tenantry: the command line needs the package {missing}: pip install 'tenantry[service]'\n"
        )
        sys.exit(_UNUSABLE)

    signal.signal(signal.SIGINT, was)
    app()
