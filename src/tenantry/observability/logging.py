"""Configures logging for the `tenantry` program. A program that uses tenantry as a library configures its own logging."""

import logging
import sys
import traceback
from typing import Any, Final, Literal

import structlog

LIBRARY_LOG: Final = "tenantry.library.log"
"""The name of the event for a message that another library logged."""


def configure_logging(level: str = "info", output: Literal["json", "console"] = "json") -> None:
    """Write log events to standard error.

    Args:
        level: The lowest level to write: ``debug``, ``info``, ``warning`` or ``error``.
        output: The format: ``json`` for JSON lines, ``console`` for people.
    """
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
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


def log_libraries(level: str = "warning") -> None:
    """Write the messages that libraries log through `logging` as events of tenantry.

    For an exception, only the type and the line of code are logged, because the message may contain data of a request.

    Args:
        level: The lowest level to log.
    """
    logging.basicConfig(handlers=[_LibraryLog()], level=level.upper(), force=True)


class _LibraryLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger("tenantry")
        known = {"logger": record.name, "level_name": record.levelname.lower()}
        if record.exc_info and record.exc_info[1] is not None:
            log.error(LIBRARY_LOG, **known, **_error_fields(record.exc_info[1]))
        else:
            log.log(record.levelno, LIBRARY_LOG, **known, said=record.getMessage())


def _error_fields(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    raised_at = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
    return {"error_type": type(error).__name__, "raised_at": raised_at}
