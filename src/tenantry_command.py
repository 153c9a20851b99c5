"""The command ``tenantry`` from its first moment on. To load the package takes most of a short command's time."""

import gc
import os
import signal
import sys

_UNUSABLE = 2
_INTERRUPTED = 130


def main() -> None:
    """Load the command line and run it.

    Ctrl-C while it is loaded ends the process at once, with nothing begun. Without the extra ``cli``, a sentence says what to install.
    """
    # What is loaded stays: looking for garbage in it would take a fifth of a short command's time. `run_async` enables it again.
    gc.disable()
    # A shell lets what it runs in the background ignore Ctrl-C: that stays so.
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
