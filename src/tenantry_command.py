"""The entry point of the command ``tenantry``. Loading the package takes most of a short command's time."""

import gc
import os
import signal
import sys

_UNUSABLE = 2
_INTERRUPTED = 130


def main() -> None:
    """Load the command line and run it.

    Ctrl-C during the loading ends the process at once, before anything has begun. If the extra ``cli`` is not installed, an error says
    what to install.
    """
    # Loaded modules are never garbage, and searching them would take a fifth of a short command's time. `run_async` enables the
    # collector again.
    gc.disable()
    # A process that a shell runs in the background ignores Ctrl-C, and must continue to ignore it.
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
