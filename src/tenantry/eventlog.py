"""The one way tenantry writes log events.

Events go to structlog as it is configured by the host. A host that never configured structlog would get every
debug event printed to its standard output, which is structlog's default and no library's business: until it is
configured, only warnings and errors are passed on.
"""

import contextlib
import logging
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import structlog

from tenantry.errors import TenantryError

# Parameters of structlog's own methods, keys that structlog or logging acts on, and keys that a host's processors add.
_RESERVED: Final = frozenset(
    [
        *("event", "method_name", "self"),
        *("exc_info", "exception", "extra", "positional_args", "stack", "stack_info", "stacklevel"),
        *("level", "logger", "timestamp"),
    ]
)
_OF_FAILURES: Final = frozenset(["error", "error_type"])


class EventLog:
    """Writes named events with bound context, at the level the house rules give them.

    Success is debug, a change of state is info, refused input is a warning, a failing driver an error.
    Payloads and secrets are never passed in.

    A key of a caller's data that has another meaning already, in structlog or in the bound context, is written with a
    ``_`` behind it: no key makes a call fail that did its work, and none hides the tenant or the error.
    """

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
        """Write a success."""
        # Checked here, and not left to the logger: this is called for every write and read.
        if structlog.is_configured():
            self._emit("debug", event, data)

    def info(self, event: str, /, **data: object) -> None:
        """Write a change of state."""
        if structlog.is_configured():
            self._emit("info", event, data)

    def warning(self, event: str, /, **data: object) -> None:
        """Write a refusal, or something that an operator should know."""
        self._emit("warning", event, data)

    def error(self, event: str, /, **data: object) -> None:
        """Write a failure."""
        self._emit("error", event, data)

    def failure(self, event: str, error: TenantryError, /, **data: object) -> None:
        """Write a failed call: refused input and refused calls as warnings, a failing driver as an error."""
        is_driver = getattr(error, "code", None) is not None
        level = "error" if is_driver and error.outcome != "duplicate" else "warning"
        fields = {"error": str(error), "error_type": type(error).__name__}
        self._emit(level, event, {**_renamed(data, _OF_FAILURES), **fields})

    def _emit(self, level: str, event: str, data: Mapping[str, object]) -> None:
        """Write the event; a log that cannot be written (a closed pipe, text it cannot encode) must not stop the work."""
        with contextlib.suppress(Exception):
            if self._taken is None:  # most logs, such as those of handles, write nothing
                self._taken = _RESERVED | self._context.keys()
            getattr(self._bound(), level)(event, **_renamed(data, self._taken))

    def _bound(self) -> Any:
        """Return the bound logger; bound once, because binding costs more than a filtered event."""
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


def _renamed(data: Mapping[str, object], taken: AbstractSet[str]) -> Mapping[str, object]:
    if taken.isdisjoint(data):
        return data
    return {f"{key}_" if key in taken else key: value for key, value in data.items()}
