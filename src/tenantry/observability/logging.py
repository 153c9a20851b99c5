"""How tenantry logs when it is the program, and not a library in someone else's."""

import logging
import sys
from typing import Literal

import structlog


def configure_logging(level: str = "info", output: Literal["json", "console"] = "json") -> None:
    """Write events of `level` and above to standard error, as JSON lines or for people.

    A program that embeds tenantry configures structlog itself and does not call this.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        output: ``json``, or ``console`` for people.
    """
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if output == "console"
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
