"""Writes all log events of tenantry.

Events go to structlog, which the host program configures. An unconfigured structlog prints every debug event to standard output.
Until the host configures structlog, tenantry therefore writes only warnings and errors, to standard error.
"""

import contextlib
import logging
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Final

from tenantry.errors import TenantryError

# Reserved: structlog's parameters, the keys with a meaning for structlog or logging, and the keys that processors add.
_RESERVED: Final = frozenset(
    [
        *("event", "method_name", "self"),
        *("exc_info", "exception", "extra", "positional_args", "stack", "stack_info", "stacklevel"),
        *("level", "logger", "timestamp"),
    ]
)
_OF_FAILURES: Final = frozenset(["error", "error_type"])


class EventLog:
    """Writes named events with bound context.

    The level is debug for a success, info for a change of state, warning for a refused call, and error for a failure of the
    database driver. Payloads and secrets are never logged.

    If structlog reserves a key of the event's data, or the bound context has the key already, ``_`` is added to the key. A key
    can therefore neither make a call fail nor hide the tenant or the error.

    Attributes:
        is_quiet: Whether to write events only if structlog is configured: short commands print their errors instead.
    """

    is_quiet: ClassVar[bool] = False

    __slots__ = ("_configured", "_context", "_quiet", "_taken")

    def __init__(self, /, **context: object) -> None:
        self._context = _renamed(context, _RESERVED)
        self._taken: AbstractSet[str] | None = None
        self._configured: Any = None
        self._quiet: Any = None

    def bind(self, /, **context: object) -> "EventLog":
        """Return a log that adds `context` to every event."""
        return EventLog(**{**self._context, **context})

    def debug(self, event: str, /, **data: object) -> None:
        """Write an event with the level debug, for a success."""
        # The method runs for every read and write, and this check is faster than the logger's own check.
        if _is_configured():
            self._emit("debug", event, data)

    def info(self, event: str, /, **data: object) -> None:
        """Write an event with the level info, for a change of state."""
        if _is_configured():
            self._emit("info", event, data)

    def warning(self, event: str, /, **data: object) -> None:
        """Write an event with the level warning, for a refused call or a fact that an operator should know."""
        self._emit("warning", event, data)

    def error(self, event: str, /, **data: object) -> None:
        """Write an event with the level error, for a failure."""
        self._emit("error", event, data)

    def failure(self, event: str, error: TenantryError, /, **data: object) -> None:
        """Write the event of a failed call with the level error if the database driver failed, or else with the level warning."""
        is_driver = getattr(error, "code", None) is not None
        level = "error" if is_driver and error.outcome != "duplicate" else "warning"
        fields = {"error": str(error), "error_type": type(error).__name__}
        self._emit(level, event, {**_renamed(data, _OF_FAILURES), **fields})

    def _emit(self, level: str, event: str, data: Mapping[str, object]) -> None:
        """Write the event, and ignore a failure to write the event (a closed pipe, text that cannot be encoded)."""
        if EventLog.is_quiet and not _is_configured():
            return
        with contextlib.suppress(Exception):
            if self._taken is None:  # computed at the first event, because most `EventLog` objects write none
                self._taken = _RESERVED | self._context.keys()
            getattr(self._bound(), level)(event, **_renamed(data, self._taken))

    def _bound(self) -> Any:
        """Return the bound logger; the context is bound only once, because binding takes longer than filtering out an event."""
        import structlog  # noqa: PLC0415  # slow to load

        if structlog.is_configured():
            if self._configured is None:
                self._configured = structlog.get_logger("tenantry").bind(**self._context)
            return self._configured
        if self._quiet is None:
            self._quiet = structlog.wrap_logger(
                structlog.PrintLogger(sys.stderr),
                wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            ).bind(**self._context)
        return self._quiet


def _is_configured() -> bool:
    """Return whether the host has configured structlog; False if structlog is not loaded, or is still loading."""
    is_configured = getattr(sys.modules.get("structlog"), "is_configured", None)
    return is_configured is not None and is_configured()


def _renamed(data: Mapping[str, object], taken: AbstractSet[str]) -> Mapping[str, object]:
    if taken.isdisjoint(data):
        return data
    return {f"{key}_" if key in taken else key: value for key, value in data.items()}
